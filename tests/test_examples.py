"""The examples run as they stand, against a finished run; a second prediction compiles nothing."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

import rllava_jax
from data_pipelines.core.errors import ConfigError, DataError, ImageError

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def runs(finished_run, tmp_path, monkeypatch):
    """A folder with runs/demo in it, as the examples expect it, and their own folder beside."""
    shutil.copytree(finished_run, tmp_path / "runs" / "demo")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def model(finished_run):
    return rllava_jax.load(finished_run)


def test_the_quickstart_answers_with_and_without_a_region(runs, capsys):
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"]([])
    question, marked, unmarked = capsys.readouterr().out.splitlines()
    assert question.endswith("?")
    assert "(confidence 0." in marked
    assert "(confidence 0." in unmarked


def test_the_notebook_runs_and_was_executed(runs, capsys):
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
        assert cell["outputs"]
    assert "(confidence 0." in capsys.readouterr().out


def test_an_image_may_be_a_file_its_content_a_picture_or_an_array(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    path = tmp_path / "scan.png"
    Image.fromarray(pixels).save(path)
    question, boxes = "what is the marked structure?", [(5, 6, 20, 30)]
    forms = (path, str(path), path.read_bytes(), Image.fromarray(pixels), pixels)
    answers = [model.ask(image, question, boxes=boxes) for image in forms]
    assert all(answer == answers[0] for answer in answers)
    assert str(answers[0]) == f"{answers[0].text} (confidence {answers[0].confidence:.3f})"
    assert model.ask(pixels, question).log_prob != answers[0].log_prob


def test_what_cannot_be_asked_is_refused_as_on_the_command_line(model, tmp_path):
    pixels = np.zeros((48, 64), np.uint8)
    with refused(ConfigError, "option.invalid-value", "1,2,3"):
        model.ask(pixels, "what?", boxes=[(1, 2, 3)])
    with refused(DataError, "image.unreadable", "float64"):
        model.ask(pixels.astype(float), "what?")
    with pytest.raises(ImageError) as caught:
        model.ask(tmp_path / "none.png", "what?")
    assert str(tmp_path / "none.png") in str(caught.value)


def test_a_second_prediction_adds_no_compiled_program(runs, command_line, tmp_path):
    """The cache is the run's own; where that is not set, it lies beside the checkpoint."""
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "scan.png")
    command = [sys.executable, "-m", "rllava_jax.predict", "--checkpoint", str(runs / "demo")]
    command += ["--image", str(tmp_path / "scan.png"), "--question", "what is this?"]
    described = json.loads((runs / "demo" / "config.json").read_text())
    cache = Path(described["config"]["train"]["compilation_cache"])  # of the worker that trained the run

    def programs():
        return sorted(path.name for path in cache.rglob("*-cache"))

    said = []
    for _ in range(2):
        status, out, err = command_line.run(command, JAX_COMPILATION_CACHE_DIR="")
        assert status == 0, err
        said.append((out, programs()))
    assert said[0] == said[1]
    assert any("jit__generate" in name for name in said[0][1])
