"""Calibration where confidences crowd: bins of equal mass, area under the risk-coverage curve, confident errors.

A model that is nearly always sure fills one bin of equal width and leaves the rest to a few questions, whose noise then
makes the ECE; bins of equal mass each hold as many (Nixon et al., 2019, "Measuring calibration in deep learning").

As in `calibration.py` the statistics take weights [S, N] and return [S]. Questions of equal confidence count as one
group, so that neither depends on the order of the rows, and a weight of two equals the question twice.
Axes: S resamples, N questions, U distinct confidences.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import digamma  # type: ignore[import-untyped]

from rllava_jax.evaluation.confidence.calibration import BINS, ReliabilityBin
from rllava_jax.evaluation.intervals import Resampled, Values, Weights

CONFIDENT = 0.9


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
