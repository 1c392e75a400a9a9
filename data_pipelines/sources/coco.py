"""COCO instances: boxes, category names and outlines, without questions; the region families are rebuilt from them.

Layout under the root, as COCO publishes it: `annotations/instances_SPLIT.json`, and the images in `SPLIT/`,
`images/SPLIT/` or `images/`, whichever is there first. Lin et al., ECCV 2014; the format is at
cocodataset.org/#format-data.
"""

from __future__ import annotations

import glob
import io
import math
import os
import re
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.core.json_files import inner_path, read_json, require_folder, text_field
from data_pipelines.images.reading import size_of
from data_pipelines.images.scan_parts import split_part
from data_pipelines.records import AnnotatedImage, DataCard, MaskFile, Region, Source, SourceSplit
from data_pipelines.regions.boxes import box_from_pixels
from data_pipelines.sources.left_out import LeftOut

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

_CROWD = "crowd"
_INSTANCES = re.compile(r"instances_(\w+)\.json")


def splits(root: str) -> tuple[str, ...]:
    """The splits that have an annotation file. Raises DataError: no such folder."""
    require_folder(root, "data.root")
    paths = sorted(glob.glob(os.path.join(glob.escape(root), "annotations", "instances_*.json")))
    return tuple(found.group(1) for path in paths if (found := _INSTANCES.fullmatch(os.path.basename(path))))


def load(root: str, split: str) -> SourceSplit:
    """The images of one split with their regions, in the order of the file.

    Left out, counted and named in a logged warning: images that are not in the folder, and crowds.

    Raises:
      DataError: no such folder or split; a file that is missing or malformed; a box outside its image.
    """
    require_folder(root, "data.root")
    path = os.path.join(root, "annotations", f"instances_{split}.json")
    if not os.path.isfile(path):
        there = ", ".join(splits(root)) or "there is none"
        raise DataError(f"coco: no {path} of split {split!r}; the splits with a file: {there}")
    content = read_json(path)
    names = {
        entry.get("id"): text_field(entry, "name", where) for entry, where in _entries(content, "categories", path)
    }
    regions: dict[Any, list[Region]] = {}
    left_out = LeftOut()
    listed = _entries(content, "images", path)
    sizes = {entry.get("id"): (_size(entry, "width", where), _size(entry, "height", where)) for entry, where in listed}
    for entry, where in _entries(content, "annotations", path):
        owner, category = entry.get("image_id"), entry.get("category_id")
        known = isinstance(owner, int | str) and isinstance(category, int | str)
        if not known or owner not in sizes or category not in names:
            raise DataError(
                f"{where}: names image {owner!r} and category {entry.get('category_id')!r}, not both listed"
            )
        if entry.get("iscrowd"):
            left_out.add(_CROWD, str(entry.get("id")))
            continue
        regions.setdefault(owner, []).append(_region(entry, names[category], *sizes[owner], where))
    images = _images(listed, root, split, regions, left_out)
    reported = left_out.reported(f"coco {split}")
    # Crowds are left out by design, images are missing.
    return SourceSplit([], images, {why: lost for why, lost in reported.items() if why != _CROWD})


SOURCE = Source(CARD, load, splits)


def _images(
    listed: list[tuple[dict[str, Any], str]],
    root: str,
    split: str,
    regions: dict[Any, list[Region]],
    left_out: LeftOut,
) -> list[AnnotatedImage]:
    """The images that are in the folder; the others go to `left_out`."""
    candidates = [os.path.join(root, *parts) for parts in ((split,), ("images", split), ("images",))]
    folder = next((place for place in candidates if os.path.isdir(place)), None)
    if folder is None:
        raise DataError(f"coco: no folder of images; make {' or '.join(candidates)}")
    images = []
    seen: set[str] = set()
    for entry, where in listed:
        name = inner_path(text_field(entry, "file_name", where), where, "file_name")
        if name in seen:
            raise DataError(f"{where}: file_name {name!r} is another image's as well; list each file once")
        seen.add(name)
        file = os.path.join(folder, name)
        if os.path.isfile(split_part(file)[0]):
            if entry.get("id") in regions:
                _check_size(entry, file, where)
            images.append(AnnotatedImage("coco", split, file, name, tuple(regions.get(entry.get("id"), ()))))
        else:
            left_out.add("image not in the folder", name)
    return images


def _check_size(entry: dict[str, Any], file: str, where: str) -> None:
    """Boxes are pixels of the image as listed, so a file of another size would have them in the wrong places."""
    try:
        found = size_of(file, file)
    except ImageError:
        return  # Storing or decoding it is where it is reported, counted and perhaps skipped.
    listed = (entry["width"], entry["height"])
    if found != listed:
        raise DataError(
            f"{where}: width x height is {listed[0]} x {listed[1]}, and {entry['file_name']} has "
            f"{found[0]} x {found[1]} pixels; give the image that was annotated, or its boxes in the file's pixels"
        )


def _entries(content: Any, name: str, path: str) -> list[tuple[dict[str, Any], str]]:
    """The objects of one list of the file, each with what names it in messages."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: {name!r} is no list of objects; is it a COCO instances file?")
    seen = set()
    for number, entry in enumerate(entries):
        identity = entry.get("id")
        if name != "annotations" and (not isinstance(identity, int | str) or identity in seen):
            raise DataError(f"{path}: {name} {number}: id {identity!r} is missing or another's; give each its own")
        seen.add(identity if isinstance(identity, int | str) else None)
    return [(entry, f"{path}: {name} {number}") for number, entry in enumerate(entries)]


def _size(entry: dict[str, Any], field: str, where: str) -> int:
    value = entry.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"{where}: field {field!r} is {value!r}; write pixels")
    return value


def _region(entry: dict[str, Any], label: str, width: int, height: int, where: str) -> Region:
    box: Any = entry.get("bbox")
    if not _are_numbers(box) or len(box) != 4:
        raise DataError(f"{where}: bbox is {box!r}; expected x, y, w, h in pixels")
    x, y, w, h = box
    normalised = box_from_pixels(x, y, w, h, width=width, height=height, where=where)
    outline = entry.get("segmentation")
    if not outline:
        return Region(normalised, label)
    if isinstance(outline, dict):
        return Region(normalised, label, mask=_mask_file(mask_from_rle(outline, width, height, where)))
    if not isinstance(outline, list) or not all(_are_numbers(p) and len(p) >= 6 and len(p) % 2 == 0 for p in outline):
        raise DataError(f"{where}: segmentation is neither polygons x,y,x,y,… of three points or more, nor RLE")
    if len(outline) > 1:
        return Region(normalised, label, mask=_mask_file(_filled(outline, width, height)))
    points = zip(outline[0][::2], outline[0][1::2], strict=True)
    polygon = tuple((min(max(y / height, 0.0), 1.0), min(max(x / width, 0.0), 1.0)) for x, y in points)
    return Region(normalised, label, polygon=polygon)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def mask_from_rle(rle: dict[str, Any], width: int, height: int, where: str) -> Bool[np.ndarray, "H W"]:
    """The mask of a run-length encoding, as a list of counts or as pycocotools' compressed text.

    Runs go down the columns and start with the background.

    Raises:
      DataError: it is of another size, or its runs do not fill it.
    """
    if rle.get("size") != [height, width]:
        raise DataError(
            f"{where}: segmentation of size {rle.get('size')}, image of [{height}, {width}]; make them equal"
        )
    given = rle.get("counts")
    counts = _decompressed(given, where) if isinstance(given, str) else given
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise DataError(f"{where}: segmentation counts are no list of whole numbers, and no compressed text")
    if sum(counts) != width * height:
        raise DataError(f"{where}: segmentation counts add up to {sum(counts)}, not to {width} x {height} pixels")
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
            raise DataError(f"{where}: segmentation counts have the character {character!r}, which no RLE has")
        value |= (six & 0x1F) << bits
        bits += 5
        if six & 0x20:
            continue
        if six & 0x10:
            value -= 1 << bits
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = bits = 0
    if bits:
        raise DataError(f"{where}: segmentation counts end within a number; copy the file again")
    return counts


def _filled(polygons: list[list[float]], width: int, height: int) -> Bool[np.ndarray, "H W"]:
    """The union of several polygons: parts of one thing that something else hides."""
    canvas = Image.new("1", (width, height))
    drawing = ImageDraw.Draw(canvas)
    for polygon in polygons:
        # A vertex is a corner of pixels in COCO and a pixel in Pillow.
        drawing.polygon([v - 0.5 for v in polygon], fill=1)
    return np.asarray(canvas)


def _mask_file(mask: Bool[np.ndarray, "H W"]) -> MaskFile:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return MaskFile(file.getvalue())
