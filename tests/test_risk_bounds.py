"""Bounds of the error rate among answers given, against SciPy, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rllava_jax.evaluation.confidence.risk_bounds import COVERAGES, binomial_upper_bound, design_effect, stops


@pytest.mark.parametrize(("wrong", "answered"), [(0, 1), (0, 50), (3, 40), (39, 40), (200, 1000)])
def test_the_bound_is_scipys_exact_one(wrong, answered):
    oracle = binomtest(wrong, answered, alternative="less").proportion_ci(0.99, method="exact").high
    assert binomial_upper_bound(wrong, answered, 0.01) == pytest.approx(oracle)


def test_the_bound_without_an_error_is_one_minus_a_root():
    # (1 - r)^n = delta
    assert binomial_upper_bound(0, 30, 0.05) == pytest.approx(1 - 0.05 ** (1 / 30))
    assert binomial_upper_bound(5, 5, 0.05) == 1


def test_questions_of_one_image_that_are_alike_count_once():
    correct = np.repeat(np.array([1.0, 0.0] * 10), 5)
    images = np.repeat(np.arange(20), 5).astype(str).tolist()
    # Five copies each: the variance between images is 20 / 19 times five times the binomial one.
    assert design_effect(correct, images) == pytest.approx(5 * 20 / 19)
    assert design_effect(correct, [str(i) for i in range(100)]) == pytest.approx(100 / 99)
    assert design_effect(np.ones(4), ["a", "a", "b", "b"]) == 1


def made(n, rng, *, images=None):
    log_prob = -rng.exponential(1, n)
    correct = (rng.random(n) < np.exp(log_prob)).astype(float)
    return log_prob, correct, images or [str(i) for i in range(n)]


def fitted(log_prob, correct, images):
    return stops(log_prob, correct, images, temperature=1, bias=0, failure_chance=0.05)


def test_stops_by_hand():
    # Twenty questions, surest first; the third and the last two are wrong.
    log_prob = -np.arange(1.0, 21)
    correct = np.ones(20)
    correct[[2, 18, 19]] = 0
    found = fitted(log_prob, correct, [str(i) for i in range(20)])
    assert [stop.answered for stop in found] == list(range(1, 21))
    assert [stop.wrong for stop in found] == [0, 0, *[1] * 16, 2, 3]
    assert found[4].above == -6
    assert found[4].gives(-5.0)
    assert not found[4].gives(-6.0)
    assert found[4].confidence == pytest.approx(np.exp(-6))
    assert found[-1].above is None
    assert found[-1].gives(-1e9)
    effect = 20 / 19  # of 20 images of one question each
    oracle = binomial_upper_bound(3 / effect, 20 / effect, 0.05 / COVERAGES)
    assert found[-1].risk_bound == pytest.approx(oracle)


def test_equally_sure_answers_are_withheld_together():
    log_prob = np.array([-0.1] * 30 + [-1.0] * 70)
    correct = np.array([1.0] * 80 + [0.0] * 20)
    found = fitted(log_prob, correct, [str(i) for i in range(100)])
    assert [(stop.answered, stop.above) for stop in found] == [(30, -1.0), (100, None)]


def test_the_order_of_the_questions_does_not_matter():
    log_prob, correct, images = made(200, np.random.default_rng(0), images=[str(i // 7) for i in range(200)])
    order = np.random.default_rng(1).permutation(200)
    again = fitted(log_prob[order], correct[order], [images[i] for i in order])
    for one, other in zip(fitted(log_prob, correct, images), again, strict=True):
        assert one == pytest.approx(other)


def test_all_bounds_hold_at_once_as_often_as_promised():
    """Against the true risk above each threshold: E[1 - p | p > t] = (1 - t) / 2 where p is uniform."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(200):
        found = fitted(*made(150, rng))
        broken += any(
            stop.risk_bound < (1 - np.exp(stop.above if stop.above is not None else -np.inf)) / 2 for stop in found
        )
    assert broken <= 0.05 * 200


def test_the_bounds_hold_where_questions_of_one_image_are_alike():
    """Each image is easy or hard for all its ten questions, and confidence tells nothing: the true risk is a half."""
    rng = np.random.default_rng(0)
    broken = {"as they are": 0, "as if independent": 0}
    for _ in range(100):
        ease = np.repeat(rng.choice([0.1, 0.9], 60), 10)
        correct = (rng.random(600) < ease).astype(float)
        log_prob, images = -rng.random(600), [str(i // 10) for i in range(600)]
        apart = [str(i) for i in range(600)]
        for name, clusters in (("as they are", images), ("as if independent", apart)):
            broken[name] += min(stop.risk_bound for stop in fitted(log_prob, correct, clusters)) < 0.5
    assert broken["as they are"] <= 5
    assert broken["as if independent"] > 10
