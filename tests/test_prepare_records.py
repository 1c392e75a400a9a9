"""Questions and annotated images survive being written by TFDS and read without it, to the last bit."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.core.array_records import in_one_order, read_example
from data_pipelines.prepared import fields
from data_pipelines.records import FAMILIES, AnnotatedImage, MaskFile, Region, StoredImage, Turn, VQAExample

QUESTIONS = tfds.features.FeaturesDict(fields.record_features(VQAExample))
ANNOTATIONS = tfds.features.FeaturesDict(fields.record_features(AnnotatedImage))
PICTURES = {StoredImage("out", "images", n): n for n in range(4)}
MASKS = {StoredImage("out", "masks", n): n for n in range(4)}


def reference(split, position):
    return StoredImage("out", split, position)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
shares = st.floats(0, 1)
regions = st.lists(
    st.builds(
        Region,
        box=st.tuples(shares, shares, shares, shares),
        label=texts,
        polygon=st.none() | st.lists(st.tuples(shares, shares), max_size=4).map(tuple),
        mask=st.none() | st.builds(MaskFile, st.sampled_from(list(MASKS)), st.none() | st.integers(0, 255)),
    ),
    max_size=3,
).map(tuple)
questions = st.builds(
    VQAExample,
    **dict.fromkeys(("id", "dataset", "image_id", "question", "answer", "content_type", "modality"), texts),
    split=st.just("train"),
    image=st.sampled_from(list(PICTURES)),
    family=st.sampled_from(FAMILIES),
    task=st.sampled_from(("answer", "detect", "caption")),
    answer_type=st.sampled_from(("open", "closed")),
    language=texts,
    regions=regions,
    distractors=regions,
    choices=st.lists(texts, max_size=3).map(tuple),
    accepted=st.lists(texts, max_size=3).map(tuple),
    provenance=texts,
    turns=st.lists(st.builds(Turn, texts, texts), max_size=3).map(tuple),
    labels=st.lists(texts, max_size=3).map(tuple),
)
annotated = st.builds(
    AnnotatedImage,
    **dict.fromkeys(("dataset", "image_id", "modality", "body_part", "provenance"), texts),
    split=st.just("train"),
    image=st.sampled_from(list(PICTURES)),
    regions=regions,
)


@given(questions)
@settings(max_examples=60, deadline=None)
def test_a_question_comes_back_as_it_was(question):
    record = QUESTIONS.serialize_example(fields.record_fields(question, PICTURES, MASKS))
    assert fields.record_of(VQAExample, read_example(record), "train", reference) == question


@given(annotated)
@settings(max_examples=40, deadline=None)
def test_an_annotated_image_comes_back_as_it_was(image):
    record = ANNOTATIONS.serialize_example(fields.record_fields(image, PICTURES, MASKS))
    assert fields.record_of(AnnotatedImage, read_example(record), "train", reference) == image


def test_every_field_of_the_records_is_written():
    # A field that is added to a record must be added here too, or it would be lost.
    for kind, others in ((VQAExample, {"turns"}), (AnnotatedImage, set())):
        written = {*fields._TEXTS[kind], *fields._LISTS[kind], *fields._REGIONS[kind], "split", "image", *others}
        assert written == set(kind.__dataclass_fields__)


def test_tfds_reads_numbers_bytes_and_floats_as_this_reader_does():
    features = tfds.features.FeaturesDict(
        {
            "whole": tfds.features.Scalar(np.int64),
            "floats": tfds.features.Tensor(shape=(3,), dtype=np.float32),
            "text": tfds.features.Text(),
            "empty": tfds.features.Sequence(tfds.features.Text()),
        }
    )
    written = {"whole": -7, "floats": np.float32([0.5, -1, 3e8]), "text": "Übelkeit", "empty": []}
    record = features.serialize_example(written)
    mine, theirs = read_example(record), features.deserialize_example_np(record)
    assert mine["whole"][0] == theirs["whole"] == -7
    assert (np.float32(mine["floats"]) == theirs["floats"]).all()
    assert mine["text"][0] == theirs["text"] == "Übelkeit".encode()
    assert list(mine["empty"]) == []


def test_what_is_no_example_is_refused():
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        read_example(b"\xff\xff\xff not a message")


def test_features_have_the_order_of_published_sets_a_name_after_its_continuations():
    """Protobuf sorts the keys of maps so; another order would change the bytes of every prepared data set."""

    def feature(name: bytes) -> bytes:
        entry = b"\x0a" + bytes([len(name)]) + name + b"\x12\x02\x0a\x00"
        return b"\x0a" + bytes([len(entry)]) + entry

    def example(*names: bytes) -> bytes:
        features = b"".join(feature(name) for name in names)
        return b"\x0a" + bytes([len(features)]) + features

    assert in_one_order(example(b"image", b"zoom", b"image_id", b"id")) == example(
        b"id", b"image_id", b"image", b"zoom"
    )
