"""Every data set of the registry as its authors lay it out, in miniature: two images, each asked about once.

`LAYOUTS[name].write(root, said)` writes one whose annotation file calls the first image `said`; a data set that is
added to the registry gets a line here too, which `test_named_files.py` asks for.
"""

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@dataclass(frozen=True)
class Layout:
    """How a data set names its images, and writing one.

    Attributes:
      split: which is written.
      file: of an image below the root, `{}` for the name `one` or `two`; "" where annotations name no files.
      said: what the annotation file calls it.
      beside: what else is read by that name.
      folders: names may have folders.
    """

    write: Callable[[Path, Callable[[str], str]], None]
    split: str = "train"
    file: str = ""
    said: str = "{}"
    beside: tuple[str, ...] = ()
    folders: bool = False

    def lay_out(self, root: Path, *, said: str = "", called: str = "one") -> str:
        """Writes the data set below `root`, which is empty or has the same one, and returns the root as text.

        Args:
          said: of the first image in the annotation file, in place of its name.
          called: the first image's own name.
        """
        for number, name in enumerate((called, "two"), 1):
            if self.file:
                path = root / self.file.format(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (16, 16), 40 * number).save(path)
        self.write(root, lambda name: said if said and name == "one" else self.said.format(name))
        return str(root)


def _text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8").write(content)  # type: ignore[operator]


def _json(path: Path, content: object) -> None:
    _text(path, json.dumps(content, ensure_ascii=False))


def _lines(path: Path, entries: Iterable[object]) -> None:
    _text(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))


def _csv(path: Path, rows: list[Mapping[str, str]]) -> None:
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    _text(path, written.getvalue())


def _slake(root: Path, said: Callable[[str], str]) -> None:
    common = {"q_lang": "en", "modality": "CT", "location": "Lung", "content_type": "Organ", "answer_type": "CLOSED"}
    entries = [
        common | {"qid": number, "img_name": said(name), "question": "Is it so?", "answer": "Yes"}
        for number, name in enumerate(("one", "two"))
    ]
    _json(root / "train.json", entries)
    _json(root / "mask_labels.json", {"40": "Liver"})
    for folder in (root / "imgs").iterdir():
        _json(folder / "detection.json", [{"Liver": [1, 1, 8, 8]}])
        Image.new("L", (16, 16), 40).save(folder / "mask.png")


def _vqa_rad(root: Path, said: Callable[[str], str]) -> None:
    common = {"phrase_type": "freeform", "image_organ": "CHEST", "answer_type": "OPEN", "question_type": "PRES"}
    entries = [
        common | {"qid": number, "image_name": said(name), "question": "Where?", "answer": "Left"}
        for number, name in enumerate(("one", "two"))
    ]
    _json(root / "VQA_RAD Dataset Public.json", entries)


def _path_vqa(root: Path, said: Callable[[str], str]) -> None:
    entries = [{"image": said(name), "question": "Where?", "answer": "left"} for name in ("one", "two")]
    path = root / "qas/train/train_qa.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(entries))


def _vqa_med_2019(root: Path, said: Callable[[str], str]) -> None:
    folder = root / "ImageClef-2019-VQA-Med-Training"
    lines = [f"{said(name)}|what plane is this?|axial\n" for name in ("one", "two")]
    _text(folder / "All_QA_Pairs_train.txt", "".join(lines))
    for name in ("C1_Modality", "C2_Plane", "C3_Organ", "C4_Abnormality"):
        _text(folder / "QAPairsByCategory" / f"{name}_train.txt", "".join(lines))


def _pmc_vqa(root: Path, said: Callable[[str], str]) -> None:
    options = {f"Choice {letter}": f"{letter}: {word}" for letter, word in zip("ABCD", "wxyz", strict=True)}
    rows = [
        {"Figure_path": said(name), "Question": "What?", "Answer": "w", **options, "Answer_label": "A"}
        for name in ("one", "two")
    ]
    _csv(root / "train.csv", rows)


def _roco_v2(root: Path, said: Callable[[str], str]) -> None:
    _csv(root / "train_captions.csv", [{"ID": said(name), "Caption": "A film."} for name in ("one", "two")])
    for file in ("train_concepts.csv", "train_concepts_manual.csv"):
        _csv(root / file, [{"ID": said(name), "CUIs": "C0040405"} for name in ("one", "two")])
    _csv(root / "cui_mapping.csv", [{"CUI": "C0040405", "Canonical name": "CT"}])


def _medpix(root: Path, said: Callable[[str], str]) -> None:
    entries = [
        {"Type": "CT", "image": said(name), "Description": {"Caption": f"A nodule, {name}."}} for name in ("one", "two")
    ]
    _lines(root / "splitted_dataset/descriptions_train.jsonl", entries)


def _llava_med(file: str) -> Callable[[Path, Callable[[str], str]], None]:
    def write(root: Path, said: Callable[[str], str]) -> None:
        turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A film."}]
        _json(root / file, [{"id": name, "image": said(name), "conversations": turns} for name in ("one", "two")])

    return write


def _mimic_cxr_jpg(root: Path, said: Callable[[str], str]) -> None:
    from data_pipelines.sources.mimic_cxr_jpg import _ASKED

    films = [{"dicom_id": said(name), "study_id": "5", "subject_id": "19"} for name in ("one", "two")]
    _csv(root / "mimic-cxr-2.0.0-split.csv.gz", [film | {"split": "train"} for film in films])
    _csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", [film | {"ViewPosition": "PA"} for film in films])
    labels = {"subject_id": "19", "study_id": "5", **dict.fromkeys(_ASKED, ""), "Edema": "1.0"}
    _csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", [labels])
    _text(root / "files/p19/p19/s5.txt", "FINDINGS: Clear.\n")


def _chest_xray14(root: Path, said: Callable[[str], str]) -> None:
    labels = {"one": "Mass", "two": "No Finding"}
    _csv(
        root / "Data_Entry_2017.csv", [{"Image Index": said(n), "Finding Labels": found} for n, found in labels.items()]
    )
    _text(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h]\nthree.png,Mass,1,1,8,8\n")
    _text(root / "train_val_list.txt", "".join(f"{said(name)}\n" for name in labels))


def _parquet(root: Path, said: Callable[[str], str]) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("question", pa.string()), ("answer", pa.string())])
    picture = io.BytesIO()
    Image.new("L", (16, 16), 80).save(picture, "PNG")
    # The first row has a name alone, as a set that was written without its images has.
    contents = {"one": None, "two": picture.getvalue()}
    rows = [
        {"image": {"bytes": held, "path": said(name)}, "question": "What?", "answer": "yes"}
        for name, held in contents.items()
    ]
    (root / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / "data/train-00000-of-00001.parquet")


def _jsonl(root: Path, said: Callable[[str], str]) -> None:
    region = {"box": [1, 1, 8, 8], "label": "Mass", "mask": "masks/one.png"}
    rows = [
        {"id": name, "image": said(name), "question": "What?", "answer": "A mass", "regions": [region]}
        for name in ("one", "two")
    ]
    (root / "masks").mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), 255).save(root / "masks/one.png")
    _lines(root / "train.jsonl", rows)


def _coco(root: Path, said: Callable[[str], str]) -> None:
    images = [{"id": n, "file_name": said(name), "width": 16, "height": 16} for n, name in enumerate(("one", "two"))]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "iscrowd": 0}
    content = {"images": images, "categories": [{"id": 1, "name": "Mass"}], "annotations": [box]}
    _json(root / "annotations/instances_train.json", content)


def _nothing(root: Path, said: Callable[[str], str]) -> None:
    """Drawn sets have no files."""


_LLAVA = {"file": "images/{}.jpg", "said": "{}.jpg"}
LAYOUTS: dict[str, Layout] = {
    "slake": Layout(
        _slake,
        file="imgs/{}/source.jpg",
        said="{}/source.jpg",
        beside=("imgs/{}/detection.json", "imgs/{}/mask.png"),
        folders=True,
    ),
    "vqa_rad": Layout(_vqa_rad, file="images/{}.jpg", said="{}.jpg"),
    "path_vqa": Layout(_path_vqa, file="images/train/{}.jpg"),
    "vqa_med_2019": Layout(_vqa_med_2019, file="ImageClef-2019-VQA-Med-Training/Train_images/{}.jpg"),
    "pmc_vqa": Layout(_pmc_vqa, file="images/{}.jpg", said="{}.jpg"),
    "roco_v2": Layout(_roco_v2, file="train_images/{}.jpg"),
    "medpix": Layout(_medpix, file="images/{}.png"),
    "llava_med_alignment": Layout(_llava_med("alignment/llava_med_alignment_500k.json"), **_LLAVA),
    "llava_med_instruct": Layout(_llava_med("instruct/llava_med_instruct_10k.json"), split="10k", **_LLAVA),
    "mimic_cxr_jpg": Layout(_mimic_cxr_jpg, file="files/p19/p19/s5/{}.jpg"),
    "chest_xray14": Layout(_chest_xray14, split="train_val", file="images/{}.png", said="{}.png"),
    "vqa_rad_hf": Layout(_parquet),
    "path_vqa_hf": Layout(_parquet),
    "slake_hf": Layout(_parquet),
    "phantom": Layout(_nothing, split="test"),
    "documents": Layout(_nothing, split="test"),
    "jsonl": Layout(
        _jsonl,
        file="images/{}.png",
        said="images/{}.png",
        beside=("masks/{}.png",),
        folders=True,
    ),
    "coco": Layout(_coco, file="images/{}.png", said="{}.png", folders=True),
}
# Those whose annotation files name files.
NAMING = [name for name, layout in LAYOUTS.items() if layout.file]
