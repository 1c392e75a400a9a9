"""A prepared data set: what it holds, how it is read, and what is said where it is damaged."""

import hashlib
import json
import pickle
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from expected_errors import refused
from PIL import Image
from prepared_sets import in_process, make_source, prepared, row, without_places, write_rows

from data_pipelines.core.array_records import shards
from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.images import reading
from data_pipelines.loading.examples import load_examples, load_source
from data_pipelines.prepare import main
from data_pipelines.prepared import layout, record_shards
from data_pipelines.prepared.preparation import prepare
from data_pipelines.records import Source
from data_pipelines.sources import phantom
from rllava_jax.config import Config, ConfigError, DataConfig, PhantomConfig
from rllava_jax.config.loading import validated


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


def test_questions_and_images_come_back_as_the_source_gave_them(source, tmp_path):
    prepared(source, tmp_path / "out")
    published = load_source(DataConfig(source="jsonl", root=str(source)), "train")
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert without_places(read.examples) == without_places(published.examples)
    assert without_places(read.images) == without_places(published.images)


def test_questions_in_several_shards_keep_their_order(source, tmp_path, monkeypatch):
    monkeypatch.setattr(record_shards, "_RECORDS_IN_SHARD", 5)
    prepared(source, tmp_path / "out")
    folder = layout.config_folder(str(tmp_path / "out"), "questions")
    assert [shard.take for shard in shards(folder, "train")] == [5, 5, 2]
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert [example.id for example in read.examples] == [f"jsonl/{n}" for n in range(12)]
    assert len(tfds.builder_from_directory(folder).as_data_source("train")) == 12


def test_each_image_is_stored_once_however_many_questions_and_splits_ask_about_it(source, tmp_path):
    write_rows(source, *(row(number) for number in range(20, 30)), split="test")
    prepared(source, tmp_path / "out")
    pictures = shards(layout.config_folder(str(tmp_path / "out"), "images"), "images")
    masks = shards(layout.config_folder(str(tmp_path / "out"), "images"), "masks")
    assert (sum(shard.take for shard in pictures), sum(shard.take for shard in masks)) == (4, 1)


def test_tfds_opens_all_three_configurations_without_tensorflow(source, tmp_path):
    prepared(source, tmp_path / "jsonl")
    folder = layout.config_folder(str(tmp_path / "jsonl"), "questions")
    builder = tfds.builder_from_directory(folder)
    questions = builder.as_data_source("train")
    assert [question["id"].decode() for question in questions] == [f"jsonl/{n}" for n in range(12)]
    np.testing.assert_array_equal(questions[3]["regions"]["box"], [[8 / 48, 8 / 64, 28 / 48, 28 / 64]])
    by_name = tfds.builder("jsonl/images", data_dir=tmp_path).as_data_source("images")
    for stored, number in zip(by_name, range(4), strict=True):
        assert (stored["image"] == np.asarray(Image.open(source / f"images/{number}.png"))).all()
    assert len(tfds.builder("jsonl/annotations", data_dir=tmp_path).as_data_source("train")) == 4
    assert "tensorflow" not in sys.modules


def test_grain_reads_it(source, tmp_path):
    prepared(source, tmp_path / "out")
    builder = tfds.builder_from_directory(layout.config_folder(str(tmp_path / "out"), "questions"))
    dataset = grain.MapDataset.source(builder.as_data_source("train")).shuffle(seed=0)
    assert {question["id"] for question in dataset} == {f"jsonl/{n}".encode() for n in range(12)}


def test_an_image_is_a_small_reference_that_travels_between_processes(source, tmp_path):
    prepared(source, tmp_path / "out")
    example = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train").examples[5]
    assert len(pickle.dumps(example.image)) < 500
    decoded = reading.decode(pickle.loads(pickle.dumps(example.image)), example.id)
    assert (decoded == np.asarray(Image.open(source / "images/1.png"))).all()


def test_images_that_come_as_bytes_are_stored_too(tmp_path):
    small = PhantomConfig(train_images=3, image_size=64)
    drawn = phantom.load(small, "train")
    source = Source(phantom.CARD, lambda root, split: phantom.load(small, split))
    prepare(source, root="", out=str(tmp_path / "out"), splits=("train",), allow_missing=True, run=in_process)
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert without_places(read.examples) == without_places(drawn.examples)
    assert without_places(read.images) == without_places(drawn.images)
    assert (tmp_path / "out/source_files.sha256").read_text() == ""


def test_a_set_without_questions_is_read_as_such(tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    Image.new("RGB", (40, 30)).save(root / "val/a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "Clause"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9]}],
    }
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    prepared(root, tmp_path / "out", "coco")
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    assert {e.family for e in load_examples(data, "val", seed=0, max_regions=1)} == {"identify", "localise"}


def test_images_that_only_another_language_asks_about_are_left_out(source, tmp_path):
    rows = [row(0, language="zh"), row(1, language="en"), row(4, language="en"), row(2, language="zh")]
    write_rows(source, *rows, {"image": "images/3.png"})
    prepared(source, tmp_path / "out")
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), languages=("en",)), "train")
    assert [example.id for example in read.examples] == ["jsonl/1", "jsonl/4"]
    assert [image.image_id for image in read.images] == ["images/1.png", "images/0.png", "images/3.png"]


def test_no_question_in_the_languages_asked_for_is_an_error_that_names_those_there_are(source, tmp_path):
    prepared(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"data\.languages: de: .* has questions in en alone"):
        load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), languages=("de",)), "train")


def test_neither_metadata_nor_the_place_of_the_source_is_stored(source, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "Doe^Jane"
    Image.open(source / "images/0.png").save(source / "images/0.png", exif=exif)
    (source / "images/1.png").write_bytes(b"no image")
    assert b"Doe^Jane" in (source / "images/0.png").read_bytes()
    out = tmp_path / "out"
    arguments = ["jsonl", "--source", str(source), "--out", str(out), "--allow-missing", "--workers", "1"]
    assert main(arguments) == 0
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert b"Doe^Jane" not in path.read_bytes(), path
        assert str(tmp_path).encode() not in path.read_bytes(), path
    record = json.loads((out / "prepared.json").read_text())
    assert record["command"] == "python -m data_pipelines.prepare jsonl --source source --out out --allow-missing"
    assert str(tmp_path) not in repr(list(tfds.builder_from_directory(out / "questions/1.0.0").as_data_source("train")))


def test_checksums_of_the_source_are_those_of_sha256sum(source, tmp_path):
    prepared(source, tmp_path / "out")
    lines = (tmp_path / "out/source_files.sha256").read_text().splitlines()
    names = [f"images/{n}.png" for n in range(4)] + ["mask.png", "train.jsonl"]
    assert lines == [f"{hashlib.sha256((source / name).read_bytes()).hexdigest()}  {name}" for name in names]


def test_a_folder_that_is_no_prepared_set_says_what_to_run(source, tmp_path):
    with pytest.raises(DataError, match=r"is no prepared data set .* data_pipelines\.prepare"):
        load_source(DataConfig(source="prepared", root=str(source)), "train")
    prepared(source, tmp_path / "out")
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    with pytest.raises(DataError, match="has no split 'test', only train"):
        load_source(data, "test")
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    (tmp_path / "out/prepared.json").write_text(json.dumps(record | {"layout": "9.0.0"}))
    with pytest.raises(DataError, match=r"layout 9\.0\.0, this version reads 1\.0\.0"):
        load_source(data, "train")


def test_a_missing_or_damaged_shard_is_named(source, tmp_path):
    prepared(source, tmp_path / "out")
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    example = load_source(data, "train").examples[0]
    (questions,) = (tmp_path / "out/questions/1.0.0").glob("*train*")
    questions.write_bytes(questions.read_bytes()[: questions.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{questions.name}: cannot be read"):
        load_source(data, "train")
    for path in (tmp_path / "out/images/1.0.0").glob("*-images.*"):
        path.unlink()
    with pytest.raises(ImageError, match=r"images\[0\]: image cannot be read .*; prepare the data set again"):
        reading.decode(example.image, "x")


def test_an_unknown_source_in_a_configuration_names_the_nearest():
    with refused(ConfigError, "config.invalid-value", "data.source", "'prepard'", "'prepared'"):
        validated(Config(data=DataConfig(source="prepard", root="x")))
    with refused(ConfigError, "config.conflict", "--config.data.root"):
        validated(Config(data=DataConfig(source="prepared")))
