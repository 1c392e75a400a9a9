"""Regions from a detector's file, in place of annotated ones.

Two formats are read, both with boxes as `x, y, w, h` in pixels of the original image, or in shares of it where the
reading says so (`regions/given_boxes.py`):

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from data_pipelines.core.data_root import spelled_alike
from data_pipelines.core.errors import DataConflict, MalformedFile, MissingOption, UnknownName, invalid_field, listed
from data_pipelines.core.json_files import finite_numbers, list_of_objects, read_json, text_field
from data_pipelines.records import AS_FOUND, AnnotatedImage, BoxReading, Region, SourceSplit, TurnedImage
from data_pipelines.regions.given_boxes import GivenBoxes

logger = logging.getLogger(__name__)

_REMEDY = "name the file that the detector wrote"
# In place of an image's id where a name fits several.
_SEVERAL = ""


@dataclass(frozen=True)
class Detection:
    """A box that a detector proposes.

    Attributes:
      image: the image's name in the file.
      numbers: x, y, w, h, in the file's unit.
      where: file and entry, for messages.
    """

    image: str
    label: str
    numbers: tuple[float, float, float, float]
    score: float
    where: str


def attach_detections(
    split: SourceSplit, path: str, *, min_score: float, names_path: str = "", reading: BoxReading = AS_FOUND
) -> SourceSplit:
    """The split with a detector's boxes as its images' regions, provenance "detector".

    They replace what was annotated, so that a run shows what boxes found by a machine are worth. An image without a
    box of `min_score` has no regions, nor has one that cannot be read, which is reported where it is decoded. Regions
    that a question brought itself go; its own words find it others (`question_regions`). Boxes of images outside the
    split are left out, since one file may serve all splits; so are those outside their images, which `left_out` names.
    What becomes of the boxes is counted in the log.

    Args:
      path: the detector's file, see the top of this module.
      min_score: boxes below it are left out.
      names_path: the COCO file with "categories" and perhaps "images", for results that stand alone.
      reading: of the detector's boxes.

    Raises:
      DataError: a file is missing or malformed, boxes are not what they are taken for, no image of the split is named,
        or a name fits several of its images.
    """
    detections = read_detections(path, names_path=names_path)
    owners = _owners(split.images)
    found: dict[str, list[Detection]] = {}
    elsewhere = below = 0
    for detection in detections:
        # The name, or the last folder and file of a longer path. The file alone would not do: another image's
        # "xmlab9/source.jpg" is not this split's only "source.jpg".
        named = spelled_alike(detection.image)
        image_id = owners.get(named, owners.get("/".join(PurePath(named).parts[-2:])))
        if image_id is None:
            elsewhere += 1
            continue
        if image_id == _SEVERAL:
            raise DataConflict(f"{detection.where}: its name fits several images; name them by their ids")
        if detection.score < min_score:
            below += 1
        else:
            found.setdefault(image_id, []).append(detection)
    if elsewhere == len(detections):
        example = split.images[0].image_id if split.images else "none"
        raise UnknownName(
            f"{path}: names no image of the split ({len(split.images)} images, the first {example!r}); "
            "name images by their ids or file names"
        )
    boxes = GivenBoxes(reading, path)
    images = [_with_regions(boxes, image, found.get(image.image_id, ())) for image in split.images]
    boxes.judge()
    bare = [image.image_id for image in images if not image.regions]
    logger.info(
        "%s: %d boxes on %d of %d images; left out %d boxes that score below %g, and %d on images outside the split; "
        "images without a box: %s", path, sum(len(given) for given in found.values()), len(found), len(images), below,
        min_score, elsewhere, listed(bare) or "none",
    )  # fmt: skip
    examples = [replace(example, regions=(), distractors=(), provenance="") for example in split.examples]
    for reason, given in boxes.left_out.items():
        logger.warning("%s: left out %d (%s): %s", path, len(given), reason, listed(given))
    left_out = {**split.left_out, **boxes.left_out}
    return replace(split, examples=examples, images=images, left_out=left_out, clipped=len(boxes.clipped))


def read_detections(path: str, *, names_path: str = "") -> list[Detection]:
    """The boxes of a detector's file in the file's order.

    Raises:
      DataError: a file is missing or malformed; the message names the entry.
    """
    content = read_json(path, remedy=_REMEDY, unique_keys=True, absent=False)
    if isinstance(content, dict) and "annotations" not in content:
        return list(_by_image(content, path))
    if isinstance(content, dict):
        results, names, names_path = content["annotations"], content, path
    elif names_path:
        results, names = content, read_json(names_path, remedy=_REMEDY, unique_keys=True, absent=False)
    else:
        raise MissingOption(
            f"{path}: COCO results give categories by number; name the COCO file that has their names, or write one "
            'object with "categories" and "annotations"'
        )
    if not isinstance(names, dict):
        raise MalformedFile(f"{names_path}: is {type(names).__name__}; expected COCO's object with the categories")
    labels, files = _names(names, "categories", "name", names_path), _names(names, "images", "file_name", names_path)
    return list(_coco(list_of_objects(results, path, remedy=_REMEDY), path, labels, files))


def _by_image(content: Mapping[str, Any], path: str) -> Iterator[Detection]:
    for place, (image, boxes) in enumerate(content.items()):
        # Folders may be named by patients, as MIMIC-CXR's are.
        where = f"{path}: image {place}" if "/" in image or "\\" in image else f"{path}: {image!r}"
        for number, entry in enumerate(list_of_objects(boxes, where, remedy=_REMEDY)):
            label = text_field(entry, "label", f"{where}, box {number}")
            yield _detection(entry, f"{where}, box {number}", image=image, label=label, box="box")


def _coco(
    results: Sequence[dict[str, Any]], path: str, labels: Mapping[str, str], files: Mapping[str, str]
) -> Iterator[Detection]:
    for number, entry in enumerate(results):
        where = f"{path}: result {number}"
        category, image = (text_field(entry, field, where) for field in ("category_id", "image_id"))
        if category not in labels:
            raise UnknownName(f"{where}: category_id {category} is not among the categories; add it to them")
        yield _detection(entry, where, image=files.get(image, image), label=labels[category], box="bbox")


def _detection(entry: Mapping[str, Any], where: str, *, image: str, label: str, box: str) -> Detection:
    x, y, w, h = finite_numbers(entry.get(box), 4, where, box)
    score = entry.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise invalid_field(where, "score", score, "expected a number from 0 to 1")
    return Detection(image, label, (x, y, w, h), score, where)


def _names(content: Mapping[str, Any], table: str, field: str, path: str) -> dict[str, str]:
    """id → name of COCO's "categories" or "images", the latter perhaps absent."""
    where = f"{path}: field {table!r}"
    entries = list_of_objects(content.get(table, [] if table == "images" else None), where, remedy=_REMEDY)
    return {text_field(entry, "id", where): text_field(entry, field, where) for entry in entries}


def _owners(images: Sequence[AnnotatedImage]) -> dict[str, str]:
    """Every name an image may be called by → its id, or `_SEVERAL`. An id is never taken away."""
    owners: dict[str, str] = {}
    for image in images:
        source = image.image.source if isinstance(image.image, TurnedImage) else image.image
        if isinstance(source, str):
            path = PurePath(source)
            for name in map(spelled_alike, (path.name, path.stem, f"{path.parent.name}/{path.name}")):
                owners[name] = image.image_id if owners.get(name, image.image_id) == image.image_id else _SEVERAL
    return owners | {spelled_alike(image.image_id): image.image_id for image in images}


def _with_regions(boxes: GivenBoxes, image: AnnotatedImage, detections: Sequence[Detection]) -> AnnotatedImage:
    # Of the image itself: the size in a detector's file may be that of a resized copy.
    frame = boxes.frame(image.image, image.image_id) if detections else None
    places = [(boxes.box(d.numbers, frame, d.where), d.label) for d in detections] if frame else []
    regions = tuple(Region(box, label) for box, label in places if box)
    return replace(image, regions=regions, provenance="detector")
