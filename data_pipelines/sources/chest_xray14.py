"""ChestX-ray14: frontal chest films with 14 findings read from their reports, and boxes on a few (Wang et al. 2017).

Each finding of a split is asked about on as many films without it as films with it, which a generator seeded by the
finding and the split draws. The boxes become the films' regions.
"""

import functools
import glob
import os
from collections.abc import Sequence

from data_pipelines.core.errors import DataConflict, InvalidValue, MissingField, MissingFile, UnknownName
from data_pipelines.core.json_files import text_field
from data_pipelines.core.seeding import rng_for
from data_pipelines.core.text_files import lines_of, numbered_rows
from data_pipelines.records import AS_FOUND, BoxReading, Count, DataCard, Region, Source, SourceSplit
from data_pipelines.sources.split_builder import SplitBuilder, begin_split

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

# The labels, and how they are asked for.
FINDINGS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Effusion": "an effusion",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Hernia": "a hernia",
    "Infiltration": "infiltration",
    "Mass": "a mass",
    "Nodule": "a nodule",
    "Pleural Thickening": "pleural thickening",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "a pneumothorax",
}
_ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
# Width and height of the published films, whose pixels the boxes are.
_SIDE = 1024
_BOX_COLUMNS = ("Bbox [x", "y", "w", "h]")
_BOX_LABELS = {"Infiltrate": "Infiltration"}


def load(root: str, split: str, reading: BoxReading = AS_FOUND) -> SourceSplit:
    """Closed questions, half of them answered yes, and the split's films with their findings and boxes.

    Ids and image ids are the published file names, which hold a number for the patient that NIH gave out itself.

    Left out, counted and named in a logged warning: films of the list that are not in the folder, boxes outside theirs.

    Raises:
      DataError: no such folder or split; a file that is missing or is not CSV; boxes as `GivenBoxes`.
      MalformedRows: a finding that is none of the 14; a film without labels; a box that is not four numbers, or lies on
        a film of another size than was published.
    """
    found = begin_split(CARD, root, split, reading=reading)
    listing = os.path.join(root, f"{split}_list.txt")
    findings = _findings(root, found)
    films = _films(root)
    names = {line.strip(): f"{listing}: line {number}" for number, line in lines_of(listing)}
    boxes = _boxes(
        os.path.join(root, "BBox_List_2017.csv"), found, {name: films[name] for name in names & films.keys()}
    )

    def take(where: str, name: str) -> None:
        if name not in findings:
            raise MissingField(
                f"{where}: film {name!r} has no line in {_ENTRIES[-1]}; copy it from the published data set",
                fault=f"a film has no line in {_ENTRIES[-1]}",
            )
        if path := found.file(films.get(name, ""), name):
            found.image(path, name, regions=tuple(boxes.get(name, ())), modality="X-Ray", body_part="Chest")

    found.each(((where, name) for name, where in names.items()), take)
    for finding in FINDINGS:
        _ask(found, finding, findings)
    return found.finished()


def _ask(found: SplitBuilder, finding: str, findings: dict[str, tuple[str, ...]]) -> None:
    """Asks about `finding` on every film that has it, and on as many that have it not, in the films' order."""
    there = [name for name in found.images if finding in findings[name]]
    absent = [name for name in found.images if finding not in findings[name]]
    count = min(len(there), len(absent))
    rng = rng_for("chest_xray14 questions", found.split, finding)
    asked = {names[i] for names in (there, absent) for i in rng.permutation(len(names))[:count]}
    for name, image in found.images.items():
        if name in asked:
            shown = finding in findings[name]
            found.finding(image, finding, FINDINGS[finding], shown=shown, labels=findings[name])


def _findings(root: str, found: SplitBuilder) -> dict[str, tuple[str, ...]]:
    """Film → its findings, none for "No Finding". The file writes "Pleural_Thickening"."""
    paths = [os.path.join(root, name) for name in _ENTRIES]
    path = next((path for path in paths if os.path.isfile(path)), paths[-1])
    findings = {}

    def take(where: str, row: dict[str, str]) -> None:
        labels = [label.strip().replace("_", " ") for label in row["Finding Labels"].split("|")]
        there = tuple(label for label in labels if label != "No Finding")
        _require_findings(there, where)
        findings[text_field(row, "Image Index", where)] = there

    found.each(numbered_rows(path, ("Image Index", "Finding Labels")), take)
    return findings


def _require_findings(labels: Sequence[str], where: str) -> None:
    if unknown := [label for label in labels if label not in FINDINGS]:
        raise UnknownName(
            f"{where}: unknown finding {unknown[0]!r}; expected one of {', '.join(FINDINGS)}",
            fault="an unknown finding",
        )


def _films(root: str) -> dict[str, str]:
    """Film → its path; one listing a folder, not a look-up a film."""
    folders = [os.path.join(glob.escape(root), *parts) for parts in (("images",), ("images_0[01][0-9]", "images"))]
    paths = [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, "*.png")))]
    if not paths:
        raise MissingFile(f"chest_xray14: no films in {' or '.join(folders)}; unpack the published archives there")
    return {os.path.basename(path): path for path in paths}


def _boxes(path: str, found: SplitBuilder, films: dict[str, str]) -> dict[str, list[Region]]:
    """Film → its boxes, of those films alone whose paths are given."""
    boxes: dict[str, list[Region]] = {}
    frames = functools.cache(functools.partial(_frame, found, path))

    def take(where: str, row: dict[str, str]) -> None:
        label = _BOX_LABELS.get(row["Finding Label"].strip(), row["Finding Label"].strip())
        _require_findings([label], where)
        given = [row[column] for column in _BOX_COLUMNS]
        try:
            box = [float(number) for number in given]
        except ValueError:
            raise InvalidValue(
                f"{where}: box is {', '.join(given)!r}; expected four numbers x, y, w, h in pixels",
                fault="a box is not four numbers",
            ) from None
        film = text_field(row, "Image Index", where)
        file = found.files.file(films[film]) if film in films else ""
        if file and (frame := frames(file)) and (placed := found.box(frame, box, where, "box")):
            boxes.setdefault(film, []).append(Region(placed, label))

    found.each(numbered_rows(path, ("Image Index", "Finding Label", *_BOX_COLUMNS)), take)
    return boxes


def _frame(found: SplitBuilder, written: str, path: str) -> tuple[int, int] | None:
    """Width and height of a boxed film.

    Args:
      written: the file of its boxes.

    Raises:
      DataError: it has another size than was published, of which the boxes are pixels.
    """
    frame = found.boxes.frame(path, path)
    if frame not in (None, (_SIDE, _SIDE)) and found.boxes.reading.boxes != "normalised":
        raise DataConflict(
            f"{path}: has {frame[0]} x {frame[1]} pixels, and its boxes in {written} are pixels of the published "
            f"{_SIDE} x {_SIDE}; give the published film, or convert the boxes with --boxes normalised"
        )
    return frame


SOURCE = Source(CARD, load, has_boxes=True)
