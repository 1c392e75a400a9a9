"""Marked regions: from what a user gives (boxes in pixels, masks) to the arrays that the model reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .pixels import Box, box_coverage, cell_coverage, crop_window, resample

_LOC_BINS = 1023
# Annotation tools round to whole pixels, so a box that ends one pixel outside its image is not a mistake.
_TOLERANCE_PIXELS = 1.0


class Marked(NamedTuple):
    """A region of one image.

    Attributes:
      box: (y0, x0, y1, x1), normalised to the image.
      inside: its outline as a mask of the image, bool [H, W], where it is shown by one.
    """

    box: Box
    inside: np.ndarray | None = None


def mark(region: Any, *, width: int, height: int, outlines: bool, where: str) -> Marked:
    """A region as the user gives it: four numbers (x, y, w, h) in pixels of the image, or a mask of the image's shape.

    Args:
      outlines: show a mask by its outline; otherwise by its box.
      where: names the region in messages.

    Raises:
      ValueError: neither; or a box outside the image, an empty mask, a mask of another shape.
    """
    array = np.asarray(region)
    if array.dtype == bool and array.ndim == 2:
        if array.shape != (height, width):
            raise ValueError(
                f"{where}: mask of {array.shape[1]} x {array.shape[0]} pixels for an image of {width} x {height}; "
                "give a mask of the image's size"
            )
        return Marked(box_from_mask(array, where=where), array if outlines else None)
    if array.shape == (4,) and array.dtype.kind in "iuf":
        x, y, w, h = (float(v) for v in array)
        return Marked(box_from_pixels(x, y, w, h, width=width, height=height, where=where))
    raise ValueError(
        f"{where}: neither a box nor a mask; give four numbers (x, y, w, h) in pixels, or a boolean array of the "
        "image's height and width"
    )


def box_from_pixels(x: float, y: float, w: float, h: float, *, width: int, height: int, where: str) -> Box:
    """Box of a rectangle in pixels; one that leaves the image by at most one pixel is clipped to it.

    Raises:
      ValueError: a number is not finite, the area is not positive, or the rectangle leaves the image.
    """
    given = f"{where}: box x,y,w,h = {x:g},{y:g},{w:g},{h:g}"
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        raise ValueError(f"{given} has a number that is not finite; give four finite pixel coordinates")
    if w <= 0 or h <= 0:
        raise ValueError(f"{given} has no area; width and height must be positive")
    outside = max(-x, -y, x + w - width, y + h - height)
    if outside > _TOLERANCE_PIXELS:
        raise ValueError(
            f"{given} leaves the image of {width}x{height} pixels by {outside:g}; "
            "give pixels of the original image, x,y being the top-left corner"
        )
    y0, x0, y1, x1 = (min(max(v, 0.0), 1.0) for v in (y / height, x / width, (y + h) / height, (x + w) / width))
    if y1 <= y0 or x1 <= x0:
        raise ValueError(f"{given} has no area inside the image of {width}x{height} pixels; move it into the image")
    return y0, x0, y1, x1


def box_from_mask(mask: np.ndarray, *, where: str) -> Box:
    """The smallest box around the true pixels of a mask, edges included.

    Raises:
      ValueError: no pixel is true.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise ValueError(f"{where}: mask is empty; mark at least one pixel")
    height, width = mask.shape
    y0, y1 = float(rows[0] / height), float((rows[-1] + 1) / height)
    x0, x1 = float(columns[0] / width), float((columns[-1] + 1) / width)
    return y0, x0, y1, x1


def box_to_loc_tokens(box: Box) -> str:
    """A box as PaliGemma writes one: `<locYYYY><locXXXX><locYYYY><locXXXX>`."""
    return "".join(f"<loc{round(v * _LOC_BINS):04d}>" for v in box)


def region_arrays(original: np.ndarray, marked: Sequence[Marked], settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What the model reads of one image's regions, in R slots; zeros in empty ones.

    Returns:
      regions float32 [R, 4], region_valid bool [R]; with encoder crop region_pixels uint8 [R, C, C, 3] and
      region_crop_coverage float32 [R, G, G]; with encoder align region_align_coverage float32 [R, k, k].
    """
    config = settings["regions"]
    slots, encoders = config["max_regions"], config["encoders"]
    boxes = np.zeros((slots, 4), np.float32)
    boxes[: len(marked)] = np.reshape([region.box for region in marked], (-1, 4))
    arrays = {"regions": boxes, "region_valid": np.arange(slots) < len(marked)}
    if "crop" in encoders:
        grid = config["crop_size"] // settings["patch_size"]
        arrays["region_pixels"] = np.zeros((slots, config["crop_size"], config["crop_size"], 3), np.uint8)
        arrays["region_crop_coverage"] = np.zeros((slots, grid, grid), np.float32)
    if "align" in encoders:
        side = math.isqrt(config["tokens"])
        arrays["region_align_coverage"] = np.zeros((slots, side, side), np.float32)
    for slot, region in enumerate(marked):
        for name, value in _arrays_of(original, region, settings).items():
            arrays[name][slot] = value
    return arrays


def _arrays_of(original: np.ndarray, region: Marked, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    config = settings["regions"]
    height, width = original.shape[:2]
    box, inside = region
    arrays = {}
    if "crop" in config["encoders"]:
        window = crop_window(
            box, height=height, width=width, context=config["crop_context"], min_pixels=config["crop_min_pixels"]
        )
        grid = config["crop_size"] // settings["patch_size"]
        arrays["region_pixels"] = resample(original, window, config["crop_size"])
        arrays["region_crop_coverage"] = (
            box_coverage(box, window, grid, height=height, width=width)
            if inside is None
            else cell_coverage(inside, window, grid, box=box)
        )
    if "align" in config["encoders"]:
        side = math.isqrt(config["tokens"])
        window = (box[0] * height, box[1] * width, box[2] * height, box[3] * width)
        arrays["region_align_coverage"] = (
            np.ones((side, side), np.float32) if inside is None else cell_coverage(inside, window, side, box=box)
        )
    return arrays
