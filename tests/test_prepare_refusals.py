"""What preparation refuses, also where it was told to go on, and what it prints."""

import json

import pytest
import tensorflow_datasets as tfds
from expected_errors import assert_refused, refused
from PIL import Image
from prepared_sets import content, make_source, prepared, row, write_rows

from data_pipelines.core.errors import DataError
from data_pipelines.prepare import main
from data_pipelines.prepared.layout import check_split_name
from data_pipelines.sources import registry
from rllava_jax.config import ConfigError


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


@pytest.fixture
def rows(tmp_path):
    """A folder of JSON Lines with one question about each named image, of which a.png is there."""

    def build(*images):
        root = tmp_path / "source"
        root.mkdir()
        Image.new("L", (20, 20)).save(root / "a.png")
        (root / "broken.png").write_bytes(b"no image")
        lines = ({"id": name, "image": name, "question": "What?", "answer": "A"} for name in images)
        (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return ["jsonl", "--source", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]

    return build


@pytest.mark.parametrize("images", [("gone.png",), ("broken.png",)])
def test_permission_to_miss_something_is_none_to_prepare_nothing(rows, images, tmp_path, capsys):
    assert main([*rows(*images), "--allow-missing"]) == 2
    error = capsys.readouterr().err
    assert "jsonl: nothing is left to prepare (train: " in error
    assert images[0] in error
    assert str(tmp_path / "source") not in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_is_left_is_prepared(rows, tmp_path):
    assert main([*rows("a.png", "gone.png", "broken.png"), "--allow-missing"]) == 0
    assert (tmp_path / "out" / "prepared.json").exists()


def test_a_folder_for_what_is_drawn_is_refused(tmp_path, capsys):
    assert main(["phantom", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"--source {tmp_path}: phantom is drawn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["slak", "--source", ".", "--out", "x"], None, ["NAME", "'slak'", "'slake'"]),
        ([], "option.missing", ["NAME", "slake"]),
        (["jsonl", "--source", "."], "option.missing", ["--out"]),
        (["jsonl", "--out", "x"], "file.missing", ["--source None", "*.jsonl"]),
        (["jsonl", "--source", "/nowhere", "--out", "x"], "file.missing", ["--source /nowhere"]),
        (["jsonl", "--source", ".", "--out", "x", "--workers", "0"], "option.invalid-value", ["--workers: '0'"]),
        (["phantom", "--out", "x", "--splits", "dev"], None, ["phantom", "'dev'"]),
        (["phantom", "--out", "x", "--splits", "a-b"], None, ["phantom", "'a-b'"]),
        (["--card", "vqarad"], None, ["--card", "'vqarad'", "'vqa_rad'"]),
        (["jsonl", "--out", "x", "--beam-option=--project=p"], "option.conflict", ["--beam-option", "--runner"]),
        (["jsonl", "--out", "x", "--min-score=0"], "option.conflict", ["--min-score", "--detections"]),
    ],
)
def test_what_is_wrong_with_a_command_is_said_in_one_line(arguments, code, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert_refused(err, code, *named)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_prepared_set_is_replaced_only_when_told_to(source, tmp_path):
    prepared(source, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match="exists; choose another destination, or replace it with --overwrite"):
        prepared(source, tmp_path / "out")
    prepared(source, tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds files that this command did not write"):
        prepared(source, tmp_path / "mine", overwrite=True)
    with pytest.raises(ConfigError, match="lie in one another"):
        prepared(source, source / "out")


def test_the_data_cards_are_printed(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name in registry.SOURCES:
        assert f"{name}: " in printed
    assert main(["--card", "vqa_rad"]) == 0
    assert "train 1,797 questions, 313 images" in capsys.readouterr().out


def test_every_registered_data_set_has_a_card_of_its_name():
    for name in registry.SOURCES:
        assert registry.SOURCES.get(name, setting="NAME").card.name == name


@pytest.mark.parametrize("name", registry.SOURCES)
def test_every_split_of_a_card_has_a_name_that_can_be_stored(name):
    for split in registry.SOURCES.get(name, setting="NAME").card.splits:
        check_split_name(split, name)


def test_tfds_finds_a_split_whose_name_begins_with_a_digit(source, tmp_path):
    write_rows(source, row(1), split="10k")
    prepared(source, tmp_path / "out", splits=["10k"])
    questions = tfds.builder_from_directory(str(tmp_path / "out/questions/1.0.0"))
    assert [record["id"] for record in questions.as_data_source("10k")] == [b"jsonl/1"]
    with refused(DataError, "data.invalid-value", "'all'"):
        check_split_name("all", "jsonl")


def test_two_questions_of_one_id_are_an_error(source, tmp_path):
    write_rows(source, row(1), row(1))
    with pytest.raises(DataError, match="two questions have the id 'jsonl/1'"):
        prepared(source, tmp_path / "out")


@pytest.mark.parametrize("neighbour", ["out.replaced", "out.incomplete"])
def test_a_folder_beside_the_destination_that_is_not_ours_is_left_alone(source, tmp_path, neighbour):
    kept = tmp_path / neighbour / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(ConfigError, match=f"{neighbour} is in the way"):
        prepared(source, tmp_path / "out")
    assert kept.read_text() == "mine"


def test_a_destination_that_cannot_be_made_is_said_in_one_line(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["jsonl", "--source", str(source), "--out", str(tmp_path / "file" / "out")]
    assert main(arguments) == 2
    assert "cannot be made" in capsys.readouterr().err.splitlines()[-1]
