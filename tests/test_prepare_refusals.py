"""What preparation refuses although it was told to go on, or is told in vain."""

import json

import pytest
from PIL import Image

from data_pipelines.prepare import main


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
    assert "phantom is drawn and reads nothing; leave it out" in capsys.readouterr().err
