"""ROCOv2: radiological figures of PubMed Central articles with captions and concepts (Rückert et al. 2024).

Each caption is one example of task "caption". The image's UMLS concepts are its `labels`, by their names; the modality
is read from the concepts that people assigned (`*_concepts_manual.csv`).
"""

import os
from pathlib import Path

from data_pipelines.core.errors import MissingField, MissingFile
from data_pipelines.core.json_files import single_blanks, text_field
from data_pipelines.core.text_files import numbered_rows, read_rows
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import SplitBuilder, begin_split

CARD = DataCard(
    name="roco_v2",
    title="ROCOv2 (Radiology Objects in COntext, version 2)",
    about="Radiological figures of open-access articles in PubMed Central, with their captions and UMLS concepts.",
    paper="Rückert et al., Scientific Data 11, 688 (2024), doi 10.1038/s41597-024-03496-6, arXiv 2405.10004",
    url="https://zenodo.org/records/8333645",
    licence="each image under the Creative Commons licence of its article, listed in license_information.csv",
    layout="{train,valid,test}_captions.csv, _concepts.csv and _concepts_manual.csv, cui_mapping.csv, "
    "license_information.csv; train_images.zip, valid_images.zip and test_images.zip unpacked to train_images/, "
    "valid_images/ and test_images/ (or, as the archives name their inner folder, to train/, valid/ and test/)",
    splits={
        "train": Count(59958, 59958),
        "valid": Count(9904, 9904),
        "test": Count(9927, 9927),
    },
    traps=(
        "The counts are the paper's (79,789 images). An earlier release holds 80,080: 60,163, 9,945 and 9,972.",
        "The challenge editions (ImageCLEFmedical Caption) hold other selections of the same images.",
        "PMC-VQA and LLaVA-Med draw on the same articles: compare images before testing on one set what was trained "
        "on another.",
        "Captions tell what the figure does not show: ages, histories, other panels, arrows in colours that a "
        "grey copy has lost.",
        "Concepts in *_concepts.csv were extracted by a program; only those in *_concepts_manual.csv were assigned by "
        "people, and they name modality, body region and direction alone.",
    ),
)

_IMAGE_FOLDERS = ("{0}_images", "{0}_images/{0}", "{0}")
# The modality concepts of the manual files; an image with several is left without a modality.
_MODALITIES = {
    "C0040405": "CT",
    "C1306645": "X-Ray",
    "C0024485": "MRI",
    "C0041618": "Ultrasound",
    "C0002978": "Angiography",
    "C0032743": "PET",
    "C1699633": "PET/CT",
}


def load(root: str, split: str) -> SourceSplit:
    """One caption an image. `labels` hold the names of the image's concepts, by `cui_mapping.csv`, manual ones first.

    Left out, counted and named in a logged warning: captions whose image is not in the folder, and empty ones. A
    concept that the mapping lacks is no label; how many there are, is logged too.

    Raises:
      DataError: no such folder or split; a file that is missing, is not CSV in UTF-8, or lacks a column.
      MalformedRows: rows name no image, or a concept without its name.
    """
    found = begin_split(CARD, root, split)
    names = _concept_names(os.path.join(root, "cui_mapping.csv"), found)
    manual = _concepts(os.path.join(root, f"{split}_concepts_manual.csv"))
    extracted = _concepts(os.path.join(root, f"{split}_concepts.csv"))
    folder = _image_folder(root, split)

    def take(where: str, row: dict[str, str]) -> None:
        name, caption = text_field(row, "ID", where), single_blanks(row["Caption"])
        if not caption:
            found.left_out.add("no caption", name)
            return
        file = os.path.join(folder, f"{name}.jpg")
        if not (file := found.file(file, f"{name}.jpg")):
            return
        concepts = list(dict.fromkeys([*manual.get(name, ()), *extracted.get(name, ())]))
        for unnamed in (concept for concept in concepts if concept not in names):
            found.left_out.add("concept not in cui_mapping.csv", unnamed)
        modalities = [_MODALITIES[concept] for concept in manual.get(name, ()) if concept in _MODALITIES]
        image = found.image(file, name, modality=modalities[0] if len(modalities) == 1 else "")
        found.caption(image, caption, labels=tuple(names[concept] for concept in concepts if concept in names))

    found.each(numbered_rows(os.path.join(root, f"{split}_captions.csv"), ("ID", "Caption")), take)
    return found.finished()


def _image_folder(root: str, split: str) -> str:
    """The folder that holds the split's .jpg files: how deep it lies depends on how its archive was unpacked."""
    tried = [os.path.join(root, pattern.format(split)) for pattern in _IMAGE_FOLDERS]
    for folder in tried:
        if any(Path(folder).glob("*.jpg")):
            return folder
    raise MissingFile(f"roco_v2: no images in {' or '.join(tried)}; unpack {split}_images.zip there")


def _concepts(path: str) -> dict[str, list[str]]:
    """Image → its concept identifiers, which the file joins with semicolons."""
    return {
        row["ID"].strip(): [cui.strip() for cui in row["CUIs"].split(";") if cui.strip()]
        for row in read_rows(path, ("ID", "CUIs"))
    }


def _concept_names(path: str, found: SplitBuilder) -> dict[str, str]:
    """Concept identifier → name. The name's column is the second, which releases head differently."""
    names = {}

    def take(where: str, row: dict[str, str]) -> None:
        others = [value for column, value in row.items() if column and column != "CUI"]
        if not others or not (name := single_blanks(others[0])):
            raise MissingField(
                f"{where}: concept {row['CUI']!r} has no name; is it the published file?", fault="a concept has no name"
            )
        names[row["CUI"].strip()] = name

    found.each(numbered_rows(path, ("CUI",)), take)
    return names


SOURCE = Source(CARD, load)
