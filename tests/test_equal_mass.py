"""Equal-mass ECE, AURC and confident errors, on cases computed by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from rllava_jax.evaluation.confidence.calibration import aurc, confident_error, ece_equal_mass, ones


def test_bins_of_equal_mass_hold_a_tenth_each():
    confidence = np.linspace(0.05, 1, 20)
    correct = np.tile([1.0, 0.0, 0.0, 1.0, 1.0], 4)
    pairs = (confidence - correct).reshape(10, 2)
    assert ece_equal_mass(ones(20), confidence, correct) == pytest.approx([np.abs(pairs.sum(1)).sum() / 20])


def test_crowded_confidences_are_told_apart():
    """All in the last bin of equal width, where over- and underconfidence cancel."""
    confidence = np.array([0.95] * 10 + [0.99] * 10)
    correct = np.array([1.0] * 10 + [1.0] * 9 + [0.0])
    assert ece_equal_mass(ones(20), confidence, correct) == pytest.approx([(0.05 + 0.09) / 2])


def test_a_group_on_a_boundary_is_divided_in_proportion():
    # Fifteen questions, 1.5 a bin: every bin of the one group has its mean gap.
    correct = np.array([1.0] * 9 + [0.0] * 6)
    assert ece_equal_mass(ones(15), np.full(15, 0.7), correct) == pytest.approx([0.7 - 0.6])


def test_area_is_the_mean_error_rate_of_the_k_most_confident():
    # Most confident first: right, wrong, right, wrong: 0, 1/2, 1/3, 2/4.
    value = aurc(ones(4), np.array([0.9, 0.8, 0.4, 0.2]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert value == pytest.approx([(0 + 1 / 2 + 1 / 3 + 1 / 2) / 4])


def test_tied_answers_are_averaged_over_their_orders():
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    orders = []
    for order in permutations([1, 2, 3]):
        wrong = np.cumsum(1 - correct[[0, *order, 4]])
        orders.append(np.mean(wrong / np.arange(1, 6)))
    assert aurc(ones(5), confidence, correct) == pytest.approx([np.mean(orders)])


def test_area_is_the_error_rate_where_confidence_says_nothing():
    assert aurc(ones(5), np.full(5, 0.3), np.array([1.0, 1.0, 0.0, 0.0, 1.0])) == pytest.approx([0.4])


def test_a_confident_error_is_wrong_at_nine_tenths_or_more():
    errors = confident_error(np.array([0.9, 0.95, 0.89, 1.0]), np.array([0.0, 1.0, 0.0, 0.0]))
    assert errors.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("statistic", [ece_equal_mass, aurc])
def test_a_weight_of_two_equals_the_question_twice_in_any_order(statistic):
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(37).round(1), rng.integers(0, 2, 37).astype(float)
    times = rng.integers(0, 4, (3, 37))
    expected = []
    for row in times:
        order = rng.permutation(row.sum())
        expected += statistic(
            ones(len(order)), np.repeat(confidence, row)[order], np.repeat(correct, row)[order]
        ).tolist()
    assert statistic(times.astype(float), confidence, correct) == pytest.approx(expected)
