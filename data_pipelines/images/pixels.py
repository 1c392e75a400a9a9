"""Pixel arithmetic: the reference's resize, windows cut from the original resolution, and what a region covers of them.

NumPy and Pillow only, and nothing of this project: an exported Hugging Face model carries this very file beside its own
code, so that training and every later use prepare pixels by the same lines.

Images are uint8 [H, W, 3]. A box is (y0, x0, y1, x1), normalised to its image. A window is (y0, x0, y1, x1) in pixels
of the original image, as floats; it may reach outside the image.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]
Window = tuple[float, float, float, float]

# Rows of output per matrix product. A row of the kernel is a few taps wide; products over small blocks of rows skip
# nearly all of its zeros and still run as dense arithmetic.
_BLOCK = 8
# Multiply-adds of one product. Above 2^18 OpenBLAS starts threads, whose spinning waits slow everything else on a
# machine that is busy training; and the threads of the loader are parallel already.
_MULTIPLY_ADDS = 2**18 - 1


# Beyond this a floating-point value is no measurement: programs write the least number of their type, -3.4e38 or
# -1.8e308, where there is none.
_BEYOND = 1e37
_VALUES = 2**22  # so many are stretched at a time


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB.

    Transparency is dropped. Greys of more than 8 bits are stretched, for scanners use a part of the range only: see
    `deep_grey`.
    """
    if is_deep(image.mode):
        image = Image.fromarray(deep_grey(image))
    return image.convert("RGB")


def is_deep(mode: str) -> bool:
    """Whether images of this mode of Pillow are greys of more than 8 bits."""
    return mode in ("F", "I") or mode.startswith("I;16")


def deep_grey(image: Image.Image) -> np.ndarray:
    """Greys of more than 8 bits, `stretched` to uint8 [H, W], with light where the file means light.

    A TIFF file says whether its zero is white (PhotometricInterpretation), and GDAL's which value is no measurement.
    """
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow reads them as signed
    try:
        missing = float(str(tags.get(42113, "nan")).strip("\0 "))
    except ValueError:
        missing = math.nan
    return stretched(values, white_is_zero=tags.get(262) == 0, missing=missing)


def stretched(values: np.ndarray, *, white_is_zero: bool = False, missing: float = math.nan) -> np.ndarray:
    """Values from their own least to their greatest as 0..255, truncated: uint8 of the same shape.

    What is no measurement does not count and is black: what is not finite, what is beyond 1e37, and `missing`. Of one
    value only: black.
    """
    out = np.zeros(values.shape, np.uint8)
    # In pieces, since float32 takes up to four times the memory of the values.
    step = max(1, _VALUES // max(1, values[:1].size))
    blocks = [slice(start, start + step) for start in range(0, len(values), step)]
    low, high = math.inf, -math.inf
    for block in blocks:
        grey = np.asarray(values[block], np.float32)
        kept = grey[_measured(grey, missing)]
        if kept.size:
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
    for block in blocks if high > low else ():
        grey = np.asarray(values[block], np.float32)
        counted = _measured(grey, missing)
        levels = ((np.where(counted, grey, low) - low) * (255 / (high - low))).astype(np.uint8)
        out[block] = np.where(counted, 255 - levels if white_is_zero else levels, 0)
    return out


def _measured(values: np.ndarray, missing: float) -> np.ndarray:
    """Where values are measurements."""
    return (np.abs(values) < _BEYOND) & (values != np.float32(missing))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """PaliGemma's resize: to a square whatever the aspect, bilinear with antialiasing, truncated to uint8 [S, S, 3].

    The arithmetic of `tf.image.resize(method="bilinear", antialias=True)` as big_vision's `pp/ops_image.py` calls it.
    """
    height, width = image.shape[:2]
    return resample(image, (0.0, 0.0, float(height), float(width)), size)


def resample(image: np.ndarray, window: Window, size: int) -> np.ndarray:
    """The same kernel over a window of the image: uint8 [S, S, 3]; what lies outside the image is black.

    Shrinking widens the triangle kernel (antialiasing), enlarging interpolates; it reads the pixels just outside the
    window where there are some.
    """
    height, width = image.shape[:2]
    y0, x0, y1, x1 = window
    across = _kernel(x0, x1, width, size)
    left, right = across[0].first, across[-1].first + across[-1].weights.shape[1]
    strip = np.ascontiguousarray(image[:, left:right]).reshape(height, -1)
    rows = _apply(_kernel(y0, y1, height, size), strip)
    columns = np.ascontiguousarray(rows.reshape(size, right - left, 3).transpose(1, 0, 2)).reshape(right - left, -1)
    out = _apply(across, columns, offset=left).reshape(size, size, 3).transpose(1, 0, 2)
    return np.clip(out, 0, 255).astype(np.uint8)


class _Block(NamedTuple):
    """The kernel of the next few outputs: float32 weights [outputs, inputs] on the input pixels from `first` on."""

    first: int
    weights: np.ndarray


@functools.lru_cache(maxsize=256)
def _kernel(start: float, stop: float, length: int, size: int) -> tuple[_Block, ...]:
    """The triangle kernel of `size` outputs over [start, stop) of an axis of `length` pixels."""
    scale = (stop - start) / size
    support = np.float32(max(scale, 1.0))
    count = -(-size // _BLOCK)
    # Half-pixel centres; the last block is filled up with its last output.
    outputs = np.minimum(np.arange(count * _BLOCK), size - 1).reshape(count, _BLOCK)
    centre = (start + (outputs + 0.5) * scale - 0.5).astype(np.float32)
    taps = min(length, math.ceil((_BLOCK - 1) * scale + 2 * support) + 2)
    first = np.clip(np.floor(centre[:, 0] - support), 0, length - taps).astype(int)
    inputs = (first[:, None] + np.arange(taps)).astype(np.float32)
    weights = np.maximum(0, 1 - np.abs(centre[:, :, None] - inputs[:, None, :]) / support)
    weights /= np.maximum(weights.sum(axis=2, keepdims=True), 1e-6)
    weights[(centre < -0.5) | (centre > length - 0.5)] = 0
    return tuple(
        _Block(int(first[i]), weights[i, : min(_BLOCK, size - i * _BLOCK)].astype(np.float32)) for i in range(count)
    )


def _apply(kernel: tuple[_Block, ...], values: np.ndarray, offset: int = 0) -> np.ndarray:
    """The kernel along axis 0 of `values` [inputs, C], whose first row is pixel `offset`: float32 [S, C]."""
    columns = values.shape[1]
    out = np.empty((sum(len(block.weights) for block in kernel), columns), np.float32)
    row = 0
    for first, weights in kernel:
        block_rows, taps = weights.shape
        inputs = values[first - offset : first - offset + taps].astype(np.float32, copy=False)
        step = max(1, _MULTIPLY_ADDS // weights.size)
        for start in range(0, columns, step):
            part = slice(start, start + step)
            np.matmul(weights, inputs[:, part], out=out[row : row + block_rows, part])
        row += block_rows
    return out


def crop_window(box: Box, *, height: int, width: int, context: float, min_pixels: int) -> Window:
    """The square window around a box that the region encoder sees.

    Args:
      box: normalised to the image.
      height, width: of the image, pixels.
      context: side of the window over the longer side of the box.
      min_pixels: the window's side is never smaller, so that a tiny lesion keeps its surroundings (Describe Anything).

    Returns:
      A window in pixels, moved to lie inside the image along each axis where it fits; elsewhere centred on the box.
    """
    y0, x0, y1, x1 = box
    side = max((y1 - y0) * height, (x1 - x0) * width) * context
    side = max(side, float(min_pixels))
    top = _place((y0 + y1) / 2 * height, side, height)
    left = _place((x0 + x1) / 2 * width, side, width)
    return (top, left, top + side, left + side)


def _place(centre: float, side: float, length: int) -> float:
    start = centre - side / 2
    return min(max(start, 0.0), length - side) if side <= length else start


def cell_coverage(inside: np.ndarray, window: Window, cells: int, *, box: Box | None = None) -> np.ndarray:
    """Share of each cell of a grid over a window that lies inside a mask, and inside a box if one is given.

    Args:
      inside: the mask, bool [H, W], in pixels of the original image.
      window: what the grid spans.
      cells: the grid has so many cells on a side.
      box: normalised; pixels outside it do not count (a mask image marks every instance of its label).

    Returns:
      float32 [cells, cells].
    """
    height, width = inside.shape
    limit_y, limit_x = (0.0, float(height)), (0.0, float(width))
    if box is not None:
        limit_y, limit_x = (box[0] * height, box[2] * height), (box[1] * width, box[3] * width)
    rows, row_weights = _cell_overlap(window[0], window[2], cells, limit_y, height)
    columns, column_weights = _cell_overlap(window[1], window[3], cells, limit_x, width)
    return row_weights @ inside[rows, columns].astype(np.float32) @ column_weights.T


def box_coverage(box: Box, window: Window, cells: int, *, height: int, width: int) -> np.ndarray:
    """`cell_coverage` of a plain box, computed exactly: float32 [cells, cells]."""

    def overlap(start: float, stop: float, low: float, high: float) -> np.ndarray:
        edges = np.linspace(start, stop, cells + 1)
        shared = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return np.maximum(shared, 0) * (cells / (stop - start))

    rows = overlap(window[0], window[2], box[0] * height, box[2] * height)
    columns = overlap(window[1], window[3], box[1] * width, box[3] * width)
    return np.outer(rows, columns).astype(np.float32)


def _cell_overlap(
    start: float, stop: float, cells: int, limit: tuple[float, float], length: int
) -> tuple[slice, np.ndarray]:
    """The pixels that matter, within `limit`, and the share of each cell's extent that each covers [cells, pixels]."""
    low, high = max(start, limit[0], 0.0), min(stop, limit[1], float(length))
    if high <= low:
        return slice(0, 0), np.zeros((cells, 0), np.float32)
    pixels = slice(int(np.floor(low)), int(np.ceil(high)))
    left = np.maximum(np.arange(pixels.start, pixels.stop), low)
    right = np.minimum(np.arange(pixels.start, pixels.stop) + 1, high)
    edges = np.linspace(start, stop, cells + 1)
    shared = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return pixels, (np.maximum(shared, 0) * (cells / (stop - start))).astype(np.float32)


def sample_mask(inside: np.ndarray, size: int, *, view: Box, limit: Box) -> np.ndarray:
    """A mask at the pixels of the square that the model sees: bool [S, S], nearest pixel.

    Args:
      inside: the mask, bool [H, W], in pixels of the original image.
      view: the part of the image that the square shows.
      limit: what lies outside this box is not marked.
    """
    height, width = inside.shape
    centres = (np.arange(size) + 0.5) / size
    y = view[0] + centres * (view[2] - view[0])
    x = view[1] + centres * (view[3] - view[1])
    within = ((y >= limit[0]) & (y <= limit[2]))[:, None] & ((x >= limit[1]) & (x <= limit[3]))
    return within & inside[(y * height).astype(int)[:, None], (x * width).astype(int)]
