"""Images made worse by degrees, in the pixels of the original, so that a region's crop sees them as the image does.

Kinds and strengths are those of ImageNet-C (Hendrycks & Dietterich, 2019, arXiv 1903.12261, `make_imagenet_c.py`) where
it has them; levels 1 to 5:

noise      Gaussian, standard deviation 0.08, 0.12, 0.18, 0.26, 0.38 of full scale
blur       Gaussian, standard deviation 1, 2, 3, 4, 6 pixels at a shorter side of 224
contrast   distance from each channel's mean times 0.4, 0.3, 0.2, 0.1, 0.05
jpeg       quality 25, 18, 15, 10, 7, at the original size
occlusion  0.1, 0.2, 0.3, 0.4, 0.5 of the 8 x 8 cells of a grid are mid-grey (127), drawn at random and not by what they
           hide (after Hide-and-Seek, Singh & Lee, 2017, arXiv 1704.04232; ImageNet-C has none)

Two things differ from ImageNet-C, whose images have 224 pixels. The grain of noise and the width of blur grow with the
shorter side, else shrinking a scan of 2,000 pixels to what a model reads would undo them. And noise is the same in the
three channels: most medical images are grey and stay so. What is drawn depends on the example's id and the kind alone;
a higher level scales the same noise and hides the same cells and more, so that damage grows with the level.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageFilter

from data_pipelines.conditions import CORRUPTIONS, LEVELS
from data_pipelines.core.errors import UnknownName
from data_pipelines.core.seeding import rng_for
from data_pipelines.images.reading import image_file

NOISE_DEVIATIONS = (0.08, 0.12, 0.18, 0.26, 0.38)
BLUR_DEVIATIONS = (1.0, 2.0, 3.0, 4.0, 6.0)
CONTRAST_FACTORS = (0.4, 0.3, 0.2, 0.1, 0.05)
JPEG_QUALITIES = (25, 18, 15, 10, 7)
OCCLUDED_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
OCCLUSION_GRID = 8
MID_GREY = 127
_SIDE = 224  # of ImageNet-C's images, pixels

Pixels = UInt8[np.ndarray, "H W 3"]


def corrupted(image: Pixels, kind: str, level: int, name: str) -> Pixels:
    """The image made worse; a new array of the same size.

    Args:
      kind: of `conditions.CORRUPTIONS`.
      level: 1 to 5.
      name: the example's id, which decides what is drawn.

    Raises:
      DataError: no such kind or level.
    """
    if kind not in CORRUPTIONS or level not in LEVELS:
        raise UnknownName(
            f"corruption {kind}:{level}: there is none; the kinds are {', '.join(CORRUPTIONS)}, the levels 1 to 5"
        )
    if kind == "noise":
        drawn = _grains(image, rng_for("corruption", "noise", name).standard_normal)
        return _pixels(image + 255 * NOISE_DEVIATIONS[level - 1] * drawn)
    if kind == "blur":
        radius = BLUR_DEVIATIONS[level - 1] * min(image.shape[:2]) / _SIDE
        return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    if kind == "contrast":
        middle = image.mean(axis=(0, 1))
        return _pixels((image - middle) * CONTRAST_FACTORS[level - 1] + middle)
    if kind == "jpeg":
        file = image_file(Image.fromarray(image), "JPEG", quality=JPEG_QUALITIES[level - 1])
        return np.array(Image.open(io.BytesIO(file)).convert("RGB"))
    return _occluded(image, OCCLUDED_SHARES[level - 1], name)


def noise_image(image: Pixels, name: str) -> Pixels:
    """An image of noise in place of one of the same size: every grain uniform over 0 … 255, whatever the image shows.

    Args:
      name: the example's id, which decides what is drawn.
    """
    rng = rng_for("noise image", name)
    return np.repeat(_grains(image, lambda shape: rng.integers(0, 256, shape, np.uint8)), 3, axis=2)


def _occluded(image: Pixels, share: float, name: str) -> Pixels:
    cells = OCCLUSION_GRID**2
    hidden = np.zeros(cells, bool)
    hidden[rng_for("corruption", "occlusion", name).permutation(cells)[: round(share * cells)]] = True
    rows, columns = (np.arange(side) * OCCLUSION_GRID // side for side in image.shape[:2])
    mask = hidden.reshape(OCCLUSION_GRID, OCCLUSION_GRID)[rows[:, None], columns]
    return np.where(mask[:, :, None], np.uint8(MID_GREY), image)


def _grains(image: Pixels, draw: Callable[[tuple[int, int, int]], np.ndarray]) -> Shaped[np.ndarray, "H W 1"]:
    """Noise for each pixel of an image, in grains of 1 pixel up to a shorter side of 335, of 2 from there on, …"""
    height, width = image.shape[:2]
    grain = max(1, math.floor(min(height, width) / _SIDE + 0.5))
    drawn = draw((math.ceil(height / grain), math.ceil(width / grain), 1))
    return drawn.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]


def _pixels(values: Float[np.ndarray, "H W 3"]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
