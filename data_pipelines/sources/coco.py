"""COCO instances: boxes, category names and outlines, without questions; the region families are rebuilt from them.

Layout under the root, as COCO publishes it: `annotations/instances_SPLIT.json`, and the images in `SPLIT/`,
`images/SPLIT/` or `images/`, whichever is there first. Lin et al., ECCV 2014; the format is at
cocodataset.org/#format-data.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from data_pipelines.core import json_files
from data_pipelines.core.errors import (
    DataConflict,
    DuplicateId,
    InvalidValue,
    MalformedFile,
    MissingFile,
    UnknownName,
    invalid_field,
    shortened,
)
from data_pipelines.core.json_files import id_of, text_field
from data_pipelines.images.reading import image_file
from data_pipelines.records import AS_FOUND, BoxReading, DataCard, MaskFile, Region, Source, SourceSplit
from data_pipelines.settings import MAX_IMAGE_PIXELS
from data_pipelines.sources.split_builder import LeftOut, SplitBuilder, require_split, row_object

T = TypeVar("T")

CARD = DataCard(
    name="coco",
    title="COCO instances",
    about="images with boxes, category names and outlines in COCO's instances format, of any domain",
    paper="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, arXiv 1405.0312",
    url="https://cocodataset.org/#format-data",
    licence="of the data set that is in this format",
    layout="annotations/instances_SPLIT.json; images in SPLIT/, images/SPLIT/ or images/",
    splits={},
    traps=(
        "It asks no questions: train on the region families (data.families without vqa).",
        "iscrowd marks groups of things, not one: such boxes are left out.",
        "COCO's own training and validation splits are called train2017 and val2017.",
        "Two boxes of train2017 have no height: --allow-missing leaves them out.",
    ),
)

_COUNT_BITS = 60  # of a number in pycocotools' text
_INSTANCES = re.compile(r"instances_(\w+)\.json")


def splits(root: str) -> tuple[str, ...]:
    """The splits that have an annotation file. Raises DataError: no such folder."""
    json_files.require_folder(root)
    paths = sorted(glob.glob(os.path.join(glob.escape(root), "annotations", "instances_*.json")))
    return tuple(found.group(1) for path in paths if (found := _INSTANCES.fullmatch(os.path.basename(path))))


def load(root: str, split: str, reading: BoxReading = AS_FOUND) -> SourceSplit:
    """The images of one split with their regions, in the order of the file.

    Ids are compared by value: 7 and "7" are one. Left out, counted and named in a logged warning: images that are not
    in the folder, crowds, boxes outside their images.

    Raises:
      DataError: no such folder or split; a file that is missing or malformed; two images or categories of one id; boxes
        as `GivenBoxes`.
      MalformedRows: annotations or images are malformed.
    """
    require_split("coco", split, splits(root))
    path = os.path.join(root, "annotations", f"instances_{split}.json")
    content = json_files.raw_json(path)
    found = SplitBuilder("coco", split, root, reading)
    names = _by_id(content, "categories", path, found, lambda where, entry: text_field(entry, "name", where))
    sizes = _by_id(content, "images", path, found, lambda where, entry: _size(entry, where))
    crowds = LeftOut()  # by design, unlike images that are missing, so they are logged alone
    regions: dict[str, list[Region]] = {}

    def take_annotation(where: str, row: Any) -> None:
        entry = row_object(row, where)
        owner, category = id_of(entry.get("image_id")), id_of(entry.get("category_id"))
        if owner not in sizes or category not in names:
            given = (shortened(entry.get(field)) for field in ("image_id", "category_id"))
            raise UnknownName(
                f"{where}: names image {' and category '.join(given)}, not both listed",
                fault="its image or category is not listed",
            )
        if _is_crowd(entry, where):
            crowds.add("crowd", str(entry.get("id")))
        elif region := _region(found, entry, names[category], sizes[owner], where):
            regions.setdefault(owner, []).append(region)

    found.each(_rows(content, "annotations", path), take_annotation)
    folder = _image_folder(root, split)
    seen: set[str] = set()

    def take_image(where: str, row: Any) -> None:
        key = id_of(row.get("id")) if isinstance(row, dict) else None
        if key not in sizes:
            return  # said when its size was read
        name = json_files.inner_path(text_field(row, "file_name", where), where, "file_name")
        if name in seen:
            raise DuplicateId(f"{where}: file_name {name!r} is another image's as well; list each file once")
        seen.add(name)
        file = os.path.join(folder, name)
        if file := found.file(file, name, where=where):
            if key in regions:
                _check_size(sizes[key], found.boxes.frame(file, name), name, where)
            found.image(file, name, regions=tuple(regions.get(key, ())))

    found.each(_rows(content, "images", path), take_image)
    crowds.reported(f"coco {split}")
    return found.finished()


SOURCE = Source(CARD, load, splits, has_boxes=True)


def _image_folder(root: str, split: str) -> str:
    candidates = [os.path.join(root, *parts) for parts in ((split,), ("images", split), ("images",))]
    folder = next((place for place in candidates if os.path.isdir(place)), None)
    if folder is None:
        raise MissingFile(f"coco: no folder of images; make {' or '.join(candidates)}")
    return folder


def _check_size(listed: tuple[int, int], found: tuple[int, int] | None, name: str, where: str) -> None:
    """Boxes are pixels of the image as listed, so a file of another size would have them in the wrong places."""
    if found is not None and found != listed:
        raise DataConflict(
            f"{where}: width x height is {listed[0]} x {listed[1]}, and {name} has {found[0]} x {found[1]} pixels; "
            "give the image that was annotated, or its boxes in the file's pixels"
        )


def _rows(content: Any, name: str, path: str) -> Iterator[tuple[str, Any]]:
    """The entries of one list of the file, each after what names it in messages."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise MalformedFile(f"{path}: {name!r} is {type(entries).__name__}; expected a list of objects")
    return json_files.settled_rows(entries, path, name)


def _by_id(
    content: Any, name: str, path: str, found: SplitBuilder, read: Callable[[str, dict[str, Any]], T]
) -> dict[str, T]:
    """id → what is read of the entry, of images or categories.

    Raises:
      DataError: two have one id: nobody can tell whose an annotation is.
    """
    by_id: dict[str, T] = {}

    def take(where: str, row: Any) -> None:
        key = id_of(row_object(row, where).get("id"))
        if key is None or key in by_id:
            error = DuplicateId(
                f"{where}: id {shortened(row.get('id'))} is missing or another's; give each its own",
                fault="an image or category without an id",
            )
            if key is not None:
                twice.append(error)
            raise error
        by_id[key] = read(where, row)

    twice: list[DuplicateId] = []
    found.each(_rows(content, name, path), take)
    if twice:
        raise twice[0]
    return by_id


def _is_crowd(entry: dict[str, Any], where: str) -> bool:
    match entry.get("iscrowd"):
        case None | 0 | "0":
            return False
        case 1 | "1":
            return True
        case other:
            raise invalid_field(where, "iscrowd", other, "write 0 or 1")


def _size(entry: dict[str, Any], where: str) -> tuple[int, int]:
    """Width and height as listed."""
    for field in ("width", "height"):
        if type(value := entry.get(field)) is not int or value < 1:
            raise invalid_field(where, field, value, "write pixels")
    return entry["width"], entry["height"]


def _region(
    found: SplitBuilder, entry: dict[str, Any], label: str, frame: tuple[int, int], where: str
) -> Region | None:
    """None where it has no place in its image."""
    box = found.box(frame, entry.get("bbox"), where, "bbox")
    outline = entry.get("segmentation")
    if not box:
        return None
    if not outline:
        return Region(box, label)
    if isinstance(outline, dict):
        return Region(box, label, mask=_mask_file(mask_from_rle(outline, *frame, where)))
    parts = outline if isinstance(outline, list) else [None]
    polygons = [json_files.finite_numbers(part, None, where, "segmentation") for part in parts]
    if not all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons):
        raise InvalidValue(
            f"{where}: segmentation is neither polygons x,y,x,y,… of three points or more, nor RLE",
            fault="a polygon of less than three points",
        )
    if len(polygons) > 1:
        _require_mask(*frame, where)
        return Region(
            box, label, mask=_mask_file(_filled([found.boxes.in_pixels(part, frame) for part in polygons], *frame))
        )
    points = list(zip(polygons[0][::2], polygons[0][1::2], strict=True))
    return Region(box, label, polygon=found.boxes.polygon(points, frame, where))


def mask_from_rle(rle: dict[str, Any], width: int, height: int, where: str) -> Bool[np.ndarray, "H W"]:
    """The mask of a run-length encoding, as a list of counts or as pycocotools' compressed text.

    Runs go down the columns and start with the background.

    Raises:
      DataError: it is of another size, or its runs do not fill it.
    """
    _require_mask(width, height, where)
    if rle.get("size") != [height, width]:
        raise _invalid(where, f"of size {rle.get('size')}, image of [{height}, {width}]; make them equal")
    given = rle.get("counts")
    counts = _decompressed(given, where) if isinstance(given, str) else given
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise _invalid(where, "counts are neither a list of whole numbers nor compressed text")
    if sum(counts) != width * height:
        raise _invalid(where, f"counts add up to {sum(counts)}, not to {width} x {height} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _decompressed(text: str, where: str) -> list[int]:
    """The counts in pycocotools' text: six bits a character, of which one says that the number goes on.

    From the fourth count on the difference to the last but one is written (cocoapi, common/maskApi.c, rleFrString).
    """
    counts: list[int] = []
    value = bits = 0
    for character in text:
        six = ord(character) - 48
        if not 0 <= six < 64:
            raise _invalid(where, f"counts have the character {character!r}, which no RLE has")
        value |= (six & 0x1F) << bits
        bits += 5
        if bits > _COUNT_BITS:
            raise _invalid(where, "counts have a number that no image has")
        if six & 0x20:
            continue
        if six & 0x10:
            value -= 1 << bits
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = bits = 0
    if bits:
        raise _invalid(where, "counts end within a number; copy the file again")
    return counts


def _require_mask(width: int, height: int, where: str) -> None:
    """Raises: DataError: a mask of an image as listed is more than is taken into memory."""
    if width * height > MAX_IMAGE_PIXELS:
        raise _invalid(
            where, f"of an image of {width} x {height} pixels, more than {MAX_IMAGE_PIXELS}; correct its size"
        )


def _invalid(where: str, fault: str) -> InvalidValue:
    return InvalidValue(f"{where}: segmentation {fault}", fault="a segmentation is not RLE of its image's size")


def _filled(polygons: list[list[float]], width: int, height: int) -> Bool[np.ndarray, "H W"]:
    """The union of several polygons: parts of one thing that something else hides."""
    canvas = Image.new("1", (width, height))
    drawing = ImageDraw.Draw(canvas)
    for polygon in polygons:
        # A vertex is a corner of pixels in COCO and a pixel in Pillow.
        drawing.polygon([v - 0.5 for v in polygon], fill=1)
    return np.asarray(canvas)


def _mask_file(mask: Bool[np.ndarray, "H W"]) -> MaskFile:
    return MaskFile(image_file(Image.fromarray(mask)))
