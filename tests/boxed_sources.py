"""Folders of every kind of file that gives boxes, with one image on which a bright square is boxed."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_pipelines.images.reading import decode
from data_pipelines.records import BoxReading, SourceSplit
from data_pipelines.regions.box_reading import read_split
from data_pipelines.regions.detections import attach_detections
from data_pipelines.sources.registry import SOURCES

Boxes = Sequence[Sequence[float]]
# What undoes an orientation, see EXIF: a quarter turn the other way, else the same again.
UNDONE = {6: 8, 8: 6}


@dataclass(frozen=True)
class Picture:
    """What a viewer shows: a dark picture with a bright square at x, y, w, h."""

    width: int = 60
    height: int = 40
    square: tuple[int, int, int, int] = (40, 8, 12, 10)

    @property
    def pixels(self) -> np.ndarray:
        x, y, w, h = self.square
        shown = np.zeros((self.height, self.width), np.uint8)
        shown[y : y + h, x : x + w] = 255
        return shown

    @property
    def normalised(self) -> tuple[float, ...]:
        x, y, w, h = self.square
        return x / self.width, y / self.height, w / self.width, h / self.height


FILM = Picture(1024, 1024, (700, 200, 200, 160))


def photo(picture: Picture, form: str, tag: int = 1) -> bytes:
    """The picture as a camera writes it that was held otherwise: Pillow's exif_transpose gives what a viewer shows."""
    exif = Image.Exif()
    exif[0x0112] = UNDONE.get(tag, tag)
    turned = Image.fromarray(picture.pixels)
    turned.getexif().update(exif)
    stored = ImageOps.exif_transpose(turned)
    exif[0x0112] = tag
    file = io.BytesIO()
    options = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    Image.fromarray(np.asarray(stored)).save(file, form, exif=exif, **options)
    content = file.getvalue()
    again = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L")).astype(int)
    assert np.abs(again - picture.pixels).max() < 90
    return content


def _jsonl(root: Path, image: bytes, size: tuple[int, int], boxes: Boxes) -> None:
    (root / "a.jpg").write_bytes(image)
    row = {"image": "a.jpg", "regions": [{"box": list(box), "label": "Mass"} for box in boxes]}
    (root / "train.jsonl").write_text(json.dumps(row))


def _polygons(root: Path, image: bytes, size: tuple[int, int], boxes: Boxes) -> None:
    (root / "a.jpg").write_bytes(image)
    corners = [[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in boxes]
    row = {"image": "a.jpg", "regions": [{"polygon": polygon, "label": "Mass"} for polygon in corners]}
    (root / "train.jsonl").write_text(json.dumps(row))


def _coco(root: Path, image: bytes, size: tuple[int, int], boxes: Boxes) -> None:
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    (root / "images/a.jpg").write_bytes(image)
    marked = [{"id": n, "image_id": 1, "category_id": 1, "bbox": list(box)} for n, box in enumerate(boxes)]
    listed = [{"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}]
    content = {"images": listed, "categories": [{"id": 1, "name": "Mass"}], "annotations": marked}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))


def _slake(root: Path, image: bytes, size: tuple[int, int], boxes: Boxes) -> None:
    folder = root / "imgs/xmlab1"
    folder.mkdir(parents=True)
    (folder / "source.jpg").write_bytes(image)
    (folder / "detection.json").write_text(json.dumps([{"Mass": list(box)} for box in boxes]))
    asked = {"img_name": "xmlab1/source.jpg", "question": "Where?", "answer": "Left", "q_lang": "en", "qid": 1}
    said = {"location": "Chest", "modality": "CT", "answer_type": "OPEN", "content_type": "Position"}
    (root / "train.json").write_text(json.dumps([asked | said]))


def _chest_xray14(root: Path, image: bytes, size: tuple[int, int], boxes: Boxes) -> None:
    (root / "images").mkdir()
    name = "00000001_000.png"
    (root / "images" / name).write_bytes(image)
    (root / "Data_Entry_2017.csv").write_text(f"Image Index,Finding Labels\n{name},Mass\n")
    rows = "".join(f"{name},Mass,{','.join(map(str, box))},,,\n" for box in boxes)
    (root / "BBox_List_2017.csv").write_text(f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{rows}")
    for split in ("train_val", "test"):
        (root / f"{split}_list.txt").write_text(name)


def _detections(root: Path, image: bytes, size: tuple[int, int], boxes: Boxes) -> None:
    # The boxes of the data set itself, which the detector's replace, are none that could be believed.
    _jsonl(root, image, size, [(0.1, 0.1, 0.2, 0.2)])
    found = [{"label": "Mass", "box": list(box), "score": 0.9} for box in boxes]
    (root / "found.json").write_text(json.dumps({"a.jpg": found}))


@dataclass(frozen=True)
class Kind:
    """A kind of file that gives boxes.

    Attributes:
      source: that reads it.
      write: writes a folder of it: the image, width and height as a viewer shows it, and the boxes.
    """

    source: str
    write: Callable[[Path, bytes, tuple[int, int], Boxes], None]
    picture: Picture = Picture()
    form: str = "JPEG"
    split: str = "train"

    def written(self, root: Path, boxes: Boxes | None = None, *, tag: int = 1, form: str = "") -> Path:
        picture = self.picture
        root.mkdir()
        image = photo(picture, form or self.form, tag)
        self.write(root, image, (picture.width, picture.height), [picture.square] if boxes is None else boxes)
        return root

    def read(self, root: Path, reading: BoxReading) -> SourceSplit:
        if self.write is not _detections:
            return read_split(SOURCES.get(self.source, setting="NAME"), str(root), self.split, reading)
        unread = BoxReading(orientation=reading.orientation, used=False)
        split = read_split(SOURCES.get(self.source, setting="NAME"), str(root), self.split, unread)
        return attach_detections(split, str(root / "found.json"), min_score=0, reading=reading)

    def options(self, root: Path) -> list[str]:
        """Of `prepare`."""
        found = ["--detections", str(root / "found.json")] if self.write is _detections else []
        return [self.source, "--source", str(root), "--splits", self.split, *found]


KINDS = {
    "jsonl": Kind("jsonl", _jsonl),
    "polygons of jsonl": Kind("jsonl", _polygons),
    "coco": Kind("coco", _coco),
    "slake": Kind("slake", _slake),
    "chest_xray14": Kind("chest_xray14", _chest_xray14, FILM, "PNG", "test"),
    "detections": Kind("jsonl", _detections),
}


def greys(split: SourceSplit) -> tuple[float, float]:
    """Mean grey inside the first box of the first image, as the model sees it, and of what lies around it."""
    (image, *_) = split.images
    pixels = decode(image.image, "x")[..., 0].astype(float)
    (height, width), (y0, x0, y1, x1) = pixels.shape, image.regions[0].box
    inside = np.zeros(pixels.shape, bool)
    inside[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = True
    return pixels[inside].mean(), pixels[~inside].mean()
