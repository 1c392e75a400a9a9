"""Questions and annotated images as flat fields, which TFDS writes and `array_records` reads, and back without a loss.

Images and masks are places in the configuration `images`. Boxes and polygons are float64 in bytes, because the floats
of `tf.train.Example` have 32 bits. "Nothing there" is -1 where a number stands.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.prepared.layout import MASKS, PICTURES
from data_pipelines.records import AnnotatedImage, ImageSource, MaskFile, Region, StoredImage, Turn, VQAExample

_NONE = -1
# The dtype is spelt out so that a big-endian machine writes and reads the same bytes.
_FLOAT = np.dtype("<f8")

# What a source's image or mask is stored as.
Places = Mapping[ImageSource, int]

_QUESTION_TEXTS = (
    "id", "dataset", "image_id", "question", "answer", "family", "task", "answer_type", "content_type", "modality",
    "language", "provenance",
)  # fmt: skip
_QUESTION_LISTS = ("choices", "accepted", "labels")
_IMAGE_TEXTS = ("dataset", "image_id", "modality", "body_part", "provenance")


def question_features() -> dict[str, Any]:
    """TFDS's features of a question."""
    import tensorflow_datasets as tfds

    features = tfds.features
    turns = features.Sequence({"question": features.Text(), "answer": features.Text()})
    lists = {name: features.Sequence(features.Text()) for name in _QUESTION_LISTS}
    texts = {name: features.Text() for name in _QUESTION_TEXTS}
    regions = {name: _region_features() for name in ("regions", "distractors")}
    return {**texts, "image": features.Scalar(np.int64), **regions, **lists, "turns": turns}


def annotation_features() -> dict[str, Any]:
    """TFDS's features of an annotated image."""
    import tensorflow_datasets as tfds

    texts = {name: tfds.features.Text() for name in _IMAGE_TEXTS}
    return {**texts, "image": tfds.features.Scalar(np.int64), "regions": _region_features()}


def image_features() -> dict[str, Any]:
    """TFDS's features of an image or a mask: the first image_id that uses it, and its encoded bytes."""
    import tensorflow_datasets as tfds

    return {"image_id": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, None))}


def _region_features() -> dict[str, Any]:
    import tensorflow_datasets as tfds

    features = tfds.features
    numbers = {name: features.Sequence(features.Scalar(np.int64)) for name in ("vertices", "mask", "mask_level")}
    return {
        "box": features.Tensor(shape=(None, 4), dtype=np.float64, encoding="bytes"),
        "label": features.Sequence(features.Text()),
        "polygon": features.Tensor(shape=(None, 2), dtype=np.float64, encoding="bytes"),
        **numbers,
    }


def question_fields(example: VQAExample, pictures: Places, masks: Places) -> dict[str, Any]:
    """The fields of a question.

    Raises:
      KeyError: its image or one of its masks is not stored.
    """
    return {
        **{name: getattr(example, name) for name in _QUESTION_TEXTS},
        "image": pictures[example.image],
        "regions": _region_fields(example.regions, masks),
        "distractors": _region_fields(example.distractors, masks),
        **{name: list(getattr(example, name)) for name in _QUESTION_LISTS},
        "turns": [{"question": turn.question, "answer": turn.answer} for turn in example.turns],
    }


def annotation_fields(image: AnnotatedImage, pictures: Places, masks: Places) -> dict[str, Any]:
    """The fields of an annotated image. Raises KeyError as `question_fields`."""
    texts = {name: getattr(image, name) for name in _IMAGE_TEXTS}
    return {**texts, "image": pictures[image.image], "regions": _region_fields(image.regions, masks)}


def _region_fields(regions: Sequence[Region], masks: Places) -> dict[str, Any]:
    vertices = [vertex for region in regions for vertex in region.polygon or ()]
    outlines = [region.mask for region in regions]
    return {
        "box": np.array([region.box for region in regions], _FLOAT).reshape(-1, 4),
        "label": [region.label for region in regions],
        "polygon": np.array(vertices, _FLOAT).reshape(-1, 2),
        "vertices": [_NONE if region.polygon is None else len(region.polygon) for region in regions],
        "mask": [_NONE if mask is None else masks[mask.path] for mask in outlines],
        "mask_level": [_NONE if mask is None or mask.level is None else mask.level for mask in outlines],
    }


# The place of an image or a mask as a reference to it.
Reference = Callable[[str, int], StoredImage]


def question(fields: Mapping[str, Sequence[Any]], split: str, reference: Reference) -> VQAExample:
    """The question of these fields. Raises KeyError, IndexError or ValueError where they are not a question's."""
    asked, answered = _texts(fields, "turns/question"), _texts(fields, "turns/answer")
    flat: dict[str, Any] = {name: _text(fields, name) for name in _QUESTION_TEXTS}
    flat |= {name: _texts(fields, name) for name in _QUESTION_LISTS}
    return VQAExample(
        **flat,
        split=split,
        image=reference(PICTURES, fields["image"][0]),
        regions=_regions(fields, "regions", reference),
        distractors=_regions(fields, "distractors", reference),
        turns=tuple(Turn(question, answer) for question, answer in zip(asked, answered, strict=True)),
    )


def annotated_image(fields: Mapping[str, Sequence[Any]], split: str, reference: Reference) -> AnnotatedImage:
    """The annotated image of these fields. Raises as `question`."""
    return AnnotatedImage(
        **{name: _text(fields, name) for name in _IMAGE_TEXTS},
        split=split,
        image=reference(PICTURES, fields["image"][0]),
        regions=_regions(fields, "regions", reference),
    )


def _regions(fields: Mapping[str, Sequence[Any]], name: str, reference: Reference) -> tuple[Region, ...]:
    labels = _texts(fields, f"{name}/label")
    if not labels:
        return ()
    boxes = np.frombuffer(fields[f"{name}/box"][0], _FLOAT).reshape(-1, 4).tolist()
    vertices = np.frombuffer(b"".join(fields[f"{name}/polygon"]), _FLOAT).reshape(-1, 2).tolist()
    numbers = (fields[f"{name}/{field}"] for field in ("vertices", "mask", "mask_level"))
    regions, start = [], 0
    for label, box, count, mask, level in zip(labels, boxes, *numbers, strict=True):
        y0, x0, y1, x1 = box
        polygon = None if count == _NONE else tuple((y, x) for y, x in vertices[start : start + count])
        start += max(count, 0)
        outline = None if mask == _NONE else MaskFile(reference(MASKS, mask), None if level == _NONE else level)
        regions.append(Region((y0, x0, y1, x1), label, polygon, outline))
    return tuple(regions)


def _text(fields: Mapping[str, Sequence[bytes]], name: str) -> str:
    return fields[name][0].decode()


def _texts(fields: Mapping[str, Sequence[bytes]], name: str) -> tuple[str, ...]:
    return tuple(value.decode() for value in fields[name])
