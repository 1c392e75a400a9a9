"""The arithmetic behind every row of results, whoever gave the answers: means, statistics and their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Int

from rllava_jax.evaluation.confidence.calibration import auroc, brier_score, expected_calibration_error
from rllava_jax.evaluation.intervals import Estimated, Estimator, Statistic


class Table:
    """The scores, confidence and image of M answers as columns; NaN where an answer has none.

    Attributes:
      values: metric → [M].
      confidence: [M].
      images: [M], numbered in the order of their names, so that draws are those of the names.
    """

    def __init__(
        self, scores: Sequence[Mapping[str, float]], confidence: Sequence[float | None], images: Sequence[str]
    ) -> None:
        names = dict.fromkeys(metric for own in scores for metric in own)
        self.values = {name: np.array([own.get(name, np.nan) for own in scores], dtype=float) for name in names}
        self.confidence = np.array([np.nan if given is None else given for given in confidence], dtype=float)
        numbers = {name: number for number, name in enumerate(sorted(set(images)))}
        self.images = np.array([numbers[name] for name in images], dtype=int)


def mean_figure(table: Table, held: Int[np.ndarray, " N"], metric: str, estimator: Estimator) -> Estimated | None:
    """The mean of a metric over those of the held answers that have it; None where none has."""
    if metric not in table.values:
        return None
    at = held[~np.isnan(table.values[metric][held])]
    return estimator.mean(table.values[metric][at], table.images[at]) if len(at) else None


def difference_figure(
    table: Table, first: Int[np.ndarray, " N"], second: Int[np.ndarray, " N"], metric: str, estimator: Estimator
) -> Estimated:
    """The mean difference of a metric between two answers to each of N questions, which all have it."""
    values = table.values[metric]
    return estimator.mean(values[first] - values[second], table.images[first], bounds=(-1.0, 1.0))


def confidence_figures(
    table: Table, held: Int[np.ndarray, " N"], estimator: Estimator
) -> Iterator[tuple[str, Estimated]]:
    """What the confidence is worth of those of the held answers that have one, and an accuracy."""
    if "accuracy" not in table.values:
        return
    at = held[~np.isnan(table.confidence[held]) & ~np.isnan(table.values["accuracy"][held])]
    if not len(at):
        return
    confidence, correct, images = table.confidence[at], table.values["accuracy"][at], table.images[at]
    yield "confidence", estimator.mean(confidence, images)
    yield "brier", estimator.mean(brier_score(confidence, correct), images)
    statistics: dict[str, Statistic] = {
        "ece": partial(expected_calibration_error, confidence=confidence, correct=correct),
        "auroc": partial(auroc, confidence=confidence, correct=correct),
    }
    for metric, statistic in statistics.items():
        figure = estimator.statistic(statistic, images)
        if figure is not None:  # no AUROC where all answers, or none, are right
            yield metric, figure
