import io
import logging
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.images.reading import decode
from data_pipelines.loading.checks import check_leaks
from data_pipelines.sources import huggingface_parquet
from data_pipelines.sources.huggingface_parquet import PATH_VQA_HF, SLAKE_HF, VQA_RAD_HF

SOURCES = (VQA_RAD_HF, PATH_VQA_HF, SLAKE_HF)
# As the `datasets` library writes an Image column.
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)


def picture(grey):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), grey).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def row(grey=1, question="Is it so?", answer="yes"):
    return {"image": picture(grey), "question": question, "answer": answer}


@pytest.fixture
def small_root(tmp_path):
    """A downloaded folder; each list of rows is one file."""

    def build(*shards, split="train", suffix="", schema=SCHEMA):
        (tmp_path / "data").mkdir(exist_ok=True)
        for number, rows in enumerate(shards):
            name = f"{split}-{number:05d}-of-{len(shards):05d}{suffix}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "data" / name)
        return str(tmp_path)

    return build


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.card.name)
def test_every_split_of_the_three_folders_is_read(small_root, source):
    name = source.card.name
    for split in source.card.splits:
        loaded = source.load(small_root([row(), row(answer="lung")], split=split), split)
        assert [(e.id, e.dataset, e.split) for e in loaded.examples] == [
            (f"{name}/{split}/0", name, split),
            (f"{name}/{split}/1", name, split),
        ]
        assert [e.answer_type for e in loaded.examples] == ["closed", "open"]
    assert [s.card.name for s in SOURCES] == ["vqa_rad_hf", "path_vqa_hf", "slake_hf"]


def test_files_are_read_in_their_order_whatever_hash_their_names_end_in(small_root):
    root = small_root([row(question="one")], [row(question="two"), row(question="three")], suffix="-f2d0e9ef9f022d38")
    assert [e.question for e in PATH_VQA_HF.load(root, "train").examples] == ["one", "two", "three"]


def test_an_image_of_many_questions_is_kept_once_under_its_content_s_name(small_root):
    split = VQA_RAD_HF.load(small_root([row(1), row(2), row(1)], [row(1)]), "train")
    one, two = split.images
    assert [e.image_id for e in split.examples] == [one.image_id, two.image_id, one.image_id, one.image_id]
    assert all(e.image is one.image for e in split.examples if e.image_id == one.image_id)
    assert np.array_equal(decode(two.image, "two"), np.full((8, 8, 3), 2))


def test_rows_beyond_one_batch_keep_their_numbers(small_root, monkeypatch):
    monkeypatch.setattr(huggingface_parquet, "_ROWS_AT_ONCE", 2)
    split = VQA_RAD_HF.load(small_root([row(grey) for grey in range(5)], [row(9)]), "train")
    assert [e.id for e in split.examples] == [f"vqa_rad_hf/train/{number}" for number in range(6)]
    assert len(split.images) == 6


def test_the_leak_check_sees_images_that_two_splits_share(small_root):
    small_root([row(1), row(2)], split="train")
    root = small_root([row(2)], split="test")
    train, test = (VQA_RAD_HF.load(root, split).examples for split in ("train", "test"))
    with refused(DataError, "data.leak", "1"):
        check_leaks(train, test, allowed=False)
    # Also against another data set's copy of the same bytes.
    others = [replace(example, dataset="vqa_rad", image_id="synpic1.jpg") for example in test]
    with refused(DataError, "data.leak", "1"):
        check_leaks(train, others, allowed=False)


def test_rows_without_image_or_answer_are_left_out_and_named(small_root, caplog):
    no_bytes = {"image": {"bytes": None, "path": "x.jpg"}, "question": "q", "answer": "a"}
    with caplog.at_level(logging.WARNING):
        split = SLAKE_HF.load(small_root([row(), no_bytes, no_bytes | {"image": None}, row(answer=" ")]), "train")
    assert [e.id for e in split.examples] == ["slake_hf/train/0"]
    assert split.left_out == {
        "no image in the row": ["slake_hf/train/1", "slake_hf/train/2"],
        "no answer": ["slake_hf/train/3"],
    }
    assert "slake_hf train: left out 2 (no image in the row): slake_hf/train/1, slake_hf/train/2" in caplog.text


def test_a_malformed_row_is_named_by_file_and_number(small_root):
    root = small_root([row()], [row(), row(question=None)])
    with refused(DataError, "data.missing-field", "train-00001-of-00002.parquet", "1", "question"):
        VQA_RAD_HF.load(root, "train")


def test_a_missing_shard_is_named(small_root, tmp_path):
    root = small_root([row()], [row()], [row()])
    (tmp_path / "data" / "train-00001-of-00003.parquet").unlink()
    with refused(DataError, "file.missing", "3", "1"):
        VQA_RAD_HF.load(root, "train")


def test_two_copies_of_a_split_are_not_mixed(small_root):
    small_root([row()])
    root = small_root([row()], [row()])
    with refused(DataError, "file.conflict"):
        VQA_RAD_HF.load(root, "train")
    small_root([row()], split="test")
    root = small_root([row()], split="test", suffix="-0123abcd")
    with refused(DataError, "file.conflict"):
        VQA_RAD_HF.load(root, "test")


@pytest.mark.parametrize("keep", [0, 100])
def test_a_damaged_file_is_one_line_naming_it(small_root, tmp_path, keep):
    root = small_root([row()])
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with refused(DataError, "file.malformed", "train-00000-of-00001.parquet") as caught:
        VQA_RAD_HF.load(root, "train")
    assert "\n" not in str(caught.value)


def test_other_columns_are_refused_by_name(small_root):
    schema = pa.schema([("image", pa.binary()), ("text", pa.string())])
    with refused(DataError, "data.missing-field", "image", "text"):
        VQA_RAD_HF.load(small_root([{"image": b"x", "text": "t"}], schema=schema), "train")
    schema = pa.schema([(name, pa.string()) for name in ("image", "question", "answer")])
    with refused(DataError, "data.invalid-value"):
        VQA_RAD_HF.load(small_root([dict.fromkeys(schema.names, "x")], schema=schema), "train")


def test_wrong_folder_or_split_says_what_to_do(small_root, tmp_path):
    with refused(DataError, "file.missing"):
        VQA_RAD_HF.load(str(tmp_path / "nowhere"), "train")
    with refused(DataError, "file.missing"):
        VQA_RAD_HF.load(str(tmp_path), "train")
    root = small_root([row()])
    with refused(DataError, "data.unknown-name", "validation"):
        VQA_RAD_HF.load(root, "validation")
    with refused(DataError, "file.missing", "test-", "parquet"):
        VQA_RAD_HF.load(root, "test")


def test_without_pyarrow_the_extra_is_named(small_root, monkeypatch):
    root = small_root([row()])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused(ConfigError, "package.missing", ".[data]"):
        VQA_RAD_HF.load(root, "train")
