"""Does the confidence mean what it says? ECE, Brier score, AUROC of confidence, risk-coverage, confident errors.

A model that is nearly always sure fills one bin of equal width and leaves the rest to a few questions, whose noise then
makes the ECE; bins of equal mass each hold as many (Nixon et al., 2019, "Measuring calibration in deep learning").

The statistics take weights [S, N] and return [S], so that the bootstrap runs through them unchanged; `ones` weighs
every question once. Questions of equal confidence count as one group, so that none depends on the order of the rows,
and a weight of two equals the question twice. Axes: S resamples, N questions, U distinct confidences.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import digamma  # type: ignore[import-untyped]

from rllava_jax.evaluation.intervals import Resampled, Values, Weights

BINS = 10
CONFIDENT = 0.9


class ReliabilityBin(NamedTuple):
    """Questions whose confidence lies in [low, high), the last bin closed above."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def ones(n: int) -> Float[np.ndarray, "1 N"]:
    """Each of `n` questions once."""
    return np.ones((1, n))


def expected_calibration_error(weights: Weights, confidence: Values, correct: Values) -> Resampled:
    """ECE over ten bins of equal width (Guo et al., 2017): the gap of confidence and accuracy, weighted by bin size.

    Resampling adds noise to every bin, so that a bootstrap interval of it lies somewhat high.
    """
    in_bin = np.eye(BINS)[_bin_of(confidence)]
    gaps = (weights * (confidence - correct)) @ in_bin
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=1)


def brier_score(confidence: Values, correct: Values) -> Values:
    """Squared error of the confidence, one per question; the Brier score is their mean."""
    return (confidence - correct) ** 2


def negative_log_likelihood(confidence: Values, correct: Values) -> Values:
    """Of each question's being right or wrong, in nats."""
    return -np.log(np.clip(np.where(correct == 1, confidence, 1 - confidence), 1e-12, 1))


def auroc(weights: Weights, confidence: Values, correct: Values) -> Resampled:
    """Probability that a right answer carries more confidence than a wrong one, ties counted half.

    NaN where all answers, or none, are right.
    """
    right, wrong = _by_confidence(weights, correct, 1 - correct, order=confidence)
    below = np.cumsum(wrong, axis=1) - wrong
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    wins = (right * (below + wrong / 2)).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def reliability(confidence: Values, correct: Values) -> list[ReliabilityBin]:
    """The bins behind the ECE that hold any question."""
    index = _bin_of(confidence)
    bins = []
    for b in np.unique(index).tolist():
        held = index == b
        means = float(confidence[held].mean()), float(correct[held].mean())
        bins.append(ReliabilityBin(b / BINS, (b + 1) / BINS, int(held.sum()), *means))
    return bins


def risk_coverage(confidence: Values, correct: Values) -> tuple[Float[np.ndarray, " U"], Float[np.ndarray, " U"]]:
    """Share of wrong answers when only the most confident ones are given.

    Returns:
      (coverage, risk): one point per distinct confidence, since tied answers can only be given together.
    """
    order = np.argsort(-confidence, kind="stable")
    last_of_tie = np.append(np.diff(confidence[order]) != 0, True)
    answered = np.arange(1, len(order) + 1)
    risk = np.cumsum(1 - correct[order]) / answered
    return (answered / len(order))[last_of_tie], risk[last_of_tie]


def _bin_of(confidence: Values) -> Int[np.ndarray, " N"]:
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def ece_equal_mass(weights: Weights, confidence: Values, correct: Values) -> Resampled:
    """ECE over ten bins that each hold a tenth of the questions, in order of confidence.

    A group of equal confidence in which a bin ends is divided between both bins, its right answers in proportion; so is
    a question where ten does not divide N. Resampling adds noise to every bin: a bootstrap interval lies somewhat high.
    """
    mass, gap = _by_confidence(weights, np.ones_like(confidence), confidence - correct, order=confidence)
    masses, gaps = (np.pad(np.cumsum(x, axis=1), ((0, 0), (1, 0))) for x in (mass, gap))  # [S, U + 1], from 0
    ends = np.linspace(0, 1, BINS + 1)
    cut = np.stack([np.interp(ends * m[-1], m, g) for m, g in zip(masses, gaps, strict=True)])
    return np.abs(np.diff(cut, axis=1)).sum(axis=1) / masses[:, -1]


def reliability_equal_mass(confidence: Values, correct: Values) -> list[ReliabilityBin]:
    """Ten bins of a tenth of the questions each, in order of confidence (Nixon et al., 2019).

    Questions of equal confidence are one group, so that the order of the rows is of no matter: where a bin ends inside
    a group, the group's right answers are divided in proportion. `n` is rounded to whole questions, at least 1.
    """
    levels, group = np.unique(confidence, return_inverse=True)
    mass = np.bincount(group)
    below = np.concatenate([[0.0], np.cumsum(mass)])  # questions below each level
    ends = np.linspace(0, len(confidence), BINS + 1)

    def means(values: Float[np.ndarray, " U"]) -> Float[np.ndarray, " B"]:
        return np.diff(np.interp(ends, below, np.concatenate([[0.0], np.cumsum(values)]))) / np.diff(ends)

    sure, hits = means(mass * levels), means(np.bincount(group, weights=correct))
    low = levels[np.searchsorted(below, ends[:-1], side="right") - 1]
    high = levels[np.searchsorted(below, ends[1:]) - 1]
    n = max(round(len(confidence) / BINS), 1)
    return [ReliabilityBin(float(low[b]), float(high[b]), n, float(sure[b]), float(hits[b])) for b in range(BINS)]


def aurc(weights: Weights, confidence: Values, correct: Values) -> Resampled:
    """Area under the risk-coverage curve: the error rate among the k most confident answers, averaged over k = 1 … N.

    Geifman, Uziel & El-Yaniv (2019), "Bias-reduced uncertainty estimation for deep neural classifiers". Equal
    confidences give the mean over all their orders: a group of m answers of which e are wrong, after a answers of
    which E are, adds the sum of (E + j e / m) / (a + j) over j = 1 … m.
    """
    mass, wrong = _by_confidence(weights, np.ones_like(confidence), 1 - correct, order=-confidence)
    before, errors = np.cumsum(mass, axis=1) - mass, np.cumsum(wrong, axis=1) - wrong  # a and E
    rate = np.divide(wrong, mass, out=np.zeros_like(wrong), where=mass > 0)
    # sum of 1 / (a + j) is a difference of harmonic numbers, H(x) = digamma(x + 1) + const.
    harmonic = digamma(before + mass + 1) - digamma(before + 1)
    return (wrong + (errors - before * rate) * harmonic).sum(axis=1) / mass.sum(axis=1)


def confident_error(confidence: Values, correct: Values) -> Values:
    """1 for a wrong answer of confidence 0.9 or more; the mean is the share of confident errors among all questions."""
    return ((confidence >= CONFIDENT) & (correct == 0)).astype(float)


def _by_confidence(weights: Weights, *values: Values, order: Values) -> tuple[Float[np.ndarray, "S U"], ...]:
    """Weighted sums of the values over each group of equal `order`, in ascending order of it."""
    rank = np.argsort(order, kind="stable")
    _, starts = np.unique(order[rank], return_index=True)
    return tuple(np.add.reduceat((weights * value)[:, rank], starts, axis=1) for value in values)
