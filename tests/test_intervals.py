"""Intervals: against theory, and in the cases where a bootstrap claims too much."""

from __future__ import annotations

import numpy as np
import pytest

from rllava_jax.evaluation import intervals
from rllava_jax.evaluation.intervals import Interval, bootstrap_interval, mean_interval


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of `values` under each row of `weights`."""
    return (weights @ values) / weights.sum(axis=1)


def own_image(n: int) -> list[str]:
    return [f"i{i}" for i in range(n)]


def test_the_interval_of_a_share_has_the_textbook_width():
    # Closed VQA-RAD: 272 questions at 84 %: 1.96 sqrt(p (1 - p) / n) = 4.4 points each way.
    values = np.r_[np.ones(228), np.zeros(44)]
    low, high = mean_interval(values, own_image(272), resamples=4000, seed=0)
    assert (high - low) / 2 == pytest.approx(0.0436, abs=0.003)
    assert low < values.mean() < high


def test_whole_images_are_drawn():
    """20 images of 10 equal answers know as much as 20 answers, not as 200."""
    per_image = np.r_[np.ones(12), np.zeros(8)]
    clustered = mean_interval(np.repeat(per_image, 10), np.repeat(own_image(20), 10), resamples=2000, seed=0)
    alone = mean_interval(per_image, own_image(20), resamples=2000, seed=0)
    assert clustered == pytest.approx(alone)


def test_images_with_more_questions_weigh_more():
    values, images = np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"]
    means = {weighted_mean(w[None], values)[0] for w in (np.array([1.0, 1, 1, 1]), np.array([2.0, 2, 2, 0]))}
    assert means == {0.75, 1.0}
    assert mean_interval(values, images, resamples=500, seed=0) == Interval(0, 1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = np.clip(rng.normal(0.6, 0.2, size=1_000_000), 0, 1).mean()
    covered = 0
    for trial in range(200):
        skill = np.clip(rng.normal(0.6, 0.2, size=40), 0, 1)  # images differ in difficulty
        values = (rng.random((40, 5)) < skill[:, None]).astype(float).ravel()
        low, high = mean_interval(values, np.repeat(own_image(40), 5), resamples=300, seed=trial)
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random(50)
    first, again, other = (mean_interval(values, own_image(50), resamples=200, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_answers_all_right_do_not_prove_a_perfect_model():
    # Clopper and Pearson for 20 of 20: 0.025 ** (1 / 20) = 0.832.
    low, high = mean_interval(np.ones(20), own_image(20), resamples=100, seed=0)
    assert (low, high) == (pytest.approx(0.8316, abs=1e-4), 1)
    low, high = mean_interval(np.zeros(20), own_image(20), resamples=100, seed=0)
    assert (low, high) == (0, pytest.approx(0.1684, abs=1e-4))


def test_questions_of_one_image_say_little_about_others():
    assert mean_interval(np.ones(50), ["a"] * 50, resamples=100, seed=0) == pytest.approx((0.025, 1))
    assert mean_interval(np.array([0.0, 1.0]), ["a", "a"], resamples=100, seed=0) == Interval(0, 1)


def test_a_difference_that_is_always_zero_keeps_an_interval_around_zero():
    low, high = mean_interval(np.zeros(20), own_image(20), resamples=100, seed=0, bounds=(-1, 1))
    assert low == -high
    assert 0.1 < high < 0.2


def test_no_resamples_give_no_interval():
    assert mean_interval(np.array([0.0, 1.0]), own_image(2), resamples=0, seed=0) is None


def test_a_statistic_undefined_in_most_resamples_has_no_interval():
    def undefined(weights):
        return np.full(len(weights), np.nan)

    assert bootstrap_interval(undefined, own_image(5), resamples=100, seed=0) is None


def test_draws_made_in_parts_are_those_made_at_once(monkeypatch):
    values = np.random.default_rng(0).random(500)
    images = [f"i{n % 70}" for n in range(500)]
    kept = mean_interval(values, images, resamples=300, seed=1)
    monkeypatch.setattr(intervals, "_KEPT", 0)
    assert mean_interval(values, images, resamples=300, seed=1) == kept


def test_a_mean_summed_by_image_is_the_mean_of_the_questions_drawn():
    values = np.random.default_rng(0).random(60)
    images = [f"i{n % 7}" for n in range(60)]
    summed = mean_interval(values, images, resamples=400, seed=2)
    drawn = bootstrap_interval(lambda w: weighted_mean(w, values), images, resamples=400, seed=2)
    assert summed == pytest.approx(drawn, rel=1e-12)


def test_images_may_be_numbered_in_the_order_of_their_names():
    values = np.random.default_rng(0).random(40)
    names = [f"i{n % 8}" for n in range(40)]
    numbers = np.array([n % 8 for n in range(40)])
    assert mean_interval(values, numbers, resamples=100, seed=0) == mean_interval(values, names, resamples=100, seed=0)
