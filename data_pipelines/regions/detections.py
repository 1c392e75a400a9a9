"""Regions from a detector's file, in place of annotated ones.

Two formats are read, both with boxes as `x, y, w, h` in pixels of the original image:

  by image  {"synpic1.jpg": [{"label": "Nodule", "box": [10, 20, 30, 40], "score": 0.9}, …], …}
  COCO      results, [{"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.9}, …], alone with the
            names in a second file, or as "annotations" of one object that has "categories" (and "images") too

An image is named by its id in the data set, its file's name with or without extension, or a path that ends in its
folder and file ("imgs/xmlab1/source.jpg"); in COCO by `file_name` of the entry in "images" that has the id, else by the
id itself.

A detector's label is a guess. Region questions rebuilt from its boxes take it for the truth, which is a way to make
training data and no way to test: their provenance is "detector".
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, TypeGuard

from data_pipelines.core.errors import (
    DataConflict,
    ImageError,
    InvalidOption,
    InvalidValue,
    MalformedFile,
    MissingOption,
    UnknownName,
    listed,
)
from data_pipelines.core.json_files import read_json, text_field
from data_pipelines.images.reading import size_of
from data_pipelines.records import AnnotatedImage, Region, SourceSplit
from data_pipelines.regions.boxes import box_from_pixels

logger = logging.getLogger(__name__)

_REMEDY = "name the file that the detector wrote"


@dataclass(frozen=True)
class Detection:
    """A box that a detector proposes.

    Attributes:
      image: the image's name in the file.
      pixels: x, y, w, h.
      where: file and entry, for messages.
    """

    image: str
    label: str
    pixels: tuple[float, float, float, float]
    score: float
    where: str


def attach_detections(split: SourceSplit, path: str, *, min_score: float, names_path: str = "") -> SourceSplit:
    """The split with a detector's boxes as its images' regions, provenance "detector".

    They replace what was annotated, so that a run shows what boxes found by a machine are worth. An image without a
    box of `min_score` has no regions, nor has one that cannot be read, which is reported where it is decoded. Regions
    that a question brought itself go; its own words find it others (`question_regions`). Boxes of images outside the
    split are left out, since one file may serve all splits. What becomes of the boxes is counted in the log.

    Args:
      path: the detector's file, see the top of this module.
      min_score: boxes below it are left out.
      names_path: the COCO file with "categories" and perhaps "images", for results that stand alone.

    Raises:
      DataError: a file is missing or malformed, a box leaves its image, no image of the split is named, or a name fits
        several of its images.
    """
    if not 0 <= min_score <= 1:
        raise InvalidOption(f"min_score = {min_score}; give a number from 0 to 1")
    detections = read_detections(path, names_path=names_path)
    owners = _owners(split.images)
    found: dict[str, list[Detection]] = {}
    named: set[str] = set()
    elsewhere = below = 0
    for detection in detections:
        name = _known_name(detection.image, owners)
        if name is None:
            elsewhere += 1
            continue
        image_id = owners[name]
        if image_id is None:
            raise DataConflict(f"{detection.where}: its name fits several images; name them by their ids")
        named.add(image_id)
        if detection.score < min_score:
            below += 1
        else:
            found.setdefault(image_id, []).append(detection)
    if not named:
        example = split.images[0].image_id if split.images else "none"
        raise UnknownName(
            f"{path}: names no image of the split ({len(split.images)} images, the first {example!r}); "
            "name images by their ids or file names"
        )
    images = [_with_regions(image, found.get(image.image_id, ())) for image in split.images]
    bare = [image.image_id for image in images if not image.regions]
    logger.info(
        "%s: %d boxes on %d of %d images; left out %d boxes that score below %g, and %d on images outside the split; "
        "images without a box: %s", path, sum(len(boxes) for boxes in found.values()), len(found), len(images), below,
        min_score, elsewhere, listed(bare) or "none",
    )  # fmt: skip
    examples = [replace(example, regions=(), distractors=(), provenance="") for example in split.examples]
    return replace(split, examples=examples, images=images)


def read_detections(path: str, *, names_path: str = "") -> list[Detection]:
    """The boxes of a detector's file in the file's order.

    Raises:
      DataError: a file is missing or malformed; the message names the entry.
    """
    content = read_json(path, remedy=_REMEDY, unique_keys=True)
    if isinstance(content, dict) and "annotations" not in content:
        return list(_by_image(content, path))
    if isinstance(content, dict):
        results, names, names_path = content["annotations"], content, path
    elif names_path:
        results, names = content, read_json(names_path, remedy=_REMEDY, unique_keys=True)
    else:
        raise MissingOption(
            f"{path}: COCO results give categories by number; name the COCO file that has their names, or write one "
            'object with "categories" and "annotations"'
        )
    if not isinstance(results, list) or not isinstance(names, dict):
        wrong = path if not isinstance(results, list) else names_path
        raise MalformedFile(
            f"{wrong}: not COCO's form; expected a list of results, and an object with their categories"
        )
    labels = _names(names, "categories", "name", names_path)
    return list(_coco(results, path, labels, _names(names, "images", "file_name", names_path)))


def _by_image(content: Mapping[str, Any], path: str) -> Iterator[Detection]:
    for place, (image, boxes) in enumerate(content.items()):
        # Folders may be named by patients, as MIMIC-CXR's are.
        shown = f"image {place}" if "/" in image or "\\" in image else repr(image)
        if not isinstance(boxes, list):
            raise MalformedFile(f"{path}: {shown} has {type(boxes).__name__}; expected a list of boxes")
        for number, entry in enumerate(boxes):
            where = f"{path}: {shown}, box {number}"
            yield _detection(entry, where, image=image, label=None, box="box")


def _coco(
    results: Sequence[Any], path: str, labels: Mapping[str, str], files: Mapping[str, str]
) -> Iterator[Detection]:
    for number, entry in enumerate(results):
        where = f"{path}: result {number}"
        if not isinstance(entry, dict):
            raise MalformedFile(f"{where} is {type(entry).__name__}; expected an object")
        category, image = (text_field(entry, field, where) for field in ("category_id", "image_id"))
        if category not in labels:
            raise UnknownName(f"{where}: category_id {category} is not among the categories; add it to them")
        yield _detection(entry, where, image=files.get(image, image), label=labels[category], box="bbox")


def _detection(entry: Any, where: str, *, image: str, label: str | None, box: str) -> Detection:
    if not isinstance(entry, dict):
        raise MalformedFile(f"{where} is {type(entry).__name__}; expected an object with label, box and score")
    numbers = entry.get(box)
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(_is_number(v) for v in numbers):
        raise InvalidValue(f"{where}: field {box!r} is {numbers!r}; expected four numbers x, y, w, h in pixels")
    score = entry.get("score")
    if not _is_number(score) or not 0 <= score <= 1:
        raise InvalidValue(f"{where}: field 'score' is {score!r}; expected a number from 0 to 1")
    x, y, w, h = numbers
    return Detection(image, text_field(entry, "label", where) if label is None else label, (x, y, w, h), score, where)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _names(content: Mapping[str, Any], table: str, field: str, path: str) -> dict[str, str]:
    """id → name of COCO's "categories" or "images", the latter perhaps absent."""
    entries = content.get(table, [] if table == "images" else None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MalformedFile(f"{path}: field {table!r} is no list of objects; expected COCO's {table}")
    where = f"{path}: {table}"
    return {text_field(entry, "id", where): text_field(entry, field, where) for entry in entries}


def _owners(images: Sequence[AnnotatedImage]) -> dict[str, str | None]:
    """Every name an image may be called by → its id; None where the name fits several. An id is never taken away."""
    owners: dict[str, str | None] = {}
    for image in images:
        for name in _file_names(image):
            owners[name] = image.image_id if owners.get(name, image.image_id) == image.image_id else None
    return owners | {image.image_id: image.image_id for image in images}


def _file_names(image: AnnotatedImage) -> tuple[str, ...]:
    if not isinstance(image.image, str):
        return ()
    path = PurePath(image.image)
    return path.name, path.stem, f"{path.parent.name}/{path.name}"


def _known_name(name: str, owners: Mapping[str, str | None]) -> str | None:
    """The name, or the last folder and file of a longer path, where an image of the split is called so.

    The file alone would not do: another image's "xmlab9/source.jpg" is not this split's only "source.jpg".
    """
    shorter = "/".join(PurePath(name).parts[-2:])
    return next((known for known in (name, shorter) if known in owners), None)


def _with_regions(image: AnnotatedImage, detections: Sequence[Detection]) -> AnnotatedImage:
    regions: list[Region] = []
    if detections:
        try:
            # Of the image itself: the size in a detector's file may be that of a resized copy.
            width, height = size_of(image.image, image.image_id)
        except ImageError:
            detections, width, height = (), 0, 0
        for detection in detections:
            box = box_from_pixels(*detection.pixels, width=width, height=height, where=detection.where)
            regions.append(Region(box, detection.label))
    return replace(image, regions=tuple(regions), provenance="detector")
