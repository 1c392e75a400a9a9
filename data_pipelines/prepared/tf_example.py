"""`tf.train.Example`, the record of TFDS, read without TensorFlow or TFDS.

TFDS reads one in about 110 µs of Python and needs its package; protobuf's own parser takes 7 µs, and training needs
nothing but what the model needs. The three messages are those of tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_FIELD = descriptor_pb2.FieldDescriptorProto


def _message() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="rllava_jax/tf_example.proto", package="tensorflow", syntax="proto3")
    for name, kind in (
        ("BytesList", _FIELD.TYPE_BYTES),
        ("FloatList", _FIELD.TYPE_FLOAT),
        ("Int64List", _FIELD.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=_FIELD.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, of) in enumerate((("bytes_list", "Bytes"), ("float_list", "Float"), ("int64_list", "Int64")), 1):
        feature.field.add(
            name=name, number=number, type=_FIELD.TYPE_MESSAGE, type_name=f".tensorflow.{of}List",
            label=_FIELD.LABEL_OPTIONAL, oneof_index=0,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=_FIELD.TYPE_MESSAGE, type_name=".tensorflow.Feature", label=_FIELD.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature", number=1, type=_FIELD.TYPE_MESSAGE, type_name=".tensorflow.Features.FeatureEntry",
        label=_FIELD.LABEL_REPEATED,
    )  # fmt: skip
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features",
        number=1,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".tensorflow.Features",
        label=_FIELD.LABEL_OPTIONAL,
    )
    # A pool of its own: TensorFlow, where it is installed too, has these names in the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_EXAMPLE = _message()


def in_one_order(record: bytes) -> bytes:
    """The serialised example with its features by name: else their order changes with every process's hash seed."""
    return _EXAMPLE.FromString(record).SerializeToString(deterministic=True)


def read_example(record: bytes) -> dict[str, Sequence[Any]]:
    """The features of a serialised example by name, each a list of bytes, floats or whole numbers.

    Raises:
      ValueError: the bytes are no `tf.train.Example`.
    """
    try:
        example = _EXAMPLE.FromString(record)
    except Exception as error:  # protobuf's DecodeError, which its implementations derive differently
        raise ValueError(f"no tf.train.Example: {error}") from None
    return {
        name: getattr(feature, kind).value if (kind := feature.WhichOneof("kind")) else ()
        for name, feature in example.features.feature.items()
    }
