"""Questions and annotated images as flat fields, which TFDS writes and `array_records` reads, and back without a loss.

Images and masks are places in the configuration `images`. Boxes and polygons are float64 in bytes, because the floats
of `tf.train.Example` have 32 bits. "Nothing there" is -1 where a number stands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from data_pipelines.prepared.layout import MASKS, PICTURES
from data_pipelines.records import AnnotatedImage, ImageSource, MaskFile, Region, StoredImage, Turn, VQAExample

_NONE = -1
# The dtype is spelt out so that a big-endian machine writes and reads the same bytes.
_FLOAT = np.dtype("<f8")

# What a source's image or mask is stored as.
Places = Mapping[ImageSource, int]

Record = TypeVar("Record", VQAExample, AnnotatedImage)
# The fields of each kind of record that hold a text, several, or regions; further there are its image and its turns.
_TEXTS = {
    VQAExample: (
        "id", "dataset", "image_id", "question", "answer", "family", "task", "answer_type", "content_type", "modality",
        "language", "provenance",
    ),
    AnnotatedImage: ("dataset", "image_id", "modality", "body_part", "provenance"),
}  # fmt: skip
_LISTS = {VQAExample: ("choices", "accepted", "labels"), AnnotatedImage: ()}
_REGIONS = {VQAExample: ("regions", "distractors"), AnnotatedImage: ("regions",)}


def record_features(kind: type[VQAExample | AnnotatedImage]) -> dict[str, Any]:
    """TFDS's features of a question or an annotated image."""
    import tensorflow_datasets as tfds

    features = tfds.features
    turns = features.Sequence({"question": features.Text(), "answer": features.Text()})
    return {
        **{name: features.Text() for name in _TEXTS[kind]},
        "image": features.Scalar(np.int64),
        **{name: _region_features(features) for name in _REGIONS[kind]},
        **{name: features.Sequence(features.Text()) for name in _LISTS[kind]},
        **({"turns": turns} if kind is VQAExample else {}),
    }


def image_features() -> dict[str, Any]:
    """TFDS's features of an image or a mask: the first image_id that uses it, and its encoded bytes."""
    import tensorflow_datasets as tfds

    return {"image_id": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, None))}


def _region_features(features: Any) -> dict[str, Any]:
    numbers = {name: features.Sequence(features.Scalar(np.int64)) for name in ("vertices", "mask", "mask_level")}
    return {
        "box": features.Tensor(shape=(None, 4), dtype=np.float64, encoding="bytes"),
        "label": features.Sequence(features.Text()),
        "polygon": features.Tensor(shape=(None, 2), dtype=np.float64, encoding="bytes"),
        **numbers,
    }


def record_fields(record: VQAExample | AnnotatedImage, pictures: Places, masks: Places) -> dict[str, Any]:
    """The fields of a record.

    Raises:
      KeyError: its image or one of its masks is not stored.
    """
    kind = type(record)
    return {
        **{name: getattr(record, name) for name in _TEXTS[kind]},
        "image": pictures[record.image],
        **{name: _region_fields(getattr(record, name), masks) for name in _REGIONS[kind]},
        **{name: list(getattr(record, name)) for name in _LISTS[kind]},
        **({"turns": [asdict(turn) for turn in record.turns]} if isinstance(record, VQAExample) else {}),
    }


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


def record_of(kind: type[Record], fields: Mapping[str, Sequence[Any]], split: str, reference: Reference) -> Record:
    """The record of these fields. Raises KeyError, IndexError or ValueError where they are not of such a record."""
    values: dict[str, Any] = {name: _texts(fields, name)[0] for name in _TEXTS[kind]}
    values |= {name: _texts(fields, name) for name in _LISTS[kind]}
    values |= {name: _regions(fields, name, reference) for name in _REGIONS[kind]}
    if kind is VQAExample:
        turns = zip(_texts(fields, "turns/question"), _texts(fields, "turns/answer"), strict=True)
        values["turns"] = tuple(Turn(*turn) for turn in turns)
    return kind(**values, split=split, image=reference(PICTURES, fields["image"][0]))


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


def _texts(fields: Mapping[str, Sequence[bytes]], name: str) -> tuple[str, ...]:
    return tuple(value.decode() for value in fields[name])
