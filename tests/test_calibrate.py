"""The command that calibrates a checkpoint, and what prediction and evaluation make of it, on a tiny run."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from rllava_jax import calibrate, predict
from rllava_jax.checkpoint import Checkpoints
from rllava_jax.evaluation.predictions import read_predictions, to_json
from rllava_jax.inference.calibration import stored_calibration
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.predictor import Predictor

# Enough questions to fit on; 14 steps teach little, so that what is fitted here is of no use.
ASKED = ["--config.data.phantom.validate_images=24", "--config.evaluation.max_examples=0"]


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate") / "run"
    shutil.copytree(finished_run, folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(workdir):
    """The run's last checkpoint, after the command has asked validation questions."""
    assert calibrate.main(["--checkpoint", str(workdir), *ASKED]) == 0
    return workdir / "checkpoints" / "14"


def test_the_command_asks_validation_and_keeps_the_answers(calibrated, workdir):
    calibration = stored_calibration(calibrated)
    asked = read_predictions(workdir / "eval" / "14-calibration" / "predictions.jsonl")
    assert {(p.split, p.region) for p in asked} == {("validate", "right")}
    assert calibration.questions == len(asked) >= 100
    assert calibration.images == 24
    assert calibration.split == "validate"
    assert calibration.made_by["run"] == "run"
    assert calibration.made_by["step"] == 14
