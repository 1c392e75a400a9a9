"""MedPix 2.0: CT and MR images of teaching cases with captions (Siragusa et al. 2024, arXiv 2407.02994).

Only what describes the image is read: caption, modality, plane and body part, from `splitted_dataset/
descriptions_*.jsonl`. The case's history, examination and diagnosis, and the patient's age and sex, stay in the files.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from data_pipelines.core.errors import MissingField
from data_pipelines.core.json_files import row_lines, text_field
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import begin_split, row_object

CARD = DataCard(
    name="medpix",
    title="MedPix 2.0",
    about="CT and MR images of the MedPix teaching cases, each with a caption, modality, plane and body part.",
    paper="Siragusa et al., Data Science and Engineering (2025), doi 10.1007/s41019-025-00297-8, arXiv 2407.02994",
    url="https://github.com/CHILab1/MedPix-2.0",
    licence="not stated in the repository; MedPix itself is the U.S. National Library of Medicine's, whose terms apply",
    layout="splitted_dataset/descriptions_{train,train_1,train_2,dev,test}.jsonl and images/*.png, under the folder "
    "MedPix-2-0 of the release or its parent",
    splits={"train": Count(), "train_1": Count(), "train_2": Count(), "dev": Count(), "test": Count()},
    traps=(
        "train is train_1 and train_2 together: train on it or on them, not both. Where descriptions_train.jsonl is "
        "missing, the two are read in its place.",
        'Some captions were never written: "IN PROGRESS", "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS.". '
        "They are left out.",
        "The images of a case often share one caption, which then describes the case rather than each image.",
        'Captions mention the patient now and then ("78-year-old man"): an age in a caption is taken out, but prose '
        "cannot be searched for everything.",
        "Figures speak of arrows that may or may not be burned into the image.",
        "VQA-RAD's images come from MedPix too, under the same synpic numbers: compare before testing on VQA-RAD what "
        "was trained on this set.",
        'The location "Left Blank" is a form\'s placeholder, and is carried as none.',
    ),
)

_NO_CAPTION = re.compile(
    r"^(in progress|replace this\b.*|none|n/?a|no caption|null|\W*)\W*$", re.IGNORECASE | re.DOTALL
)
# "a 78-year-old man", "14 y/o female", "6 month old": the age, which identifies more than it describes.
_AGE = re.compile(
    r"\b\d{1,3}[\s-]*(?:years?|yrs?|y|months?|mos?|weeks?|wks?|days?)(?:[\s/.-]*(?:o\b|old\b)\.?)[\s-]*", re.IGNORECASE
)
_PLACEHOLDER_LOCATION = "Left Blank"


def load(root: str, split: str) -> SourceSplit:
    """One caption an image; `content_type` is the image's plane, its body part the location category.

    Left out, counted and named in a logged warning: captions whose image is not in the folder, captions that were never
    written, and further descriptions of an image that has one.

    Raises:
      DataError: no such folder or split; a file that is missing.
      MalformedRows: lines are not JSON objects, or lack the image's name, description or modality.
    """
    found = begin_split(CARD, root, split)
    if os.path.isdir(inner := os.path.join(root, "MedPix-2-0")):
        root = inner

    def take(where: str, row: Any) -> None:
        entry = row_object(row, where)
        name = text_field(entry, "image", where).removesuffix(".png")
        description = entry.get("Description")
        if not isinstance(description, dict):
            raise MissingField(
                f"{where}: field 'Description' is {type(description).__name__}; expected an object",
                fault="field 'Description' is no object",
            )
        caption = _AGE.sub("", _text(description, "Caption", where)).strip()
        file = os.path.join(root, "images", f"{name}.png")
        if not (file := found.file(file, f"{name}.png")):
            return
        if (unwritten := _NO_CAPTION.match(caption)) or name in found.images:
            found.left_out.add("caption not written" if unwritten else "image described before", name)
            return
        modality, part = _modality(text_field(entry, "Type", where)), _text(entry, "Location Category", where)
        image = found.image(file, name, modality=modality, body_part=part)
        labels = _labels(entry, description, where)
        found.caption(image, caption, content_type=_text(description, "Plane", where), labels=labels)

    found.each(_descriptions(root, split), take)
    return found.finished()


def _labels(entry: dict[str, Any], description: dict[str, Any], where: str) -> tuple[str, ...]:
    """The protocol ("CT w/contrast (IV)"), the place ("Chest, Pulmonary") and its category ("Thorax"), where given."""
    of_entry = (_text(entry, field, where) for field in ("Location", "Location Category"))
    given = (_text(description, "Modality", where), *of_entry)
    return tuple(dict.fromkeys(label for label in given if label and label != _PLACEHOLDER_LOCATION))


def _modality(kind: str) -> str:
    """The files write "CT" and "MR"; some of them "TAC" and "MRI"."""
    return {"MR": "MRI", "TAC": "CT"}.get(kind.upper(), kind.upper())


def _text(entry: dict[str, Any], field: str, where: str) -> str:
    """A field that may be missing or null. Raises: DataError: it is neither text nor a number."""
    return "" if entry.get(field) is None else text_field(entry, field, where, may_be_empty=True)


def _descriptions(root: str, split: str) -> Iterator[tuple[str, Any]]:
    """The rows of the split's file, as `row_lines`; of train_1 and train_2 where train has none of its own."""
    pattern = os.path.join(root, "splitted_dataset", "descriptions_{}.jsonl")
    halves = split == "train" and not os.path.isfile(pattern.format(split))
    for name in ("train_1", "train_2") if halves else (split,):
        yield from row_lines(pattern.format(name))


SOURCE = Source(CARD, load)
