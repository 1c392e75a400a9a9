"""JSON Lines and a folder of images: the general form for one's own questions, with or without marked regions.

Layout under the root: one or more `*.jsonl`, and the images, which rows name relative to the root. Each line is one
object, a question (or a caption, or a conversation) about one image, or without "question" and "answer" an image on
which something is marked. docs/DATA.md lists the fields.

    {"id": "1", "image": "images/a.png", "question": "Where is the mass?", "answer": "Left",
     "regions": [{"box": [120, 88, 64, 70], "label": "Mass"}]}

Boxes are `x,y,w,h`, polygons `[[x, y], …]`, in pixels of the image, or in shares of it as the reading says. The
regions of a question are what it is about; what else is marked on an image stands in rows of its own.
"""

import dataclasses
import functools
import glob
import os
from collections.abc import Collection, Iterator
from typing import Any, get_args

from data_pipelines.core import json_files
from data_pipelines.core.data_root import DataRoot, NoPlainFile, OutsideRoot, spelled_alike
from data_pipelines.core.errors import (
    DataConflict,
    DataError,
    ImageError,
    InvalidValue,
    MissingField,
    MissingFile,
    invalid_field,
)
from data_pipelines.core.json_files import text_field
from data_pipelines.core.registry import nearest
from data_pipelines.images.masks import FOUND
from data_pipelines.images.pictures import opened_picture
from data_pipelines.images.reading import meaning
from data_pipelines.images.scan_parts import split_part
from data_pipelines.records import (
    AS_FOUND,
    AnswerType,
    BoxReading,
    DataCard,
    MaskFile,
    Region,
    Source,
    SourceSplit,
    Task,
    Turn,
)
from data_pipelines.regions import boxes
from data_pipelines.sources.split_builder import SplitBuilder, require_split, row_object

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
        "Boxes are x,y,w,h in pixels of the image, x,y the top left corner; in shares of it with --boxes normalised.",
        "An unknown field is an error, so that a misspelt one is not silently ignored.",
    ),
)

_FIELDS = {
    "id", "image", "image_id", "split", "question", "answer", "answer_type", "content_type", "modality", "body_part",
    "language", "task", "regions", "choices", "accepted", "turns", "labels", "generated",
}  # fmt: skip
# What of a mask is meant; one of them at most.
_MEANINGS = ("mask_level", "mask_index", "mask_threshold", "mask_alpha")
_REGION_FIELDS = {"box", "label", "polygon", "mask", *_MEANINGS}
# Of a row that asks nothing.
_IMAGE_FIELDS = {"image", "image_id", "split", "modality", "body_part", "regions"}


def splits(root: str) -> tuple[str, ...]:
    """The splits of the rows under a root, in the order in which they are first named.

    Raises:
      DataError: no such folder, or no row that can be read.
    """
    names: dict[str, None] = {}
    faults: list[DataError] = []
    for where, row in _rows(root):
        try:
            names[_split_of(row_object(row, where), where)] = None
        except DataError as error:  # which `load` reports
            faults.append(error)
    if faults and not names:
        raise faults[0]
    return tuple(names)


def load(root: str, split: str, reading: BoxReading = AS_FOUND) -> SourceSplit:
    """The questions of one split, each with the regions of its row, and its images with all that is marked on them.

    Left out, counted and named in a logged warning: rows whose image is not in the folder, boxes outside their images.

    Raises:
      DataError: no such folder or split; boxes as `GivenBoxes`.
      MalformedRows: rows are malformed or have an unknown field.
    """
    found = SplitBuilder("jsonl", split, root, reading)
    named: dict[str, None] = {}
    frames = functools.cache(found.boxes.frame)

    def take(where: str, entry: Any) -> None:
        row = row_object(entry, where)
        name = _split_of(row, where)
        named[name] = None
        if name != split:
            return
        row = _given(row, _FIELDS, where)
        file = json_files.inner_path(text_field(row, "image", where), where, "image")
        path = found.file(os.path.join(root, file), file, where=where)
        if not path:
            return
        regions: tuple[Region, ...] = ()
        if (entries := _list(row, "regions", dict, "objects", where)) and (frame := frames(path, path)):
            marked = [_region(found, entry, frame, f"{where}: region {n}") for n, entry in enumerate(entries)]
            regions = tuple(region for region in marked if region)
        asks = "question" in row or "answer" in row
        says = _fields(row, where) if asks else {}
        key = text_field(row, "id", where) if asks else ""
        if not asks and (unasked := sorted(row.keys() - _IMAGE_FIELDS)):
            raise DataError(
                f"{where}: field {unasked[0]!r} belongs to a question; write 'question' and 'answer' too",
                code="data.unknown-field",
                fault=f"field {unasked[0]!r} without a question",
            )
        image = found.images[_merge(found, row, path, spelled_alike(file), regions, where)]
        if asks:
            provenance = "annotation" if regions else ""
            found.question(image, key, regions=regions, provenance=provenance, **says)

    found.each(_rows(root), take)
    require_split(f"{root}: jsonl", split, named)
    return found.finished()


SOURCE = Source(CARD, load, splits, has_boxes=True)


def _rows(root: str) -> Iterator[tuple[str, Any]]:
    """The rows of all files, files by name, as `row_lines`."""
    json_files.require_folder(root)
    paths = sorted(glob.glob(os.path.join(glob.escape(root), "*.jsonl")))
    if not paths:
        raise MissingFile(f"{root}: has no .jsonl file; write one row a question, as docs/DATA.md shows")
    for path in paths:
        yield from json_files.row_lines(path, remedy="write it in UTF-8", unique_keys=True)


def _split_of(row: dict[str, Any], where: str) -> str:
    if row.get("split") is not None:
        return text_field(row, "split", where)
    return os.path.splitext(os.path.basename(where.rpartition(": line ")[0]))[0]


def _given(entry: dict[str, Any], known: Collection[str], where: str) -> dict[str, Any]:
    """The fields that have a value: null, which NaN is too, stands for none. Raises DataError for an unknown field."""
    for name in entry:
        if name not in known:
            raise DataError(
                f"{where}: unknown field {name!r}; {nearest(name, sorted(known))}",
                code="data.unknown-field",
                fault=f"unknown field {name!r}",
            )
    return {name: value for name, value in entry.items() if value is not None}


def _merge(
    found: SplitBuilder, row: dict[str, Any], path: str, file: str, regions: tuple[Region, ...], where: str
) -> str:
    """Rows of one image add up: what each marks, once; and what each says of it, which must not differ.

    Returns:
      The image_id.
    """
    name = text_field(row, "image_id", where) if "image_id" in row else file
    said = {"image": path} | {field: _optional(row, field, where) for field in ("modality", "body_part")}
    before = found.image(path, name, modality=said["modality"], body_part=said["body_part"])
    for field, value in said.items():
        if getattr(before, field) != value:
            raise DataConflict(
                f"{where}: {field} {value!r} of image {name!r} is {getattr(before, field)!r} in an earlier row; make "
                "them equal, or give another image_id"
            )
    merged = tuple(dict.fromkeys((*before.regions, *regions)))
    found.images[name] = dataclasses.replace(before, regions=merged)
    return name


def _fields(row: dict[str, Any], where: str) -> dict[str, Any]:
    """What a row says of its question, as fields of `VQAExample`."""
    task: Task = _one_of(row, "task", get_args(Task), "answer", where)
    answer = text_field(row, "answer", where)
    if task == "detect" and boxes.first_box(answer) is None:
        remedy = "task 'detect' expects four tokens <loc0000> to <loc1023> for y0, x0, y1, x1, and the name"
        raise invalid_field(where, "answer", answer, remedy)
    return {
        "question": _optional(row, "question", where) if task == "caption" else text_field(row, "question", where),
        "answer": answer,
        "task": task,
        "answer_type": _one_of(row, "answer_type", get_args(AnswerType), "open", where),
        "content_type": _optional(row, "content_type", where),
        "language": _optional(row, "language", where) or "en",
        "turns": _turns(row, where),
        **{field: _texts(row, field, where) for field in ("choices", "accepted", "labels")},
    }


def _optional(row: dict[str, Any], field: str, where: str) -> str:
    return text_field(row, field, where, may_be_empty=True) if field in row else ""


def _one_of(row: dict[str, Any], field: str, values: tuple[str, ...], default: str, where: str) -> Any:
    value = text_field(row, field, where).lower() if field in row else default
    if value not in values:
        raise invalid_field(where, field, value, f"write one of {', '.join(values)}")
    return value


def _list(entry: dict[str, Any], field: str, kind: type, what: str, where: str) -> list[Any]:
    values = entry.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise invalid_field(where, field, values, f"write a list of {what}")
    return values


def _texts(row: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    return tuple(json_files.single_blanks(text) for text in _list(row, field, str, "texts", where))


def _turns(row: dict[str, Any], where: str) -> tuple[Turn, ...]:
    turns = []
    for number, entry in enumerate(_list(row, "turns", dict, 'objects {"question": …, "answer": …}', where)):
        at = f"{where}: turn {number}"
        entry = _given(entry, {"question", "answer"}, at)
        turns.append(Turn(text_field(entry, "question", at), text_field(entry, "answer", at)))
    return tuple(turns)


def _region(found: SplitBuilder, entry: dict[str, Any], frame: tuple[int, int], where: str) -> Region | None:
    """None where it has no place in its image."""
    entry = _given(entry, _REGION_FIELDS, where)
    polygon, points = None, []
    if "polygon" in entry:
        given = _list(entry, "polygon", list, "points [x, y] in pixels", where)
        points = [json_files.finite_numbers(point, 2, where, "polygon") for point in given]
        polygon = found.boxes.polygon(points, frame, where)
    mask = _mask(entry, found.files, frame, where) if entry.keys() & {"mask", *_MEANINGS} else None
    if "box" in entry:
        box = found.box(frame, entry["box"], where, "box")
    elif polygon is not None:
        box = found.boxes.box_around(points, polygon, frame, where)
    else:
        raise MissingField(f"{where}: has neither 'box' nor 'polygon'; write [x, y, w, h] in pixels")
    return Region(box, _optional(entry, "label", where), polygon, mask) if box else None


def _mask(entry: dict[str, Any], files: DataRoot, frame: tuple[int, int], where: str) -> MaskFile:
    """The mask of a region, which has a pixel for each of its image, and what of it is meant."""
    said = [field for field in _MEANINGS if not (entry.get(field) is None or entry[field] is False)]
    if "mask" not in entry:
        field = next(field for field in _MEANINGS if field in entry)
        raise MissingField(f"{where}: field {field!r} is of a mask; write 'mask' too")
    if len(said) > 1:
        raise DataConflict(f"{where}: fields {' and '.join(map(repr, said))} both say what the mask marks; leave one")
    for field in said:
        value, least = entry[field], 0 if field == "mask_index" else 1
        if field == "mask_alpha":
            if value is not True:
                raise invalid_field(where, field, value, "write true, or leave it out")
        elif not isinstance(value, int) or isinstance(value, bool) or not least <= value < 256:
            raise invalid_field(where, field, value, f"write a whole number from {least} to 255")
    level = entry.get("mask_level")
    named = os.path.join(files.root, json_files.inner_path(text_field(entry, "mask", where), where, "mask"))
    try:
        bare = split_part(named)[0]
        file = files.file(bare)
    except (OutsideRoot, NoPlainFile) as error:
        raise error.within(f"{where}: mask") from None
    if not file:
        raise MissingFile(f"{where}: mask {named}: no such file; restore it, or leave the field out")
    file += named[len(bare) :]
    if level is None:
        kind = said[0].removeprefix("mask_") if said else FOUND
        marked = MaskFile(meaning(file, kind if kind in (FOUND, "alpha") else f"{kind}:{entry[said[0]]}"))
    else:
        marked = MaskFile(file, level)
    try:
        with opened_picture(split_part(file)[0], file, split_part(file)[1]) as picture:
            size, mode = picture.image.size, picture.image.mode
    except ImageError:
        return marked  # Storing or decoding it is where it is reported, counted and perhaps skipped.
    if size != frame:
        raise DataConflict(
            f"{where}: mask {file} has {size[0]} x {size[1]} pixels, its image {frame[0]} x {frame[1]}; use one size"
        )
    if level is not None and mode not in ("L", "1"):
        raise InvalidValue(
            f"{where}: mask {file} is of mode {mode}, which has no grey level {level}; save it in 8 bit grey, or write "
            "mask_index, mask_threshold or mask_alpha"
        )
    return marked
