"""Boxes: their formats, and the geometry on them. Nothing else in the project converts a box.

Inside the project a box is `(y0, x0, y1, x1)`, normalised to its image. Annotation files and the command line write
`x, y, w, h` in pixels of the original image, (x, y) being the top-left corner, as COCO and SLAKE do. The language
model writes four loc tokens, `round(v * 1023)` of y0, x0, y1, x1, as PaliGemma does.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from data_pipelines.core.errors import InvalidRegion
from data_pipelines.records import Box

# Annotation tools round to whole pixels, so a box that ends one pixel outside its image is not a mistake.
TOLERANCE_PIXELS = 1.0
_LOC_BINS = 1023
_FOUR_LOC_TOKENS = re.compile(r"<loc(\d{4})>\s*<loc(\d{4})>\s*<loc(\d{4})>\s*<loc(\d{4})>")


def box_from_pixels(x: float, y: float, w: float, h: float, *, width: int, height: int, where: str) -> Box:
    """Box of an `x, y, w, h` rectangle in pixels of an image of `width` x `height` pixels.

    A rectangle that leaves the image by at most one pixel is clipped to it. `regions/given_boxes.py` judges boxes that
    somebody gives, and cuts those that leave their images by more.

    Args:
      where: names the file and the entry in error messages.

    Raises:
      DataError: a number is not finite, the area is not positive, or the rectangle leaves the image.
    """
    given = f"{where}: box x,y,w,h = {x:g},{y:g},{w:g},{h:g}"
    check_numbers(x, y, w, h, given=given)
    outside = overhang(x, y, w, h, width=width, height=height)
    if outside > TOLERANCE_PIXELS:
        raise InvalidRegion(
            f"{given} leaves the image of {width}x{height} pixels by {outside:g}; "
            "give pixels of the original image, x,y being the top-left corner"
        )
    box = clip((y / height, x / width, (y + h) / height, (x + w) / width))
    if area(box) == 0:
        raise InvalidRegion(f"{given} has no area inside the image of {width}x{height} pixels; move it into the image")
    return box


def check_numbers(x: float, y: float, w: float, h: float, *, given: str) -> None:
    """Raises: DataError: a number is not finite, or the area is not positive; `given` is the box as a user finds it."""
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        raise InvalidRegion(f"{given} has a number that is not finite; give four finite pixel coordinates")
    if w <= 0 or h <= 0:
        raise InvalidRegion(f"{given} has no area; width and height must be positive", fault="a box has no area")


def overhang(x: float, y: float, w: float, h: float, *, width: int, height: int) -> float:
    """By how many pixels a rectangle leaves its image at most; 0 or less where it lies inside."""
    return max(-x, -y, x + w - width, y + h - height)


def box_to_pixels(box: Box, *, width: int, height: int) -> tuple[float, float, float, float]:
    """`(x, y, w, h)` of a box, in pixels of an image of `width` x `height` pixels."""
    y0, x0, y1, x1 = box
    return x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height


def box_from_polygon(polygon: Sequence[tuple[float, float]], *, where: str) -> Box:
    """The smallest box around a polygon of normalised vertices (y, x).

    Raises:
      DataError: fewer than three vertices, a vertex outside the image, or no area.
    """
    if len(polygon) < 3:
        raise InvalidRegion(f"{where}: polygon has {len(polygon)} vertices; give at least three")
    ys, xs = zip(*polygon, strict=True)
    if not all(0 <= v <= 1 for v in (*ys, *xs)):
        raise InvalidRegion(f"{where}: polygon has a vertex outside the image; give (y, x) normalised to 0..1")
    box = (min(ys), min(xs), max(ys), max(xs))
    if area(box) == 0:
        raise InvalidRegion(f"{where}: polygon has no area; its vertices must not lie on one line")
    return box


def box_from_mask(mask: Bool[np.ndarray, "H W"], *, where: str) -> Box:
    """The smallest box around the true pixels, edges included: a single pixel has a box one pixel wide.

    Raises:
      DataError: no pixel is true.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise InvalidRegion(f"{where}: mask is empty; mark at least one pixel")
    height, width = mask.shape
    y0, x0, y1, x1 = rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width
    return float(y0), float(x0), float(y1), float(x1)


def clip(box: Box) -> Box:
    """The part of a box that lies inside the image."""
    y0, x0, y1, x1 = (min(max(float(v), 0.0), 1.0) for v in box)
    return y0, x0, y1, x1


def within_view(box: Box, view: Box) -> Box:
    """The part of a box that lies in a window of its image, normalised to the window."""
    y0, x0, y1, x1 = view
    height, width = y1 - y0, x1 - x0
    return clip(((box[0] - y0) / height, (box[1] - x0) / width, (box[2] - y0) / height, (box[3] - x0) / width))


def area(box: Box) -> float:
    """Share of the image covered; 0 for a box whose corners are swapped, which a model may write."""
    y0, x0, y1, x1 = box
    return max(0.0, y1 - y0) * max(0.0, x1 - x0)


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 when either has no area."""
    overlap = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return overlap / (area(a) + area(b) - overlap) if overlap else 0.0


def box_to_loc_tokens(box: Box) -> str:
    """`<locYYYY><locXXXX><locYYYY><locXXXX>` of a box inside the image."""
    return "".join(f"<loc{round(v * _LOC_BINS):04d}>" for v in box)


def first_box(text: str) -> Box | None:
    """The first box that a model wrote, where it is complete and has an area; else None.

    The first and not the best: a model must not gain by writing many.
    """
    found = boxes_from_text(text)
    return found[0] if found and area(found[0]) > 0 else None


def boxes_from_text(text: str) -> list[Box]:
    """Every run of four loc tokens in `text` as a box, in the order written.

    The text may be a model's, so nothing is an error: runs with a number above 1023 are left out, and a box whose
    corners are swapped is returned as written (its `iou` with anything is 0).
    """
    runs = ([int(v) for v in run] for run in _FOUR_LOC_TOKENS.findall(text))
    return [
        (y0 / _LOC_BINS, x0 / _LOC_BINS, y1 / _LOC_BINS, x1 / _LOC_BINS)
        for y0, x0, y1, x1 in runs
        if max(y0, x0, y1, x1) <= _LOC_BINS
    ]
