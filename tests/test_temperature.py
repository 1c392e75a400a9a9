"""Fitting confidence: known parameters are recovered, order is kept, and what cannot be fitted is refused."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from rllava_jax.evaluation.confidence.calibration import auroc, expected_calibration_error, ones
from rllava_jax.evaluation.confidence.temperature import (
    check_enough,
    fit,
    fit_with_intervals,
    held_out_confidence,
    quality,
)
from rllava_jax.inference.calibration import calibrated, log_odds


def synthetic(temperature, bias, n=20_000, seed=0):
    """Log-probabilities of answers that are right as often as sigmoid(logit / temperature + bias)."""
    rng = np.random.default_rng(seed)
    log_prob = -np.logaddexp(0, -rng.normal(1, 2.5, n))
    right = rng.random(n) < calibrated(log_prob, temperature, bias)
    return log_prob, right.astype(float), [f"image {i // 10}" for i in range(n)]


def test_log_odds_of_a_half_are_nought_and_of_certainty_finite():
    assert log_odds(np.log([0.5, 0.9])) == pytest.approx([0, np.log(9)])
    assert np.isfinite(log_odds(np.array([0.0, 1e-7, -1e-9, -2000.0]))).all()


def test_confidence_by_hand():
    # p = 0.8: odds 4, log-odds at temperature 2 are log 2, and with a bias of log 3 odds of 6.
    assert calibrated(np.log([0.8]), 2, np.log(3)) == pytest.approx([6 / 7])


@pytest.mark.parametrize(("temperature", "bias"), [(1, 0), (2.5, 0), (0.6, 0.5), (1.5, -1)])
def test_a_known_temperature_and_bias_are_recovered(temperature, bias):
    log_prob, correct, images = synthetic(temperature, bias)
    found = fit(log_prob, correct)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.bias == pytest.approx(bias, abs=0.06)
    held_out = held_out_confidence(log_prob, correct, images, seed=0)
    assert expected_calibration_error(ones(len(correct)), held_out, correct) < 0.015


def test_a_weight_of_two_equals_the_question_twice():
    log_prob, correct, _ = synthetic(2, 0, n=500)
    times = np.random.default_rng(1).integers(0, 3, 500)
    twice = fit(np.repeat(log_prob, times), np.repeat(correct, times))
    assert fit(log_prob, correct, times.astype(float)) == pytest.approx(twice, rel=1e-3, abs=1e-3)


def test_intervals_hold_the_truth():
    log_prob, correct, images = synthetic(2, -0.5, n=2000)
    temperature, bias = fit_with_intervals(log_prob, correct, images, resamples=100, seed=0, where="made")
    assert temperature.low < 2 < temperature.high
    assert bias.low < -0.5 < bias.high
    assert temperature.high - temperature.low < 1


def test_order_and_auroc_stay():
    log_prob, correct, _ = synthetic(2, 0, n=3000)
    confidence = calibrated(log_prob, *fit(log_prob, correct))
    assert (np.argsort(confidence, kind="stable") == np.argsort(log_prob, kind="stable")).all()
    weights = ones(len(correct))
    assert auroc(weights, confidence, correct) == auroc(weights, np.exp(log_prob), correct)


def test_each_questions_confidence_comes_of_other_images():
    """An image whose answers are all wrong, in a set that is otherwise right, does not lower its own confidence."""
    log_prob, correct, images = synthetic(1, 0, n=400)
    changed = correct.copy()
    own = np.array(images) == "image 0"
    changed[own] = 1 - changed[own]
    first, second = (held_out_confidence(log_prob, y, images, seed=3) for y in (correct, changed))
    assert (first[own] == second[own]).all()
    assert (first != second).any()


def test_figures_by_hand():
    confidence, correct = np.array([0.8, 0.6]), np.array([1.0, 0.0])
    found = quality(confidence, correct, ["a", "b"], resamples=0, seed=0)
    assert found["nll"].value == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert found["brier"].value == pytest.approx((0.04 + 0.36) / 2)
    assert found["ece"].value == pytest.approx((0.2 + 0.6) / 2)


def test_a_confidence_that_tells_nothing_is_refused():
    rng = np.random.default_rng(0)
    log_prob = -rng.random(1000)
    correct = (np.exp(log_prob) < 0.6).astype(float)
    with pytest.raises(DataError, match=r"made: confidence does not tell right answers from wrong ones \(AUROC 0.00\)"):
        fit_with_intervals(log_prob, correct, ["a", "b"] * 500, resamples=0, seed=0, where="made")


@pytest.mark.parametrize(
    ("right", "wrong", "images", "said"),
    [
        (50, 49, 99, "99 questions on 99 images"),
        (50, 50, 19, "on 19 images"),
        (100, 0, 50, "100 of 100"),
        (9, 200, 50, "9 of 209"),
    ],
)
def test_too_little_to_fit_is_refused(right, wrong, images, said):
    correct = np.array([1.0] * right + [0.0] * wrong)
    with pytest.raises(DataError, match=said):
        check_enough(correct, [str(i % images) for i in range(len(correct))], where="made")
