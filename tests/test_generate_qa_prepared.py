"""Questions from the captions of a prepared data set: which are asked, and that what is written can be prepared."""

import json
import shutil

import numpy as np
import pytest
from language_model_server import LanguageModel
from PIL import Image

from data_pipelines import generate_qa
from data_pipelines.prepared import runners
from data_pipelines.prepared.preparation import prepare
from data_pipelines.sources import registry


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepared(root, out):
    prepare(
        registry.SOURCES.get("jsonl", setting="NAME"),
        root=str(root),
        out=str(out),
        run=lambda shards: runners.run_processes(shards, workers=1),
    )


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Two captioned images to train on, one of them with a question too, and one to test on."""
    root = tmp_path_factory.mktemp("captioned")
    for number in range(3):
        Image.fromarray(np.full((24, 24), 40 * number, np.uint8)).save(root / f"{number}.png")
    lines = {
        "train": [
            {"id": "a", "image": "0.png", "task": "caption", "answer": "Axial CT shows a cyst in the left kidney."},
            {"id": "q", "image": "0.png", "question": "What is seen?", "answer": "A cyst"},
            {"id": "b", "image": "1.png", "task": "caption", "answer": "Axial CT shows a mass in the liver.",
             "modality": "CT"},
        ],
        "test": [{"id": "c", "image": "2.png", "task": "caption", "answer": "Axial CT shows a mass in the spleen."}],
    }  # fmt: skip
    for split, records in lines.items():
        (root / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    prepared(root, root.parent / "prepared_captions")
    return root.parent / "prepared_captions"


def run(captioned, out, *more):
    with LanguageModel() as server:
        command = ["--captions", str(captioned), "--out", str(out), "--model", "m", "--kinds", "open"]
        return generate_qa.main([*command, "--endpoint", server.url, *more]), server


def test_a_prepared_sets_captions_are_asked_about_and_its_images_written(captioned, tmp_path):
    status, _ = run(captioned, tmp_path / "out")
    assert status == 0
    questions = rows(tmp_path / "out/questions.jsonl")
    assert {row["generated"]["caption_id"] for row in questions} == {"jsonl/a", "jsonl/b", "jsonl/c"}
    assert {(row["image_id"], row["split"]) for row in questions} == {
        ("0.png", "train"),
        ("1.png", "train"),
        ("2.png", "test"),
    }
    assert {row["modality"] for row in questions if row["image_id"] == "1.png"} == {"CT"}
    for row in questions:
        level = 40 * int(row["image_id"][0])
        assert np.unique(Image.open(tmp_path / "out" / row["image"])).tolist() == [level]


def test_a_second_start_asks_nothing_and_writes_the_same(captioned, tmp_path):
    run(captioned, tmp_path / "out")
    first = (tmp_path / "out/questions.jsonl").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()}
    _, server = run(captioned, tmp_path / "out")
    assert server.calls == []
    assert (tmp_path / "out/questions.jsonl").read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()} == before


def test_the_questions_and_images_are_a_data_set_of_their_own(captioned, tmp_path):
    run(captioned, tmp_path / "out")
    (tmp_path / "set").mkdir()
    shutil.copy(tmp_path / "out/questions.jsonl", tmp_path / "set")
    shutil.copytree(tmp_path / "out/images", tmp_path / "set/images")
    prepared(tmp_path / "set", tmp_path / "prepared")
    counts = json.loads((tmp_path / "prepared/prepared.json").read_text())["splits"]
    assert set(counts) == {"train", "test"}


def test_splits_can_be_chosen(captioned, tmp_path):
    run(captioned, tmp_path / "out", "--caption-splits", "test")
    assert {row["image_id"] for row in rows(tmp_path / "out/questions.jsonl")} == {"2.png"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [(["--caption-splits", "dev"], "has no split 'dev'"), (["--out", "CAPTIONS"], "is the prepared data set itself")],
)
def test_what_does_not_fit_is_refused(captioned, tmp_path, capsys, more, expected):
    more = [str(captioned) if part == "CAPTIONS" else part for part in more]
    assert run(captioned, tmp_path / "out", *more)[0] == 2
    assert expected in capsys.readouterr().err


def test_splits_are_not_of_a_file_and_a_folder_without_captions_is_named(tmp_path, capsys):
    (tmp_path / "captions.jsonl").write_text('{"id": "a", "image": "a.png", "caption": "A cyst in the left kidney."}\n')
    assert run(tmp_path / "captions.jsonl", tmp_path / "out", "--caption-splits", "train")[0] == 2
    assert "--caption-splits train: are of a prepared data set" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "out")[0] == 2
    assert str(tmp_path) in capsys.readouterr().err
