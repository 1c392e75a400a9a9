"""Does the confidence mean what it says? ECE, Brier score, AUROC of confidence, risk-coverage.

The statistics take weights [S, N] and return [S], so that the bootstrap runs through them unchanged; `ones` weighs
every question once. Axes: S resamples, N questions, U distinct confidences.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rllava_jax.evaluation.intervals import Resampled, Values, Weights

BINS = 10


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
    order = np.argsort(confidence, kind="stable")
    _, starts = np.unique(confidence[order], return_index=True)
    right = np.add.reduceat(weights[:, order] * correct[order], starts, axis=1)  # [S, U]
    wrong = np.add.reduceat(weights[:, order] * (1 - correct[order]), starts, axis=1)
    below = np.cumsum(wrong, axis=1) - wrong
    pairs = right.sum(axis=1) * wrong.sum(axis=1)
    wins = (right * (below + wrong / 2)).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def reliability(confidence: Values, correct: Values) -> list[ReliabilityBin]:
    """The bins behind the ECE that hold any question."""
    index = _bin_of(confidence)
    bins = []
    for b in range(BINS):
        held = index == b
        if held.any():
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
