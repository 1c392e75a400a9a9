"""From predictions to the rows of metrics.json.

A row is one number: {dataset, split, subset, condition, metric, value, n, ci_low, ci_high}.

subset     all                         every question, all families
           family=identify, …          one question family; family=vqa are the data set's own questions
           has_region=yes              ordinary questions that have a region: the only ones on which right, none and
                                       wrong differ
           answer_type=closed|open     ordinary questions; closed is the published score, over *all* closed ones
           answer_type=yes_no          the closed ones whose reference is yes or no
           content_type=…, modality=…  ordinary questions
condition  right, none, wrong, blank   or another of `data_pipelines/conditions.py` that was evaluated
           wrong:shifted, …            those of the wrong condition that were shown this kind
           right-none, …               the difference on the same questions, question by question
           right-detected, …           against the box that the model found itself
metric     accuracy                    normalised equality (localise counts as right at an IoU of 0.5)
           exact_match, recall,
           precision, f1               open questions
           accuracy@0.5, iou           localise
           confidence, ece, brier, auroc
           box_found, box_iou          see `detected_regions.detected_rows`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from data_pipelines.conditions import ALL, DETECTED, MAIN
from data_pipelines.core.errors import DataError
from data_pipelines.records import FAMILIES
from rllava_jax.evaluation.answers import score
from rllava_jax.evaluation.figures import Table, confidence_figures, difference_figure, mean_figure
from rllava_jax.evaluation.intervals import Estimated, Estimator, Interval
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.subsets import has_confidence_rows, rank, subsets_of

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
    condition: str
    metric: str
    value: float
    n: int
    ci_low: float | None
    ci_high: float | None


def make_row(
    dataset: str, split: str, subset: str, condition: str, metric: str, value: float, n: int, interval: Interval | None
) -> Row:
    """A row; without an interval both its ends are None."""
    low, high = interval or (None, None)
    return Row(
        dataset=dataset, split=split, subset=subset, condition=condition, metric=metric,
        value=value, n=n, ci_low=low, ci_high=high,
    )  # fmt: skip


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


class _Answers(NamedTuple):
    """Predictions, and their scores as columns."""

    predictions: Sequence[Prediction]
    table: Table
    estimator: Estimator


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
    answers = _Answers(
        predictions,
        Table([score(p) for p in predictions], [p.confidence for p in predictions], [p.image_id for p in predictions]),
        Estimator(bootstrap, seed),
    )
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for position, p in enumerate(predictions):
        by_subset = groups.setdefault((p.dataset, p.split), {})
        for subset in subsets_of(p):
            by_subset.setdefault(subset, []).append(position)
    found: list[Row] = []
    for (dataset, split), by_subset in groups.items():
        for subset in sorted(by_subset, key=_rank):
            for condition, metric, figure in _subset_cells(answers, subset, by_subset[subset]):
                found.append(make_row(dataset, split, subset, condition, metric, *figure))
    return found


_FAMILY_PLACES = {f"family={family}": place for place, family in enumerate(FAMILIES)}


def _rank(subset: str) -> tuple[int, int, str]:
    """The order of the module's docstring; families in their own."""
    place, name = rank(subset)
    return place, _FAMILY_PLACES.get(subset, 0), name


_Cell = tuple[str, str, Estimated]


def _subset_cells(answers: _Answers, subset: str, members: Sequence[int]) -> Iterator[_Cell]:
    """(condition, metric, figure) of every condition, wrong kind and difference."""
    by_condition: dict[str, list[int]] = {c: [] for c in ALL}
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i in members:
        prediction = answers.predictions[i]
        by_condition[prediction.condition].append(i)
        if prediction.condition == "wrong" and prediction.shown_kind.startswith("wrong:"):
            by_kind[prediction.shown_kind].append(i)
    for condition, held in by_condition.items():
        if held:
            yield from _score_cells(answers, subset, condition, held)
            if has_confidence_rows(subset):
                for metric, figure in confidence_figures(answers.table, np.array(held), answers.estimator):
                    yield condition, metric, figure
    for kind in sorted(by_kind):
        yield from _score_cells(answers, subset, kind, by_kind[kind])
    for pair in (*PAIRS, *DETECTED_PAIRS):
        yield from _difference_cells(answers, subset, pair, by_condition[pair.first], by_condition[pair.second])


def _score_cells(answers: _Answers, subset: str, condition: str, held: Sequence[int]) -> Iterator[_Cell]:
    for metric in metrics_of(subset):
        figure = mean_figure(answers.table, np.array(held), metric, answers.estimator)
        if figure is not None:
            yield condition, metric, figure


def _difference_cells(
    answers: _Answers, subset: str, pair: Pair, first: Sequence[int], second: Sequence[int]
) -> Iterator[_Cell]:
    """Differences over the questions answered under both conditions.

    Left out where the subset mixes questions with and without a region and the pair needs one: its number would stand
    beside rows over other questions. `has_region=yes` has it.
    """
    asked = answers.predictions
    others = {asked[i].id: i for i in second}
    matched = [(i, others[asked[i].id]) for i in first if asked[i].id in others]
    if not matched or (pair.needs_region and not all(asked[i].has_region for i, _ in matched)):
        return
    ours, theirs = np.array(matched).T
    for metric in metrics_of(subset):
        figure = difference_figure(answers.table, ours, theirs, metric, answers.estimator)
        yield f"{pair.first}-{pair.second}", metric, figure


def _check_unique(predictions: Sequence[Prediction]) -> None:
    seen: set[tuple[str, str, str, str]] = set()
    for p in predictions:
        key = (p.dataset, p.split, p.id, p.condition)
        if key in seen:
            raise DataError(f"prediction {p.id!r}: answered twice under condition {p.condition!r}; ids must be unique")
        seen.add(key)
