"""What the data sets that are drawn have in common: a picture depends on the seed, its split and its number alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.core.seeding import rng_for
from data_pipelines.records import AnnotatedImage, SourceSplit, VQAExample


class Drawn(Protocol):
    """The settings of such a data set."""

    @property
    def train_images(self) -> int: ...
    @property
    def validate_images(self) -> int: ...
    @property
    def test_images(self) -> int: ...
    @property
    def seed(self) -> int: ...


def draw_split(
    name: str,
    config: Drawn,
    split: str,
    draw: Callable[[np.random.Generator, str], tuple[AnnotatedImage, Sequence[VQAExample]]],
) -> SourceSplit:
    """The pictures of one split with the questions about each.

    Args:
      name: of the data set.
      draw: draws the picture of an image_id, and asks its questions.

    Raises:
      DataError: no such split.
    """
    counts = {"train": config.train_images, "validate": config.validate_images, "test": config.test_images}
    if split not in counts:
        raise DataError(f"{name}: no split {split!r}; choose one of {', '.join(counts)}")
    examples: list[VQAExample] = []
    images: list[AnnotatedImage] = []
    for index in range(counts[split]):
        image, asked = draw(rng_for(name, config.seed, split, index), f"{split}-{index:05d}")
        images.append(image)
        examples += asked
    return SourceSplit(examples, images)


def png(pixels: np.ndarray) -> bytes:
    """The picture as a PNG file, packed lightly: it is drawn anew in every run."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def yes_or_no(fact: bool) -> str:
    """The answer to a closed question."""
    return "Yes" if fact else "No"
