"""From predictions to the rows of metrics.json.

A row is one number: {dataset, split, subset, region, metric, value, n, ci_low, ci_high}.

subset   all                         every question, all families
         family=identify, …          one question family; family=vqa are the data set's own questions
         has_region=yes              ordinary questions that have a region: the only ones on which right, none and
                                     wrong differ
         answer_type=closed|open     ordinary questions; closed is the published score, over *all* closed ones
         answer_type=yes_no          the closed ones whose reference is yes or no
         content_type=…, modality=…  ordinary questions
region   right, none, wrong, blank   the condition; another of `data_pipelines/conditions.py` where it was asked
         wrong:shifted, …            those of the wrong condition that were shown this kind
         right-none, …               the difference on the same questions, question by question
         right-detected, …           against the box that the model found itself
metric   accuracy                    normalised equality (localise counts as right at an IoU of 0.5)
         exact_match, recall,
         precision, f1               open questions
         accuracy@0.5, iou           localise
         confidence, ece, brier, auroc
         box_found, box_iou          see `detected_regions.detected_rows`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float

from data_pipelines.conditions import ALL, DETECTED, MAIN
from data_pipelines.records import FAMILIES, DataError
from rllava_jax.evaluation.answers import normalise_answer, score
from rllava_jax.evaluation.confidence.calibration import auroc, brier_score, expected_calibration_error, ones
from rllava_jax.evaluation.intervals import Clusters, Interval, Statistic, bootstrap_interval, mean_interval
from rllava_jax.evaluation.predictions import Prediction

CONDITIONS = MAIN  # those of every evaluation
_METRICS = {
    "answer_type=open": ("exact_match", "recall", "precision", "f1"),
    "family=localise": ("accuracy@0.5", "iou"),
}


class Row(TypedDict):
    """One number of a result. ci_low and ci_high are None where no interval could be drawn."""

    dataset: str
    split: str
    subset: str
    region: str
    metric: str
    value: float
    n: int
    ci_low: float | None
    ci_high: float | None


def make_row(
    dataset: str, split: str, subset: str, region: str, metric: str, value: float, n: int, interval: Interval | None
) -> Row:
    """A row; without an interval both its ends are None."""
    low, high = interval or (None, None)
    return Row(
        dataset=dataset, split=split, subset=subset, region=region, metric=metric,
        value=value, n=n, ci_low=low, ci_high=high,
    )  # fmt: skip


class Scored(NamedTuple):
    """A prediction and its scores, computed once."""

    prediction: Prediction
    scores: Mapping[str, float]


class Pair(NamedTuple):
    """A difference `first - second` on the same questions.

    needs_region: only questions that have a region take part, because for the others both conditions show the same.
    """

    first: str
    second: str
    needs_region: bool


PAIRS = (
    Pair("right", "none", True),
    Pair("none", "wrong", True),
    Pair("right", "blank", False),
    Pair("right", "noise", False),
    Pair("right", "shuffled", False),
    Pair("none", "question_only", False),
)
DETECTED_PAIRS = (Pair("right", DETECTED, True), Pair(DETECTED, "none", True))


class _Estimator(NamedTuple):
    """How intervals are drawn, the same for every row."""

    resamples: int
    seed: int


def metrics_of(subset: str) -> tuple[str, ...]:
    """The scores that a subset reports, its main one first."""
    return _METRICS.get(subset, ("accuracy",))


def rows(predictions: Sequence[Prediction], *, bootstrap: int, seed: int) -> list[Row]:
    """Scores every subset under every condition, with 95 % intervals by image.

    Args:
      predictions: of any number of data sets, splits and conditions.
      bootstrap: resamples behind each interval; 0 leaves the intervals out.
      seed: of the resampling.

    Raises:
      DataError: no predictions, or a question answered twice under one condition.
    """
    if not predictions:
        raise DataError("no predictions to score: the evaluation asked no question (check evaluation.families)")
    _check_unique(predictions)
    groups: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for p in predictions:
        groups[p.dataset, p.split].append(Scored(p, score(p)))
    estimator = _Estimator(bootstrap, seed)
    found: list[Row] = []
    for (dataset, split), scored in groups.items():
        for subset, members in subsets(scored).items():
            for region, metric, value, n, interval in _subset_cells(subset, members, estimator):
                found.append(make_row(dataset, split, subset, region, metric, value, n, interval))
    return found


def subsets(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    """Every subset that is not empty, in the order of the module's docstring."""
    everything = list(scored)
    found = {"all": everything}
    for family in FAMILIES:
        found[f"family={family}"] = [s for s in everything if s.prediction.family == family]
    ordinary = found["family=vqa"]
    closed = [s for s in ordinary if s.prediction.answer_type == "closed"]
    found["has_region=yes"] = [s for s in ordinary if s.prediction.right_boxes]
    found["answer_type=closed"] = closed
    found["answer_type=yes_no"] = [s for s in closed if normalise_answer(s.prediction.answer) in ("yes", "no")]
    found["answer_type=open"] = [s for s in ordinary if s.prediction.answer_type == "open"]
    for field in ("content_type", "modality"):
        for value in sorted({getattr(s.prediction, field) for s in ordinary} - {""}):
            found[f"{field}={value}"] = [s for s in ordinary if getattr(s.prediction, field) == value]
    return {name: members for name, members in found.items() if members}


_Cell = tuple[str, str, float, int, Interval | None]


def _subset_cells(subset: str, members: list[Scored], estimator: _Estimator) -> Iterator[_Cell]:
    """(region, metric, value, n, interval) of every condition, wrong kind and difference."""
    by_region: dict[str, list[Scored]] = {c: [] for c in ALL}
    for s in members:
        by_region[s.prediction.region].append(s)
    with_calibration = subset == "all" or subset.startswith("family=")
    for region, held in by_region.items():
        if held:
            yield from _score_cells(subset, region, held, estimator)
            if with_calibration:
                yield from _calibration_cells(region, held, estimator)
    by_kind: dict[str, list[Scored]] = defaultdict(list)
    for s in by_region["wrong"]:
        if s.prediction.shown_kind.startswith("wrong:"):
            by_kind[s.prediction.shown_kind].append(s)
    for kind in sorted(by_kind):
        yield from _score_cells(subset, kind, by_kind[kind], estimator)
    for pair in (*PAIRS, *DETECTED_PAIRS):
        yield from _difference_cells(subset, pair, by_region[pair.first], by_region[pair.second], estimator)


def _score_cells(subset: str, region: str, held: list[Scored], estimator: _Estimator) -> Iterator[_Cell]:
    images = [s.prediction.image_id for s in held]
    for metric in metrics_of(subset):
        values = np.array([s.scores[metric] for s in held])
        interval = mean_interval(values, images, resamples=estimator.resamples, seed=estimator.seed)
        yield region, metric, float(values.mean()), len(held), interval


def _calibration_cells(region: str, held: list[Scored], estimator: _Estimator) -> Iterator[_Cell]:
    images = [s.prediction.image_id for s in held]
    confidence, correct = confidence_and_correctness(held)
    figures = confidence_figures(confidence, correct, images, resamples=estimator.resamples, seed=estimator.seed)
    for metric, value, interval in figures:
        yield region, metric, value, len(held), interval


def confidence_figures(
    confidence: Float[np.ndarray, " N"],
    correct: Float[np.ndarray, " N"],
    images: Clusters,
    *,
    resamples: int,
    seed: int,
) -> Iterator[tuple[str, float, Interval | None]]:
    """(metric, value, interval) of what the confidence of N answers is worth."""
    for metric, values in (("confidence", confidence), ("brier", brier_score(confidence, correct))):
        yield metric, float(values.mean()), mean_interval(values, images, resamples=resamples, seed=seed)
    statistics: dict[str, Statistic] = {
        "ece": partial(expected_calibration_error, confidence=confidence, correct=correct),
        "auroc": partial(auroc, confidence=confidence, correct=correct),
    }
    for metric, statistic in statistics.items():
        value = float(statistic(ones(len(confidence)))[0])
        if np.isfinite(value):  # no AUROC where all answers, or none, are right
            yield metric, value, bootstrap_interval(statistic, images, resamples=resamples, seed=seed)


def _difference_cells(
    subset: str, pair: Pair, first: list[Scored], second: list[Scored], estimator: _Estimator
) -> Iterator[_Cell]:
    """Differences over the questions answered under both conditions.

    Left out where the subset mixes questions with and without a region and the pair needs one: its number would stand
    beside rows over other questions. `has_region=yes` has it.
    """
    others = {s.prediction.id: s for s in second}
    matched = [(s, others[s.prediction.id]) for s in first if s.prediction.id in others]
    if not matched or (pair.needs_region and not all(s.prediction.right_boxes for s, _ in matched)):
        return
    images = [s.prediction.image_id for s, _ in matched]
    for metric in metrics_of(subset):
        values = np.array([s.scores[metric] - other.scores[metric] for s, other in matched])
        interval = mean_interval(values, images, resamples=estimator.resamples, seed=estimator.seed, bounds=(-1.0, 1.0))
        yield f"{pair.first}-{pair.second}", metric, float(values.mean()), len(matched), interval


def confidence_and_correctness(held: Sequence[Scored]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Confidence and 0/1 correctness of each prediction."""
    confidence = np.array([s.prediction.confidence for s in held], dtype=float)
    return confidence, np.array([s.scores["accuracy"] for s in held], dtype=float)


def _check_unique(predictions: Sequence[Prediction]) -> None:
    seen: set[tuple[str, str, str, str]] = set()
    for p in predictions:
        key = (p.dataset, p.split, p.id, p.region)
        if key in seen:
            raise DataError(f"prediction {p.id!r}: answered twice under region {p.region!r}; ids must be unique")
        seen.add(key)
