"""What a calibration's promise comes to on other questions, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from calibrations import CALIBRATION

from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.config import ConfigError
from rllava_jax.evaluation.confidence.selective import selective_rows
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.inference.calibration import calibration_of, stored_calibration, write_calibration


def predicted(name, probability, *, right, condition="right", family="vqa"):
    return Prediction(
        id=name, dataset="made", split="test", image_id=f"image of {name}", question="is it?", answer="yes",
        prediction="yes" if right else "no", confidence=probability, log_prob=float(np.log(probability)),
        family=family, answer_type="closed", condition=condition,
    )  # fmt: skip


def cells(predictions, **options):
    options = {"bootstrap": 0, "seed": 0, **options}
    found = selective_rows(predictions, CALIBRATION, **options)
    return {(row["subset"], row["condition"], row["metric"]): row for row in found}


def test_coverage_and_risk_are_of_the_thresholds_that_validation_fixed():
    given = [predicted("a", 0.9, right=True), predicted("b", 0.7, right=False), predicted("c", 0.6, right=True)]
    withheld = [predicted("d", 0.5, right=False)]  # at the threshold, and not above it
    found = cells(given + withheld)
    assert found["all", "right", "coverage@risk=0.20"]["value"] == 3 / 4
    assert found["all", "right", "coverage@risk=0.20"]["n"] == 4
    assert found["all", "right", "risk@risk=0.20"]["value"] == pytest.approx(1 / 3)
    assert found["all", "right", "risk@risk=0.20"]["n"] == 3


def test_a_risk_that_cannot_be_promised_answers_nothing():
    found = cells([predicted("a", 0.99, right=True)], bootstrap=50)
    row = found["all", "right", "coverage@risk=0.10"]
    assert (row["value"], row["ci_low"], row["ci_high"]) == (0, None, None)
    assert ("all", "right", "risk@risk=0.10") not in found


def test_calibrated_figures_are_of_the_calibrated_confidence():
    # Odds 4 at temperature 2 are odds of 2.
    found = cells([predicted("a", 0.8, right=True), predicted("b", 0.8, right=False)])
    assert found["all", "right", "brier_calibrated"]["value"] == pytest.approx(((1 / 3) ** 2 + (2 / 3) ** 2) / 2)
    assert found["all", "right", "ece_calibrated"]["value"] == pytest.approx(2 / 3 - 1 / 2)


def test_conditions_and_families_have_rows_of_their_own():
    found = cells(
        [
            predicted("a", 0.9, right=True),
            predicted("a", 0.9, right=False, condition="wrong"),
            predicted("b", 0.9, right=False, family="identify"),
        ]
    )
    assert found["all", "right", "risk@risk=0.20"]["value"] == 0.5
    assert found["family=vqa", "right", "risk@risk=0.20"]["value"] == 0
    assert found["all", "wrong", "risk@risk=0.20"]["value"] == 1
    assert ("family=identify", "wrong", "risk@risk=0.20") not in found


def test_rows_have_intervals_by_image():
    many = [predicted(str(i), 0.9 if i % 2 else 0.4, right=i % 3 > 0) for i in range(60)]
    row = cells(many, bootstrap=50)["all", "right", "coverage@risk=0.20"]
    assert row["ci_low"] < row["value"] == 0.5 < row["ci_high"]


def test_the_stop_that_answers_most_is_taken():
    assert CALIBRATION.stop_for(0.2) == CALIBRATION.stops[1]
    assert CALIBRATION.stop_for(0.19) == CALIBRATION.stops[0]
    assert CALIBRATION.stop_for(0.9) == CALIBRATION.stops[2]
    assert CALIBRATION.coverage(CALIBRATION.stop_for(0.2)) == 0.6


def test_a_risk_too_low_names_the_lowest():
    with pytest.raises(ConfigError, match=r"--risk 0.1: cannot be promised .* lowest that can is 0.15, at which 30%"):
        CALIBRATION.stop_for(0.1)
    for risk in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="is not a risk"):
            CALIBRATION.stop_for(risk)


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    assert stored_calibration(tmp_path) is None
    (tmp_path / "assets").mkdir()
    path = write_calibration(tmp_path, CALIBRATION)
    assert stored_calibration(tmp_path) == CALIBRATION
    assert [file.name for file in path.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": {"value": 0, "low": None, "high": None}},
        {"stops": []},
        {"stops": [1]},
        {"more": 1},
        {"bias": None},
    ],
)
def test_a_damaged_calibration_is_named_with_the_command_that_mends_it(tmp_path, change):
    (tmp_path / "assets").mkdir()
    path = write_calibration(tmp_path, CALIBRATION)
    fields = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    path.write_text(json.dumps(fields | change))
    with pytest.raises(CheckpointError, match=r"rllava_jax\.calibrate") as raised:
        stored_calibration(tmp_path)
    assert str(path) in str(raised.value)
    with pytest.raises(CheckpointError):
        calibration_of({"calibration.json": b"{"}, checkpoint=tmp_path)
