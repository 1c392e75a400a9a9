"""COCO instances: boxes, category names and outlines, without questions; the region families are rebuilt from them.

Layout under the root, as COCO publishes it: `annotations/instances_SPLIT.json`, and the images in `SPLIT/`,
`images/SPLIT/` or `images/`, whichever is there first. Lin et al., ECCV 2014; the format is at
cocodataset.org/#format-data.
"""

import glob
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from data_pipelines.core import json_files
from data_pipelines.core.errors import DataConflict, DuplicateId, InvalidValue, MissingFile, UnknownName, invalid_field
from data_pipelines.core.json_files import text_field
from data_pipelines.images.reading import image_file
from data_pipelines.records import AS_FOUND, BoxReading, DataCard, MaskFile, Region, Source, SourceSplit
from data_pipelines.sources.split_builder import LeftOut, SplitBuilder, require_split

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
    ),
)

_INSTANCES = re.compile(r"instances_(\w+)\.json")


def splits(root: str) -> tuple[str, ...]:
    """The splits that have an annotation file. Raises DataError: no such folder."""
    json_files.require_folder(root)
    paths = sorted(glob.glob(os.path.join(glob.escape(root), "annotations", "instances_*.json")))
    return tuple(found.group(1) for path in paths if (found := _INSTANCES.fullmatch(os.path.basename(path))))


def load(root: str, split: str, reading: BoxReading = AS_FOUND) -> SourceSplit:
    """The images of one split with their regions, in the order of the file.

    Left out, counted and named in a logged warning: images that are not in the folder, crowds, boxes outside their
    images.

    Raises:
      DataError: no such folder or split; a file that is missing or malformed; boxes as `GivenBoxes`.
    """
    require_split("coco", split, splits(root))
    path = os.path.join(root, "annotations", f"instances_{split}.json")
    content = json_files.read_json(path)
    names = {entry["id"]: text_field(entry, "name", where) for where, entry in _entries(content, "categories", path)}
    listed = {entry["id"]: (where, entry) for where, entry in _entries(content, "images", path)}
    sizes = {key: _size(entry, where) for key, (where, entry) in listed.items()}
    found = SplitBuilder("coco", split, root, reading)
    crowds = LeftOut()  # by design, unlike images that are missing, so they are logged alone
    regions: dict[Any, list[Region]] = {}
    for where, entry in _entries(content, "annotations", path):
        owner, category = entry.get("image_id"), entry.get("category_id")
        known = isinstance(owner, int | str) and isinstance(category, int | str)
        if not known or owner not in sizes or category not in names:
            raise UnknownName(f"{where}: names image {owner!r} and category {category!r}, not both listed")
        if entry.get("iscrowd"):
            crowds.add("crowd", str(entry.get("id")))
        elif region := _region(found, entry, names[category], sizes[owner], where):
            regions.setdefault(owner, []).append(region)
    folder = _image_folder(root, split)
    seen: set[str] = set()
    for key, (where, entry) in listed.items():
        name = json_files.inner_path(text_field(entry, "file_name", where), where, "file_name")
        if name in seen:
            raise DuplicateId(f"{where}: file_name {name!r} is another image's as well; list each file once")
        seen.add(name)
        file = os.path.join(folder, name)
        if file := found.file(file, name, where=where):
            if key in regions:
                _check_size(sizes[key], found.boxes.frame(file, name), name, where)
            found.image(file, name, regions=tuple(regions.get(key, ())))
    crowds.reported(f"coco {split}")
    return found.finished()


SOURCE = Source(
    CARD, load, splits, has_boxes=True, configured=lambda data, split, reading: load(data.root, split, reading)
)


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


def _entries(content: Any, name: str, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of one list of the file, each after what names it in messages; images and categories have an id."""
    entries = json_files.list_of_objects(content.get(name) if isinstance(content, dict) else None, f"{path}: {name!r}")
    seen = set()
    for number, entry in enumerate(entries):
        where, identity = f"{path}: {name} {number}", entry.get("id")
        if name != "annotations":
            if not isinstance(identity, int | str) or identity in seen:
                raise DuplicateId(f"{where}: id {identity!r} is missing or another's; give each its own")
            seen.add(identity)
        yield where, entry


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
        raise _invalid(where, "is neither polygons x,y,x,y,… of three points or more, nor RLE")
    if len(polygons) > 1:
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
        if six & 0x20:
            continue
        if six & 0x10:
            value -= 1 << bits
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = bits = 0
    if bits:
        raise _invalid(where, "counts end within a number; copy the file again")
    return counts


def _invalid(where: str, fault: str) -> InvalidValue:
    return InvalidValue(f"{where}: segmentation {fault}")


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
