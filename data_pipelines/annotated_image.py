"""What every source returns for a split: its questions, and its images with their annotated regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_pipelines.records import ImageSource, Region, VQAExample


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and everything that is marked on it; the region questions are rebuilt from these.

    Attributes:
      image: the image file, its encoded bytes, or its place in a prepared data set.
      image_id: as in the image's examples.
      body_part: where the data set says so, e.g. "Abdomen".
      provenance: where the regions come from: "annotation", or e.g. "detector" (`detector_regions.py`).
    """

    dataset: str
    split: str
    image: ImageSource = field(repr=False)
    image_id: str
    regions: tuple[Region, ...]
    modality: str = ""
    body_part: str = ""
    provenance: str = "annotation"


@dataclass(frozen=True)
class SourceSplit:
    """One split of a source: the questions its authors ask, and its images (with or without regions).

    Attributes:
      left_out: what the files name and the lists above do not hold: reason, e.g. "image not in the folder" → names of
        images or ids of questions. `prepare` lists them where a count falls short.
    """

    examples: list[VQAExample]
    images: list[AnnotatedImage]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)


def caption_of(
    image: AnnotatedImage, caption: str, *, kind: str = "", content_type: str = "", labels: Sequence[str] = ()
) -> VQAExample:
    """An image's caption as an example: asked nothing, answered by the caption.

    Args:
      kind: stands in the id, of data sets that also ask questions.
    """
    return VQAExample(
        id="/".join(part for part in (image.dataset, kind, image.image_id) if part),
        dataset=image.dataset,
        split=image.split,
        image=image.image,
        image_id=image.image_id,
        question="",
        answer=caption,
        family="caption",
        task="caption",
        content_type=content_type,
        modality=image.modality,
        labels=tuple(labels),
    )
