"""Paired tests: against hand-computed cases, scipy, and what chance alone does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from rllava_jax.evaluation.intervals import Interval
from rllava_jax.evaluation.paired import compare, comparison_rows, markdown, mcnemar, unmatched
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.scoring import Scored

IMAGES = [f"i{n}" for n in range(20)]


def test_mcnemar_is_the_two_sided_sign_test_of_the_differing_questions():
    first = np.array([1.0] * 8 + [0] * 2 + [1] * 10)
    second = np.array([0.0] * 8 + [1] * 2 + [1] * 10)
    # P(at most 2 of 10 heads), doubled: (1 + 10 + 45) / 1024 * 2.
    assert mcnemar(first, second) == (8, 2, pytest.approx(112 / 1024))
    assert mcnemar(second, first) == (2, 8, pytest.approx(112 / 1024))
    assert mcnemar(first, first) == (0, 0, 1.0)
    assert mcnemar(first, second).p == pytest.approx(2 * binom.cdf(2, 10, 0.5))


def test_a_difference_is_that_of_the_means_with_its_interval():
    first, second = np.array([1.0, 1, 1, 0] * 5), np.array([1.0, 0, 0, 0] * 5)
    found = compare(first, second, IMAGES, resamples=2000, seed=0)
    assert found.difference == pytest.approx(0.5)
    assert found.n == 20
    assert found.interval is not None
    assert 0.2 < found.interval.low < 0.4 < 0.6 < found.interval.high < 0.8
    assert found.p is not None
    assert found.p < 0.01
    assert found.mcnemar is not None
    assert found.mcnemar.p == pytest.approx(2 / 2**10)


def test_the_same_answers_differ_by_nothing():
    scores = np.array([1.0, 0] * 10)
    found = compare(scores, scores, IMAGES, resamples=200, seed=0)
    assert (found.difference, found.p) == (0, 1)
    assert found.interval is not None
    assert found.interval.low < 0 < found.interval.high  # twenty images do not prove that none differs


def test_exchanging_the_two_turns_the_sign_alone():
    rng = np.random.default_rng(1)
    first, second = rng.random(20), rng.random(20)
    one, other = (compare(*pair, IMAGES, resamples=500, seed=0) for pair in ((first, second), (second, first)))
    assert one.difference == pytest.approx(-other.difference)
    assert one.p == pytest.approx(other.p)
    assert one.interval == pytest.approx(Interval(-other.interval.high, -other.interval.low))
    assert one.mcnemar is None  # scores between 0 and 1


def test_three_images_prove_nothing_and_one_says_nothing():
    better, worse = np.ones(9), np.zeros(9)
    found = compare(better, worse, ["a", "b", "c"] * 3, resamples=1000, seed=0)
    assert found.p == 1 / 4  # both ways, three images agree by chance in a quarter of cases
    alone = compare(better, worse, ["a"] * 9, resamples=1000, seed=0)
    assert alone.p is None


def test_without_resamples_mcnemar_stands_alone():
    found = compare(np.ones(20), np.zeros(20), IMAGES, resamples=0, seed=0)
    assert (found.interval, found.p) == (None, None)
    assert found.mcnemar.first_only == 20


def test_of_two_equal_models_few_are_told_apart():
    """Five questions on each of 30 images that differ in difficulty; about one in twenty has p < 0.05."""
    rng = np.random.default_rng(0)
    images = np.repeat([f"i{n}" for n in range(30)], 5).tolist()
    called = 0
    for trial in range(200):
        skill = np.repeat(rng.random((2, 30)), 5, axis=1)  # the models' own, so that answers on an image go together
        first, second = (rng.random((2, 150)) < skill).astype(float)
        called += compare(first, second, images, resamples=200, seed=trial).p < 0.05
    assert 1 <= called <= 24


def scored(name: str, image: str, accuracy: float, condition: str = "") -> Scored:
    subsets = ("all", "answer_type=open") if name == "c" else ("all",)
    answer = Response(id=name, dataset="d", split="test", image_id=image, question="", answer="", condition=condition)
    return Scored(answer, subsets, {"accuracy": accuracy, "f1": accuracy / 2})


def test_a_p_too_small_for_a_float_keeps_its_counts_and_bars_stay_in_their_cell():
    wins = [scored(str(n), f"i{n}", 1, "a|\nb") for n in range(1200)]
    losses = [scored(str(n), f"i{n}", 0, "a|\nb") for n in range(1200)]
    (row,) = comparison_rows(wins, losses, lambda subset: ("accuracy",), resamples=0, seed=0)
    assert row["mcnemar_p"] == 0
    assert r"| all (a\| b) | accuracy | 1200 | 100.0 | 0.0 | +100.0 | – | 1200 : 0, p < 0.001 |" in markdown([row])


def test_rows_are_over_the_questions_that_both_have():
    first = [scored("a", "i", 1), scored("b", "j", 1), scored("c", "k", 1), scored("c", "k", 1, "blank")]
    second = [scored("c", "k", 0), scored("a", "i", 1), scored("z", "k", 1)]

    def metrics_of(subset: str) -> tuple[str, ...]:
        return ("f1",) if subset == "answer_type=open" else ("accuracy",)

    rows = comparison_rows(first, second, metrics_of, resamples=0, seed=0)
    assert [(r["subset"], r["condition"], r["metric"], r["n"]) for r in rows] == [
        ("all", "", "accuracy", 2),
        ("answer_type=open", "", "f1", 1),
    ]
    assert (rows[0]["first"], rows[0]["second"], rows[0]["first_only"], rows[0]["second_only"]) == (1, 0.5, 1, 0)
    assert rows[1]["mcnemar_p"] is None
    assert unmatched(first, second) == (["b", "c (blank)"], ["z"])
    assert "| all | accuracy | 2 | 100.0 | 50.0 | +50.0 | – | 1 : 0, p 1.000 |" in markdown(rows)
