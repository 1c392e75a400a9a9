"""Folders of ArrayRecord shards as TFDS writes them, read without TensorFlow or TFDS.

Records are `tf.train.Example`s. TFDS reads one in about 110 µs of Python and needs its package; protobuf's own parser
takes 7 µs, and training needs nothing but what the model needs.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from data_pipelines.core.schemas import file_as

if TYPE_CHECKING:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

_FIELD = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY = _FIELD.LABEL_OPTIONAL, _FIELD.LABEL_REPEATED
# The messages of tensorflow/core/example/{example,feature}.proto, whose fields are numbered in this order. What is
# `map<string, Feature>` there has the same bytes as a list of entries.
_MESSAGES: dict[str, dict[str, tuple[Any, Any]]] = {
    "BytesList": {"value": (_FIELD.TYPE_BYTES, _MANY)},
    "FloatList": {"value": (_FIELD.TYPE_FLOAT, _MANY)},
    "Int64List": {"value": (_FIELD.TYPE_INT64, _MANY)},
    "Feature": {
        "bytes_list": ("BytesList", _ONE),
        "float_list": ("FloatList", _ONE),
        "int64_list": ("Int64List", _ONE),
    },
    "Entry": {"key": (_FIELD.TYPE_STRING, _ONE), "value": ("Feature", _ONE)},
    "Features": {"feature": ("Entry", _MANY)},
    "Example": {"features": ("Features", _ONE)},
}


def _example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="rllava_jax/tf_example.proto", package="tensorflow", syntax="proto3")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message).field
        for number, (name, (kind, label)) in enumerate(fields.items(), 1):
            # The type of one that has a type's name follows from that.
            of = {"type_name": f".tensorflow.{kind}"} if isinstance(kind, str) else {"type": kind}
            described.add(name=name, number=number, label=label, **of)
    # A pool of its own: TensorFlow, where it is installed too, has these names in the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_EXAMPLE = _example_class()


def in_one_order(record: bytes) -> bytes:
    """The serialised example with its features by name: else their order changes with every process's hash seed."""
    example = _EXAMPLE.FromString(record)
    # As protobuf orders maps deterministically, in which order sets were prepared: "image_id" comes before "image", of
    # which it is a continuation. No byte of UTF-8 is 0xFF.
    example.features.feature.sort(key=lambda entry: entry.key.encode() + b"\xff")
    return example.SerializeToString()


def read_example(record: bytes) -> dict[str, Sequence[Any]]:
    """The features of a serialised example by name, each a list of bytes, floats or whole numbers.

    Raises:
      ValueError: the bytes are not a `tf.train.Example`.
    """
    try:
        example = _EXAMPLE.FromString(record)
    except Exception as error:  # protobuf's DecodeError, which its implementations derive differently
        raise ValueError(f"no tf.train.Example: {error}") from None
    # A feature has one list of the three, or none where it is empty.
    return {e.key: next((held.value for _, held in e.value.ListFields()), ()) for e in example.features.feature}


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    """TFDS's name of an ArrayRecord file."""
    return f"{dataset}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def _whole(digits: Any) -> Any:
    return int(digits) if isinstance(digits, str) and digits.isdecimal() else digits


class _Split(TypedDict):
    name: str
    # The JSON of protocol buffers writes 64 bit numbers as text.
    shardLengths: NotRequired[list[Annotated[int, BeforeValidator(_whole), Field(ge=0)]]]


class _Info(TypedDict):
    """What is read of dataset_info.json."""

    name: str
    splits: NotRequired[list[_Split]]


@dataclass(frozen=True)
class Shard:
    """A file and how many records it has; array_record reads one without opening the file (its `FileInstruction`)."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """All of them: shards are never read in part."""
        return self.take


def shards(folder: str, split: str) -> list[Shard]:
    """The files of a split, in order; none where the folder has no such split.

    Args:
      folder: of one TFDS configuration and version.

    Raises:
      DataError: dataset_info.json is missing or not TFDS's.
    """
    path = os.path.join(folder, "dataset_info.json")
    info = file_as(_Info, Path(path), remedy="prepare the data set again")
    counts = next((s.get("shardLengths", []) for s in info.get("splits", []) if s["name"] == split), [])
    name = info["name"]
    files = [os.path.join(folder, shard_name(name, split, i, len(counts))) for i in range(len(counts))]
    return [Shard(path, count) for path, count in zip(files, counts, strict=True) if count]


@functools.lru_cache(maxsize=64)
def opened(folder: str, split: str) -> "ArrayRecordDataSource":
    """The records of a split by position, one reader for all threads. Raises DataError as `shards`."""
    # Opens each shard when it is first read.
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(shards(folder, split))
