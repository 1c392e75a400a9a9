"""AUC, F1 and accuracy of classification, per class and as their mean over classes (macro).

The statistics take weights [S, N] and return [S], or [S, C] per class, so that the bootstrap runs through them; see
`intervals`. Undefined is NaN: an AUC without a positive or without a negative. Axes: S resamples, N items, C classes.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from rllava_jax.evaluation.confidence.calibration import auroc
from rllava_jax.evaluation.intervals import Resampled, Values, Weights

_Flags = Bool[np.ndarray, " N"]
_Numbers = Int[np.ndarray, " N"]  # of classes
_PerClass = Float[np.ndarray, "S C"]


def binary_auc(weights: Weights, score: Values, positive: _Flags) -> Resampled:
    """Probability that a positive item scores above a negative one, ties counted half (Hanley & McNeil, 1982)."""
    return auroc(weights, score, positive.astype(float))


def binary_f1(weights: Weights, called: _Flags, positive: _Flags) -> Resampled:
    """2 TP / (2 TP + FP + FN); 0 where nothing is positive or called so, as scikit-learn has it by default."""
    hits = weights @ (called & positive)
    total = weights @ called + weights @ positive
    return np.divide(2 * hits, total, out=np.zeros(len(weights)), where=total > 0)


def class_f1(weights: Weights, predicted: _Numbers, wanted: _Numbers, classes: int) -> _PerClass:
    """F1 of each class against the rest.

    Args:
      predicted: class numbers; -1 is an answer that names no class, and counts against the wanted one.
    """
    return np.stack([binary_f1(weights, predicted == c, wanted == c) for c in range(classes)], axis=1)


def class_auc(weights: Weights, scores: Float[np.ndarray, "N C"], wanted: _Numbers) -> _PerClass:
    """AUC of each class against the rest, by the score that each item has for it; NaN where undefined."""
    return np.stack([binary_auc(weights, scores[:, c], wanted == c) for c in range(scores.shape[1])], axis=1)


def class_accuracy(weights: Weights, predicted: _Numbers, wanted: _Numbers, classes: int) -> _PerClass:
    """Share of each class's items that are called so (its recall); NaN for a class without items.

    Its macro mean is the balanced accuracy.
    """
    found = np.full((len(weights), classes), np.nan)
    for c in range(classes):
        mine = weights @ (wanted == c)
        np.divide(weights @ ((wanted == c) & (predicted == c)), mine, out=found[:, c], where=mine > 0)
    return found


def macro(values: _PerClass) -> Resampled:
    """Mean over the classes in which the statistic is defined; NaN where it is in none."""
    defined = np.isfinite(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
