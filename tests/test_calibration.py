"""Calibration, on cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rllava_jax.evaluation.confidence.calibration import (
    auroc,
    brier_score,
    expected_calibration_error,
    ones,
    reliability,
    risk_coverage,
)


def test_ece_is_the_gap_weighted_by_bin_size():
    confidence = np.array([0.95, 0.95, 0.95, 0.55])
    correct = np.array([1.0, 1.0, 0.0, 1.0])
    # Bin [0.9, 1]: |0.95 - 2/3|, three of four; bin [0.5, 0.6): |0.55 - 1|, one of four.
    expected = 0.75 * (0.95 - 2 / 3) + 0.25 * 0.45
    assert expected_calibration_error(ones(4), confidence, correct) == pytest.approx([expected])


def test_a_confidence_of_one_lies_in_the_last_bin():
    assert expected_calibration_error(ones(2), np.ones(2), np.ones(2)) == 0
    (only,) = reliability(np.ones(2), np.array([1.0, 0.0]))
    assert (only.low, only.high, only.n, only.confidence, only.accuracy) == (0.9, 1.0, 2, 1.0, 0.5)


def test_brier_score_is_the_squared_gap():
    assert brier_score(np.array([0.8, 0.3]), np.array([1.0, 0.0])) == pytest.approx([0.04, 0.09])


def test_auroc_counts_ordered_pairs_and_halves_ties():
    confidence = np.array([0.9, 0.8, 0.8, 0.1])
    correct = np.array([1.0, 1.0, 0.0, 0.0])
    # Pairs (right, wrong): .9 beats .8 and .1; .8 ties with .8 and beats .1: 3.5 of 4.
    assert auroc(ones(4), confidence, correct) == pytest.approx([3.5 / 4])


def test_auroc_is_one_when_every_right_answer_is_surer_and_half_when_confidence_is_constant():
    correct = np.array([1.0, 0.0, 1.0])
    assert auroc(ones(3), np.array([0.9, 0.1, 0.8]), correct) == 1
    assert auroc(ones(3), np.full(3, 0.7), correct) == 0.5


def test_auroc_is_undefined_when_all_answers_are_right():
    assert np.isnan(auroc(ones(2), np.array([0.2, 0.4]), np.ones(2)))


def test_a_weight_of_two_equals_the_question_twice():
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(30).round(1), rng.integers(0, 2, 30).astype(float)
    times = rng.integers(0, 4, 30)
    repeated = np.repeat(confidence, times), np.repeat(correct, times)
    for statistic in (expected_calibration_error, auroc):
        weighted = statistic(times[None].astype(float), confidence, correct)
        assert weighted == pytest.approx(statistic(ones(times.sum()), *repeated))


def test_reliability_bins_hold_every_question_once():
    rng = np.random.default_rng(0)
    bins = reliability(rng.random(100), rng.integers(0, 2, 100).astype(float))
    assert sum(b.n for b in bins) == 100
    assert all(b.low <= b.confidence <= b.high for b in bins)


def test_risk_falls_when_unsure_answers_are_withheld():
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.6, 0.4]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_tied_answers_are_given_or_withheld_together():
    coverage, risk = risk_coverage(np.array([0.5, 0.5, 0.9]), np.array([0.0, 1.0, 1.0]))
    assert coverage == pytest.approx([1 / 3, 1])
    assert risk == pytest.approx([0, 1 / 3])
