"""Regions drawn into the pixels, as ViP-LLaVA does (arXiv 2312.00784): a coloured outline, blended.

NumPy and Pillow only, and nothing of this project: like `pixels.py`, this very file travels with an exported model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

RED = (255, 0, 0)
COLOURS = (RED, (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (255, 128, 0), (255, 255, 255))

# ViP-LLaVA's ranges, both ends included; widths in pixels of a 336 px image.
_ALPHA = (96, 255)
_WIDTH = (2, 8)
_WIDTH_AT = 336

_FIXED_ALPHA = 224
_FIXED_WIDTH = 5

Box = tuple[float, float, float, float]  # (y0, x0, y1, x1), normalised
Outline = Box | np.ndarray


def draw_outlines(image: np.ndarray, outlines: Sequence[Outline], rng: np.random.Generator | None = None) -> np.ndarray:
    """The image with every outline drawn into it, in one colour, opacity and width.

    Args:
      image: uint8 [S, S, 3].
      outlines: each a box normalised to the image, or a mask bool [S, S], whose inner border is drawn.
      rng: draws colour, opacity and width (training); None takes red, nearly opaque, of middle width.
    """
    if not outlines:
        return image
    size = image.shape[0]
    if rng is None:
        colour, alpha, width = RED, _FIXED_ALPHA, _FIXED_WIDTH
    else:
        colour = COLOURS[rng.integers(len(COLOURS))]
        alpha = int(rng.integers(*_ALPHA, endpoint=True))
        width = int(rng.integers(*_WIDTH, endpoint=True))
    pixels = max(1, round(width * size / _WIDTH_AT))
    drawn = np.zeros((size, size), bool)
    for outline in outlines:
        drawn |= _border(outline, pixels) if isinstance(outline, np.ndarray) else _frame(outline, size, pixels)
    out = image.copy()
    blended = image[drawn].astype(np.float32) * (255 - alpha) + np.array(colour, np.float32) * alpha
    out[drawn] = np.round(blended / 255).astype(np.uint8)
    return out


def _frame(box: Box, size: int, width: int) -> np.ndarray:
    y0, x0, y1, x1 = (round(v * size) for v in box)
    # A box thinner than a pixel still shows; Pillow's corners are both inside the rectangle.
    corners = (min(x0, size - 1), min(y0, size - 1), max(x1 - 1, x0), max(y1 - 1, y0))
    layer = Image.new("1", (size, size))
    ImageDraw.Draw(layer).rectangle(corners, outline=1, width=width)
    return np.asarray(layer)


def _border(mask: np.ndarray, width: int) -> np.ndarray:
    # Padded, so that a mask that touches the image's edge has its border there too.
    layer = Image.fromarray(np.pad(mask, width).astype(np.uint8))
    eroded = np.asarray(layer.filter(ImageFilter.MinFilter(2 * width + 1)))[width:-width, width:-width]
    return mask & (eroded == 0)
