"""A small copy of each registered data set in its authors' layout, whose rows a test may damage.

`FIXTURES` has one for every name in the registry; a new data set without one fails tests/test_every_source.py.
"""

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.sources import mimic_cxr_jpg, vqa_rad

WIDTH, HEIGHT = 64, 48
# How the rows are written: what a field of theirs can be.
JSON, CSV, LINES, PARQUET = "json", "csv", "lines", "parquet"


@dataclass(frozen=True)
class Fixture:
    """Attributes:
    split: that the rows are of.
    rows: of the file that has one a question, image or box; the second's image may be gone without harm to the others.
    write: writes the folder with these rows.
    form: of the file.
    """

    split: str
    rows: Sequence[Any]
    write: Callable[[Path, Sequence[Any]], None]
    form: str = JSON


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def draw(path: Path, seed: int) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(seed, "JPEG" if path.suffix == ".jpg" else "PNG"))


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def as_json(path: Path, content: Any) -> None:
    text(path, json.dumps(content))


def as_lines(path: Path, rows: Sequence[Any]) -> None:
    text(path, "".join(json.dumps(row) + "\n" for row in rows))


def as_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _slake(root: Path, rows: Sequence[Any]) -> None:
    as_json(root / "train.json", rows)
    for number in range(3):
        folder = root / "imgs" / f"xmlab{number}"
        draw(folder / "source.jpg", number)
        as_json(folder / "detection.json", [{"Liver": [4, 4, 20, 20]}, {"Spleen": [30, 10, 20, 20]}])
        Image.fromarray(np.full((HEIGHT, WIDTH), 70, np.uint8)).save(folder / "mask.png")
    text(root / "mask.txt", "70:Liver\n155:Right Kidney\n")


SLAKE_ROWS = [
    {
        "img_id": n, "img_name": f"xmlab{n}/source.jpg", "question": f"Is the liver healthy {n}?", "answer": "Yes",
        "q_lang": "en", "location": "Abdomen", "modality": "CT", "answer_type": "CLOSED", "base_type": "vqa",
        "content_type": "Abnormality", "triple": ["vhead", "_", "_"], "qid": n,
    }
    for n in range(3)
]  # fmt: skip


def _vqa_rad(root: Path, rows: Sequence[Any]) -> None:
    as_json(root / vqa_rad.QUESTIONS, rows)
    for number in range(3):
        draw(root / "images" / f"synpic{number}.jpg", number)


VQA_RAD_ROWS = [
    {
        "qid": n, "phrase_type": "freeform", "image_name": f"synpic{n}.jpg", "image_organ": "CHEST",
        "question": f"Is the lung normal {n}?", "question_type": "ABN", "answer": "Yes", "answer_type": "CLOSED",
    }
    for n in range(3)
]  # fmt: skip


def _path_vqa(root: Path, rows: Sequence[Any]) -> None:
    path = root / "qas/train/train_qa.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(list(rows), protocol=3))
    for number in range(3):
        draw(root / f"images/train/train_{number}.jpg", number)


def _vqa_med(root: Path, rows: Sequence[Any]) -> None:
    folder = root / "VQAMed2019Test"
    lines = ["|".join(row.values()) if isinstance(row, dict) else str(row) for row in rows]
    text(folder / "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "\n".join(lines) + "\n")
    for number in range(3):
        draw(folder / "VQAMed2019_Test_Images" / f"synpic{number}.jpg", number)


_PMC_COLUMNS = ("Figure_path", "Question", "Answer", *(f"Choice {x}" for x in "ABCD"), "Answer_label")


def _pmc_vqa(root: Path, rows: Sequence[Any]) -> None:
    as_csv(root / "test_clean.csv", _PMC_COLUMNS, rows)
    for number in range(3):
        draw(root / f"images/PMC{number}_F1.jpg", number)


PMC_ROWS = [
    dict(zip(_PMC_COLUMNS, (f"PMC{n}_F1.jpg", "Which?", "CT", "A:MRI", "B:CT", "C:PET", "D:X-ray", "B"), strict=True))
    for n in range(3)
]


def _roco(root: Path, rows: Sequence[Any]) -> None:
    as_csv(root / "train_captions.csv", ("ID", "Caption"), rows)
    concepts = [{"ID": f"ROCO_{n}", "CUIs": "C0040405;C0023884"} for n in range(3)]
    for name in ("train_concepts.csv", "train_concepts_manual.csv"):
        as_csv(root / name, ("ID", "CUIs"), concepts)
    names = [{"CUI": "C0040405", "Name": "CT"}, {"CUI": "C0023884", "Name": "Liver"}]
    as_csv(root / "cui_mapping.csv", ("CUI", "Name"), names)
    for number in range(3):
        draw(root / f"train_images/ROCO_{number}.jpg", number)


def _medpix(root: Path, rows: Sequence[Any]) -> None:
    as_lines(root / "splitted_dataset/descriptions_test.jsonl", rows)
    for number in range(3):
        draw(root / f"images/MPX{number}.png", number)


MEDPIX_ROWS = [
    {
        "Type": "CT", "U_id": f"MPX{n}", "image": f"MPX{n}", "Location": "Chest", "Location Category": "Thorax",
        "Description": {"Caption": f"Small nodule {n}.", "Modality": "CT w/contrast (IV)", "Plane": "Axial"},
    }
    for n in range(3)
]  # fmt: skip


def _talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": said} for place, said in enumerate(texts)]


LLAVA_ROWS = [
    {
        "id": f"{n}_F1", "image": f"{n}_F1.jpg", "domain": {"ct_scan": True, "mri": False},
        "conversations": _talk("<image>\nWhat is shown?", f"A liver {n}.", "Is it normal?", "No."),
    }
    for n in range(3)
]  # fmt: skip


def _llava(file: str) -> Callable[[Path, Sequence[Any]], None]:
    def write(root: Path, rows: Sequence[Any]) -> None:
        as_json(root / file, rows)
        for number in range(3):
            draw(root / f"images/{number}_F1.jpg", number)

    return write


_MIMIC = "mimic-cxr-2.0.0-{}.csv.gz"
MIMIC_ROWS = [
    {"dicom_id": f"d{n}", "study_id": f"5999990{n}", "subject_id": f"1999990{n}", "split": "train"} for n in range(3)
]


def _mimic(root: Path, rows: Sequence[Any]) -> None:
    as_csv(root / _MIMIC.format("split"), ("dicom_id", "study_id", "subject_id", "split"), rows)
    views = [{"dicom_id": row["dicom_id"], "ViewPosition": "PA"} for row in MIMIC_ROWS]
    as_csv(root / _MIMIC.format("metadata"), ("dicom_id", "ViewPosition"), views)
    findings = list(mimic_cxr_jpg._ASKED)
    blank = dict.fromkeys(findings, "")
    labels = [
        {"subject_id": row["subject_id"], "study_id": row["study_id"], **blank, "Edema": f"{n % 2}.0"}
        for n, row in enumerate(MIMIC_ROWS)
    ]
    as_csv(root / _MIMIC.format("chexpert"), ("subject_id", "study_id", *findings), labels)
    for n, row in enumerate(MIMIC_ROWS):
        draw(root / f"files/p19/p{row['subject_id']}/s{row['study_id']}/{row['dicom_id']}.jpg", n)


_BOX_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
# Rows of the boxes: those of the films would change which others are asked about.
CHEST_ROWS = [
    dict(zip(_BOX_COLUMNS, (f"0000000{n}_000.png", "Mass", "4", "5", "20", "20"), strict=True)) for n in range(3)
]


def _chest(root: Path, rows: Sequence[Any]) -> None:
    films = [f"0000000{n}_000.png" for n in range(4)]
    labels = [{"Image Index": name, "Finding Labels": "No Finding" if name == films[3] else "Mass"} for name in films]
    as_csv(root / "Data_Entry_2017.csv", ("Image Index", "Finding Labels"), labels)
    as_csv(root / "BBox_List_2017.csv", _BOX_COLUMNS, rows)
    text(root / "test_list.txt", "\n".join(films))
    for number, name in enumerate(films):
        path = root / "images" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            Image.new("L", (1024, 1024), 50 * number).save(path)  # the published size, of which the boxes are pixels


_PARQUET = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _parquet(root: Path, rows: Sequence[Any]) -> None:
    path = root / "data/train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row.get(name) for row in rows] for name in ("image", "question", "answer")}
    arrays = {"image": pa.array(columns.pop("image"), _PARQUET)}
    arrays |= {name: pa.array(values, pa.string()) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path)


PARQUET_ROWS = [
    {"image": {"bytes": encoded(n), "path": None}, "question": f"Is it {n}?", "answer": "yes"} for n in range(3)
]


def _jsonl(root: Path, rows: Sequence[Any]) -> None:
    as_lines(root / "train.jsonl", rows)
    for number in range(3):
        draw(root / f"images/{number}.png", number)
    Image.fromarray(np.full((HEIGHT, WIDTH), 9, np.uint8)).save(root / "mask.png")


JSONL_ROWS = [
    {
        "id": n, "image": f"images/{n}.png", "image_id": f"i{n}", "split": "train", "question": f"What is marked {n}?",
        "answer": "A mass", "answer_type": "open", "content_type": "Organ", "modality": "CT", "body_part": "Chest",
        "language": "en", "task": "answer", "choices": ["A mass", "Nothing"], "accepted": ["mass"], "labels": ["Mass"],
        "turns": [{"question": "Which modality?", "answer": "CT"}], "generated": {"by": "hand"},
        "regions": [{"box": [8, 8, 20, 20], "label": "Mass", "mask": "mask.png", "mask_level": 9}],
    }
    for n in range(3)
]  # fmt: skip

COCO_ROWS = [
    {
        "id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 20, 16], "area": 320, "iscrowd": 0,
        "segmentation": [[8, 8, 28, 8, 28, 24]],
    }
    for n in range(3)
]  # fmt: skip


def coco_content(annotations: Sequence[Any]) -> dict[str, Any]:
    """COCO's file with three images and two categories."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(3)]
    categories = [{"id": 1, "name": "nodule"}, {"id": 2, "name": "mass"}]
    return {"images": images, "categories": categories, "annotations": list(annotations)}


def _coco(root: Path, rows: Sequence[Any]) -> None:
    as_json(root / "annotations/instances_train2017.json", coco_content(rows))
    for number in range(3):
        draw(root / f"train2017/{number:012d}.jpg", number)


def _drawn(root: Path, rows: Sequence[Any]) -> None:
    """Nothing is read."""


_PATH_ROWS = [{"image": f"train_{n}", "question": f"what is present {n}?", "answer": "liver"} for n in range(3)]
_MED_ROWS = [
    {"image": f"synpic{n}", "category": "plane", "question": f"which plane {n}?", "answer": "axial"} for n in range(3)
]
_ROCO_ROWS = [{"ID": f"ROCO_{n}", "Caption": f"Axial CT {n}."} for n in range(3)]

FIXTURES = {
    "slake": Fixture("train", SLAKE_ROWS, _slake),
    "vqa_rad": Fixture("train", VQA_RAD_ROWS, _vqa_rad),
    "path_vqa": Fixture("train", _PATH_ROWS, _path_vqa),
    "vqa_med_2019": Fixture("test", _MED_ROWS, _vqa_med, LINES),
    "pmc_vqa": Fixture("test_clean", PMC_ROWS, _pmc_vqa, CSV),
    "roco_v2": Fixture("train", _ROCO_ROWS, _roco, CSV),
    "medpix": Fixture("test", MEDPIX_ROWS, _medpix),
    "llava_med_alignment": Fixture("train", LLAVA_ROWS, _llava("alignment/llava_med_alignment_500k.json")),
    "llava_med_instruct": Fixture("10k", LLAVA_ROWS, _llava("instruct/llava_med_instruct_10k.json")),
    "mimic_cxr_jpg": Fixture("train", MIMIC_ROWS, _mimic, CSV),
    "chest_xray14": Fixture("test", CHEST_ROWS, _chest, CSV),
    "vqa_rad_hf": Fixture("train", PARQUET_ROWS, _parquet, PARQUET),
    "path_vqa_hf": Fixture("train", PARQUET_ROWS, _parquet, PARQUET),
    "slake_hf": Fixture("train", PARQUET_ROWS, _parquet, PARQUET),
    "phantom": Fixture("validate", (), _drawn),
    "documents": Fixture("validate", (), _drawn),
    "jsonl": Fixture("train", JSONL_ROWS, _jsonl),
    "coco": Fixture("train2017", COCO_ROWS, _coco),
}
