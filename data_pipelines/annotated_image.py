"""What every source returns for a split: its questions, and its images with their annotated regions."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipelines.records import Region, VQAExample


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and everything that is marked on it; the region questions are rebuilt from these.

    Attributes:
      image: path of the image file, or its encoded bytes.
      image_id: as in the image's examples.
      body_part: where the data set says so, e.g. "Abdomen".
    """

    dataset: str
    split: str
    image: str | bytes = field(repr=False)
    image_id: str
    regions: tuple[Region, ...]
    modality: str = ""
    body_part: str = ""


@dataclass(frozen=True)
class SourceSplit:
    """One split of a source: the questions its authors ask, and its images (with or without regions)."""

    examples: list[VQAExample]
    images: list[AnnotatedImage]
