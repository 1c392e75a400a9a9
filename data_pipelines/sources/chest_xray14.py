"""ChestX-ray14: frontal chest films with 14 findings read from their reports, and boxes on a few (Wang et al. 2017).

Each finding of a split is asked about on as many films without it as films with it, which a generator seeded by the
finding and the split draws. The boxes become the films' regions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from PIL import Image

from data_pipelines.core.csv_files import read_rows
from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import require_folder
from data_pipelines.core.seeding import rng_for
from data_pipelines.records import AnnotatedImage, Count, DataCard, Region, Source, SourceSplit, VQAExample
from data_pipelines.regions.boxes import box_from_pixels
from data_pipelines.sources.left_out import LeftOut

CARD = DataCard(
    name="chest_xray14",
    title="NIH ChestX-ray14",
    about="112,120 frontal chest films of 30,805 patients with 14 findings read from their reports by a program, and "
    "984 boxes of eight findings drawn by a radiologist on 880 of them.",
    paper="Wang et al., ChestX-ray8, CVPR 2017, arXiv 1705.02315",
    url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    licence="no restriction on use; the NIH Clinical Center asks to be acknowledged, the paper to be cited and the "
    "download page to be linked",
    layout="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, BBox_List_2017.csv, train_val_list.txt, test_list.txt, "
    "and the films in images/ or images_001/images/ to images_012/images/",
    # How many questions there are follows from the labels: two for each finding of a film, as far as there are others.
    splits={"train_val": Count(images=86524), "test": Count(images=25596)},
    traps=(
        "The published lists divide by patient. Splitting train_val at random puts one patient's films on both sides; "
        "the image number's first eight digits are the patient.",
        "A program read the labels from reports; its authors expect more than 90 % of them to be right. No Finding is "
        "the absence of these 14 alone.",
        'The box list writes "Infiltrate" for Infiltration, and its header splits at the commas of "Bbox [x,y,w,h]".',
        "Boxes are pixels of the published 1024 x 1024 films, not of the sizes in OriginalImage[Width,Height].",
        "The boxes are said to lie on films of the test list alone, so expect no regions in train_val.",
        "Data_Entry_2017_v2020.csv corrects some labels of the first; where both lie there, it is read.",
        "Films share a patient's age and sex, which are not carried.",
    ),
)

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural Thickening",
    "Pneumonia",
    "Pneumothorax",
)

_ARTICLES = {"Effusion": "an ", "Hernia": "a ", "Mass": "a ", "Nodule": "a ", "Pneumothorax": "a "}
_LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
_ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_BOX_COLUMNS = ("Bbox [x", "y", "w", "h]")
_BOX_LABELS = {"Infiltrate": "Infiltration"}


def load(root: str, split: str) -> SourceSplit:
    """Closed questions, half of them answered yes, and the split's films with their findings and boxes.

    Ids and image ids are the published file names, which hold a number for the patient that NIH gave out itself.

    Left out, counted and named in a logged warning: films of the list that are not in the folder.

    Raises:
      DataError: no such folder or split; a file that is missing or malformed; a finding that is none of the 14; a film
        without labels; a box outside its film.
    """
    require_folder(root, "chest_xray14 root")
    if split not in _LISTS:
        raise DataError(f"chest_xray14: no split {split!r}; choose one of {', '.join(_LISTS)}")
    listed = _names(os.path.join(root, _LISTS[split]))
    findings = _findings(root)
    folders = _image_folders(root)
    boxes = _boxes(os.path.join(root, "BBox_List_2017.csv"))
    left_out = LeftOut()
    images = []
    for name in listed:
        if name not in findings:
            raise DataError(f"{os.path.join(root, _LISTS[split])}: film {name!r} has no line in {_ENTRIES[-1]}")
        if name not in folders:
            left_out.add("image not in the folder", name)
            continue
        path = os.path.join(folders[name], name)
        regions = _regions(path, boxes.get(name, ()))
        images.append(AnnotatedImage("chest_xray14", split, path, name, regions, modality="X-Ray", body_part="Chest"))
    examples = [example for finding in FINDINGS for example in _questions(finding, images, findings, split)]
    return SourceSplit(examples, images, left_out.reported(f"chest_xray14 {split}"))


def _questions(
    finding: str, images: Sequence[AnnotatedImage], findings: dict[str, tuple[str, ...]], split: str
) -> list[VQAExample]:
    """One question about `finding` on every film that has it, and on as many that have it not, in the films' order."""
    there = [image.image_id for image in images if finding in findings[image.image_id]]
    absent = [image.image_id for image in images if finding not in findings[image.image_id]]
    count = min(len(there), len(absent))
    rng = rng_for("chest_xray14 questions", split, finding)
    asked = {names[i] for names in (there, absent) for i in rng.permutation(len(names))[:count]}
    return [
        VQAExample(
            id=f"chest_xray14/{finding.lower().replace(' ', '_')}/{image.image_id}",
            dataset="chest_xray14",
            split=split,
            image=image.image,
            image_id=image.image_id,
            question=f"Does this film show {_ARTICLES.get(finding, '')}{finding.lower()}?",
            answer="Yes" if finding in findings[image.image_id] else "No",
            answer_type="closed",
            content_type="Abnormality",
            modality="X-Ray",
            labels=findings[image.image_id],
        )
        for image in images
        if image.image_id in asked
    ]


def _names(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy it from the published data set") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy the file again") from None


def _findings(root: str) -> dict[str, tuple[str, ...]]:
    """Film → its findings, none for "No Finding". The file writes "Pleural_Thickening"."""
    paths = [os.path.join(root, name) for name in _ENTRIES]
    path = next((path for path in paths if os.path.isfile(path)), paths[-1])
    findings = {}
    for number, row in enumerate(read_rows(path, ("Image Index", "Finding Labels")), start=2):
        labels = tuple(label.strip().replace("_", " ") for label in row["Finding Labels"].split("|"))
        for label in labels:
            if label not in FINDINGS and label != "No Finding":
                raise DataError(f"{path}: row {number}: finding {label!r} is none of {', '.join(FINDINGS)}")
        findings[row["Image Index"].strip()] = tuple(label for label in labels if label != "No Finding")
    return findings


def _image_folders(root: str) -> dict[str, str]:
    """Film → the folder it lies in; one listing a folder, not a look-up a film."""
    tried = [os.path.join(root, "images")] + [os.path.join(root, f"images_{n:03d}", "images") for n in range(1, 13)]
    found = {}
    for folder in tried:
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                found.update({entry.name: folder for entry in entries if entry.name.endswith(".png")})
    if not found:
        raise DataError(f"chest_xray14: no films in {tried[0]} or {tried[1]}; unpack the published archives there")
    return found


def _boxes(path: str) -> dict[str, list[tuple[str, str, tuple[float, float, float, float]]]]:
    """Film → (where it is written, label, x y w h in pixels) of its boxes."""
    boxes: dict[str, list[tuple[str, str, tuple[float, float, float, float]]]] = {}
    for number, row in enumerate(read_rows(path, ("Image Index", "Finding Label", *_BOX_COLUMNS)), start=2):
        where = f"{path}: row {number}"
        label = _BOX_LABELS.get(row["Finding Label"].strip(), row["Finding Label"].strip())
        if label not in FINDINGS:
            raise DataError(f"{where}: finding {label!r} is none of {', '.join(FINDINGS)}")
        try:
            x, y, w, h = (float(row[column]) for column in _BOX_COLUMNS)
        except ValueError:
            given = ", ".join(row[column] for column in _BOX_COLUMNS)
            raise DataError(f"{where}: box is {given!r}; expected four numbers x, y, w, h in pixels") from None
        boxes.setdefault(row["Image Index"].strip(), []).append((where, label, (x, y, w, h)))
    return boxes


def _regions(path: str, boxes: Sequence[tuple[str, str, tuple[float, float, float, float]]]) -> tuple[Region, ...]:
    if not boxes:
        return ()
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, Image.DecompressionBombError):
        # A corrupt film has no frame for its boxes. Decoding it is where it is reported, counted and perhaps skipped.
        return ()
    return tuple(
        Region(box_from_pixels(*box, width=width, height=height, where=where), label) for where, label, box in boxes
    )


SOURCE = Source(CARD, load)
