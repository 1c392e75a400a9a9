"""The bins of a reliability diagram that each hold as many questions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from rllava_jax.evaluation.confidence.calibration import BINS, ReliabilityBin


def reliability_equal_mass(
    confidence: Float[np.ndarray, " N"], correct: Float[np.ndarray, " N"]
) -> list[ReliabilityBin]:
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
