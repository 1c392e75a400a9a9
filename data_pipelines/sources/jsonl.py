"""JSON Lines and a folder of images: the general form for one's own questions, with or without marked regions.

Layout under the root: one or more `*.jsonl`, and the images, which rows name relative to the root. Each line is one
object, a question (or a caption, or a conversation) about one image, or without "question" and "answer" an image on
which something is marked. docs/DATA.md lists the fields.

    {"id": "1", "image": "images/a.png", "question": "Where is the mass?", "answer": "Left",
     "regions": [{"box": [120, 88, 64, 70], "label": "Mass"}]}

Boxes are `x,y,w,h`, polygons `[[x, y], …]`, in pixels of the image. The regions of a question are what it is about;
what else is marked on an image stands in rows of its own.
"""

from __future__ import annotations

import difflib
import glob
import math
import os
from collections.abc import Collection, Iterator
from typing import Any, get_args

from PIL import Image

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.core.json_files import inner_path, parse_json, require_folder, text_field
from data_pipelines.images.reading import size_of
from data_pipelines.images.scan_parts import split_part
from data_pipelines.records import (
    AnnotatedImage,
    AnswerType,
    DataCard,
    MaskFile,
    Region,
    Source,
    SourceSplit,
    Task,
    Turn,
    VQAExample,
)
from data_pipelines.regions import boxes
from data_pipelines.sources.left_out import LeftOut

CARD = DataCard(
    name="jsonl",
    title="JSON Lines and an image folder",
    about="your own questions, captions or conversations on images, with boxes, polygons or masks where there are some",
    paper="none",
    url="docs/DATA.md",
    licence="yours",
    layout="*.jsonl, and the images that their rows name relative to the folder",
    splits={},
    traps=(
        "A row's split is its field 'split', or the file's name without .jsonl; images that stand in two splits leak.",
        "Boxes are x,y,w,h in pixels of the image, x,y the top left corner.",
        "An unknown field is an error, so that a misspelt one is not silently ignored.",
    ),
)

_FIELDS = {
    "id", "image", "image_id", "split", "question", "answer", "answer_type", "content_type", "modality", "body_part",
    "language", "task", "regions", "choices", "accepted", "turns", "labels", "generated",
}  # fmt: skip
_REGION_FIELDS = {"box", "label", "polygon", "mask", "mask_level"}
# Of a row that asks nothing.
_IMAGE_FIELDS = {"image", "image_id", "split", "modality", "body_part", "regions"}


def splits(root: str) -> tuple[str, ...]:
    """The splits of the rows under a root, in the order in which they are first named. Raises DataError as `load`."""
    return tuple(dict.fromkeys(split for split, _, _ in _rows(root)))


def load(root: str, split: str) -> SourceSplit:
    """The questions of one split, each with the regions of its row, and its images with all that is marked on them.

    Left out, counted and named in a logged warning: rows whose image is not in the folder.

    Raises:
      DataError: no such folder or split; a row that is malformed, has an unknown field, or marks what lies outside.
    """
    examples: list[VQAExample] = []
    images: dict[str, AnnotatedImage] = {}
    left_out = LeftOut()
    found: dict[str, None] = {}
    sizes = _Sizes()
    for name, row, where in _rows(root):
        found[name] = None
        if name != split:
            continue
        file = inner_path(text_field(row, "image", where), where, "image")
        path = os.path.join(root, file)
        if not os.path.isfile(split_part(path)[0]):
            left_out.add("image not in the folder", file)
            continue
        image_id = text_field(row, "image_id", where) if "image_id" in row else file
        regions = _regions(row, root, path, sizes, where)
        _merge(images, _image(row, split, path, image_id, regions, where), where)
        if "question" in row or "answer" in row:
            examples.append(_example(row, split, path, image_id, regions, where))
        elif unasked := sorted(row.keys() - _IMAGE_FIELDS):
            raise DataError(f"{where}: field {unasked[0]!r} belongs to a question; write 'question' and 'answer' too")
    if split not in found:
        raise DataError(f"jsonl: no row under {root} is of split {split!r}; choose one of {', '.join(found)}")
    return SourceSplit(examples, list(images.values()), left_out.reported(f"jsonl {split}"))


SOURCE = Source(CARD, load, splits)


def _rows(root: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(split, row, where) of every line of every file, files by name."""
    require_folder(root, "data.root")
    paths = sorted(glob.glob(os.path.join(glob.escape(root), "*.jsonl")))
    if not paths:
        raise DataError(f"{root}: has no .jsonl file; write one row a question, as docs/DATA.md shows")
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        try:
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        row = _object(line, f"{path}:{number}")
                        split = text_field(row, "split", f"{path}:{number}") if "split" in row else stem
                        yield split, row, f"{path}:{number}"
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); write it in UTF-8") from None


def _object(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where, remedy="write one object a line", unique_keys=True)
    if not isinstance(row, dict):
        raise DataError(f"{where}: is {type(row).__name__}; write one object a line")
    _check_fields(row, _FIELDS, where)
    return row


def _check_fields(entry: dict[str, Any], known: Collection[str], where: str) -> None:
    for name in entry:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(sorted(known))}"
            raise DataError(f"{where}: unknown field {name!r}; {remedy}")


def _merge(images: dict[str, AnnotatedImage], image: AnnotatedImage, where: str) -> None:
    """Rows of one image add up: what each marks, once; and what each says of it, which must not differ."""
    before = images.setdefault(image.image_id, image)
    for name in ("image", "modality", "body_part"):
        if getattr(before, name) != getattr(image, name):
            raise DataError(
                f"{where}: {name} {getattr(image, name)!r} of image {image.image_id!r} is {getattr(before, name)!r} in "
                "an earlier row; make them equal, or give another image_id"
            )
    regions = tuple(dict.fromkeys((*before.regions, *image.regions)))
    images[image.image_id] = AnnotatedImage(
        "jsonl", image.split, image.image, image.image_id, regions, image.modality, image.body_part
    )


def _image(
    row: dict[str, Any], split: str, path: str, image_id: str, regions: tuple[Region, ...], where: str
) -> AnnotatedImage:
    modality, body_part = (_optional(row, name, where) for name in ("modality", "body_part"))
    return AnnotatedImage("jsonl", split, path, image_id, regions, modality, body_part)


def _example(
    row: dict[str, Any], split: str, path: str, image_id: str, regions: tuple[Region, ...], where: str
) -> VQAExample:
    task: Task = _one_of(row, "task", get_args(Task), "answer", where)
    answer = text_field(row, "answer", where)
    if task == "detect" and boxes.first_box(answer) is None:
        raise DataError(
            f"{where}: field 'answer' is {answer!r}; of task 'detect' it is four tokens <loc0000> to <loc1023> for y0, "
            "x0, y1, x1, and the name"
        )
    answer_type: AnswerType = _one_of(row, "answer_type", get_args(AnswerType), "open", where)
    return VQAExample(
        id=f"jsonl/{text_field(row, 'id', where)}",
        dataset="jsonl",
        split=split,
        image=path,
        image_id=image_id,
        question=_optional(row, "question", where) if task == "caption" else text_field(row, "question", where),
        answer=answer,
        task=task,
        answer_type=answer_type,
        content_type=_optional(row, "content_type", where),
        modality=_optional(row, "modality", where),
        language=_optional(row, "language", where) or "en",
        regions=regions,
        choices=_texts(row, "choices", where),
        accepted=_texts(row, "accepted", where),
        provenance="annotation" if regions else "",
        turns=_turns(row, where),
        labels=_texts(row, "labels", where),
    )


def _optional(row: dict[str, Any], field: str, where: str) -> str:
    return text_field(row, field, where, may_be_empty=True) if field in row else ""


def _one_of(row: dict[str, Any], field: str, values: tuple[str, ...], default: str, where: str) -> Any:
    value = text_field(row, field, where).lower() if field in row else default
    if value not in values:
        raise DataError(f"{where}: field {field!r} is {value!r}; write one of {', '.join(values)}")
    return value


def _list(entry: dict[str, Any], field: str, kind: type, what: str, where: str) -> list[Any]:
    values = entry.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise DataError(f"{where}: field {field!r} is {values!r}; write a list of {what}")
    return values


def _texts(row: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in _list(row, field, str, "texts", where))


def _turns(row: dict[str, Any], where: str) -> tuple[Turn, ...]:
    turns = []
    for number, entry in enumerate(_list(row, "turns", dict, 'objects {"question": …, "answer": …}', where)):
        at = f"{where}: turn {number}"
        _check_fields(entry, {"question", "answer"}, at)
        turns.append(Turn(text_field(entry, "question", at), text_field(entry, "answer", at)))
    return tuple(turns)


class _Sizes:
    """Width and height of images in pixels; None of one that cannot be read."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int] | None] = {}

    def of(self, path: str) -> tuple[int, int] | None:
        if path not in self._sizes:
            try:
                self._sizes[path] = size_of(path, path)
            except ImageError:
                # Storing or decoding it is where it is reported, counted and perhaps skipped.
                self._sizes[path] = None
        return self._sizes[path]


def _regions(row: dict[str, Any], root: str, path: str, sizes: _Sizes, where: str) -> tuple[Region, ...]:
    entries = _list(row, "regions", dict, "objects", where)
    size = sizes.of(path) if entries else None
    if size is None:
        return ()
    return tuple(_region(entry, root, size, f"{where}: region {n}") for n, entry in enumerate(entries))


def _region(entry: dict[str, Any], root: str, size: tuple[int, int], where: str) -> Region:
    _check_fields(entry, _REGION_FIELDS, where)
    width, height = size
    polygon, mask = None, None
    if "polygon" in entry:
        points = _list(entry, "polygon", list, "points [x, y] in pixels", where)
        for point in points:
            _numbers(point, 2, "polygon", where)
        # Annotation tools put vertices on the far edge of the last pixel, or a rounding beyond it.
        polygon = tuple((min(max(y / height, 0.0), 1.0), min(max(x / width, 0.0), 1.0)) for x, y in points)
    if "mask" in entry:
        level = entry.get("mask_level")
        if level is not None and (not isinstance(level, int) or isinstance(level, bool) or not 0 < level < 256):
            raise DataError(f"{where}: field 'mask_level' is {level!r}; write a grey level from 1 to 255")
        file = os.path.join(root, inner_path(text_field(entry, "mask", where), where, "mask"))
        if not os.path.isfile(file):
            raise DataError(f"{where}: mask {file}: no such file; restore it, or leave the field out")
        _check_mask(file, level, size, where)
        mask = MaskFile(file, level)
    elif "mask_level" in entry:
        raise DataError(f"{where}: field 'mask_level' is of a mask; write 'mask' too")
    if "box" in entry:
        x, y, w, h = _numbers(entry["box"], 4, "box", where)
        box = boxes.box_from_pixels(x, y, w, h, width=width, height=height, where=where)
    elif polygon is not None:
        box = boxes.box_from_polygon(polygon, where=where)
    else:
        raise DataError(f"{where}: has neither 'box' nor 'polygon'; write [x, y, w, h] in pixels")
    return Region(box, _optional(entry, "label", where), polygon, mask)


def _check_mask(file: str, level: int | None, size: tuple[int, int], where: str) -> None:
    """A mask has a pixel for each of its image, and grey levels where one of them is meant."""
    try:
        with Image.open(file) as opened:
            found, mode = opened.size, opened.mode
    except Exception:
        return  # Storing or decoding it is where it is reported, counted and perhaps skipped.
    if found != size:
        raise DataError(
            f"{where}: mask {file} has {found[0]} x {found[1]} pixels, its image {size[0]} x {size[1]}; make them equal"
        )
    if level is not None and mode not in ("L", "1"):
        raise DataError(
            f"{where}: mask {file} is of mode {mode}, which has no grey level {level}; save it in 8 bit grey"
        )


def _numbers(values: Any, count: int, field: str, where: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count
    if not good or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise DataError(f"{where}: field {field!r} has {values!r}; write {count} numbers of pixels")
    return values
