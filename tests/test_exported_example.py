"""The example of docs/ answers, in both versions of transformers, as `predict` does."""

import contextlib
import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from converted import run_convert
from other_transformers import run_with_transformers_457
from PIL import Image

from rllava_jax import predict

EXAMPLE = Path(__file__).parents[1] / "docs" / "ask_exported_model.py"
QUESTIONS = [
    ("what is the marked structure?", ["20,24,30,16"]),
    ("what is the marked structure?", ["50,10,12,40"]),
    ("is there a tumour?", []),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "scan.png"
    smooth = np.random.default_rng(3).integers(0, 255, (9, 11), np.uint8)
    Image.fromarray(smooth).resize((96, 80)).save(path)
    return path


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "folder"
    run_convert("export", finished_run, folder)
    return folder


@pytest.fixture(scope="module")
def predicted(finished_run, image):
    """What `predict` answers to each question."""
    answers = []
    for question, boxes in QUESTIONS:
        marks = [argument for box in boxes for argument in ("--box", box)]
        command = ["--checkpoint", str(finished_run), "--image", str(image), "--max-new-tokens", "24"]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert predict.main([*command, *marks, "--question", question]) == 0
        answers.append(out.getvalue().splitlines()[0].removesuffix(" … (cut; raise --max-new-tokens)"))
    return answers


def arguments(folder, image, question, boxes):
    return [str(folder), str(image), question, *(argument for box in boxes for argument in ("--box", box))]


def test_the_example_answers_as_predict_does(folder, image, predicted, monkeypatch, capsys):
    for (question, boxes), expected in zip(QUESTIONS, predicted, strict=True):
        monkeypatch.setattr("sys.argv", [str(EXAMPLE), *arguments(folder, image, question, boxes)])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        assert capsys.readouterr().out.strip() == expected
    assert any(predicted)


def test_the_example_answers_as_predict_does_in_transformers_4_57(folder, image, predicted):
    question, boxes = QUESTIONS[0]
    answer = run_with_transformers_457(str(EXAMPLE), *arguments(folder, image, question, boxes))
    assert answer.strip() == predicted[0]


def test_the_model_card_tells_training_regions_and_results(folder):
    card = (folder / "README.md").read_text()
    for expected in ("license: other", "phantoms drawn by the project", "`crop`", "## Evaluation", "right", "blank"):
        assert expected in card
    assert "not a medical device" in card
