"""From answers to rows: a mean or a statistic for each subset, condition and metric, with an interval by image.

Rows are those of `evaluation.metrics`; their `condition` is "" where a file of predictions names none.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from data_pipelines.conditions import ALL
from data_pipelines.core.errors import NoExamples
from rllava_jax.evaluation.intervals import Estimated, Estimator
from rllava_jax.evaluation.metrics import (
    CONFIDENCE_METRICS,
    Contrast,
    Row,
    confidence_figures,
    has_confidence_rows,
    make_row,
    rank,
)
from rllava_jax.evaluation.predictions import Answered, Prediction, by_key
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores
from rllava_jax.evaluation.protocols.strict import OF_A_RUN

A = TypeVar("A", bound=Answered, covariant=True)


class Scored(NamedTuple, Generic[A]):
    """An answer with its subsets and scores, computed once."""

    answer: A
    subsets: Sequence[str]
    scores: Scores


def scored(answers: Sequence[A], protocol: Protocol) -> list[Scored[A]]:
    """The scores of every answer. A question without one has 0 in every metric that an empty answer would have."""
    return [
        Scored(answer, protocol.subsets(answer), own if answer.predictions else dict.fromkeys(own, 0.0))
        for answer, own in zip(answers, map(protocol.score, answers), strict=True)
    ]


def score(predictions: Sequence[Prediction], protocol: Protocol = OF_A_RUN, *, bootstrap: int, seed: int) -> list[Row]:
    """The rows of a run's predictions, of any number of data sets, splits and conditions; see `rows`.

    Raises:
      DataError: no predictions, or a question answered twice under one condition.
    """
    if not predictions:
        raise NoExamples("no predictions to score: the evaluation asked no question (check evaluation.families)")
    by_key(predictions)
    return rows(scored(predictions, protocol), protocol, bootstrap=bootstrap, seed=seed)


def rows(answers: Sequence[Scored[Answered]], protocol: Protocol, *, bootstrap: int, seed: int) -> list[Row]:
    """Every subset under every condition, with 95 % intervals by image.

    Questions of one image share an `image_id`. Where answers have a confidence, "all" and each family also have
    `CONFIDENCE_METRICS`, over the questions that have one.

    Args:
      bootstrap: resamples behind each interval; 0 leaves the intervals out.
      seed: of the resampling.
    """
    table = _Table(answers, Estimator(bootstrap, seed))
    groups: dict[tuple[str, str], dict[str, dict[str, list[int]]]] = {}
    for position, (answer, subsets, _) in enumerate(answers):
        by_subset = groups.setdefault((answer.dataset, answer.split), {})
        for subset in subsets:
            by_subset.setdefault(subset, defaultdict(list))[answer.condition].append(position)
    # Families in their own order in a run's rows, by name in those of a file.
    order = rank if protocol.contrasts else lambda subset: (rank(subset)[0], subset)
    return [
        make_row(dataset, split, subset, condition, metric, *figure)
        for (dataset, split), by_subset in groups.items()
        for subset in sorted(by_subset, key=order)
        for condition, metric, figure in _cells(table, protocol, subset, by_subset[subset])
    ]


class _Table:
    """The scores, confidence and image of M answers as columns; NaN where an answer has none.

    Attributes:
      values: metric → [M].
      confidence: [M].
      images: [M], numbered in the order of their names, so that draws are those of the names.
    """

    def __init__(self, answers: Sequence[Scored[Answered]], estimator: Estimator) -> None:
        self.answers, self.estimator = [s.answer for s in answers], estimator
        names = dict.fromkeys(metric for s in answers for metric in s.scores)
        self.values = {name: np.array([s.scores.get(name, np.nan) for s in answers], dtype=float) for name in names}
        confidence = (answer.confidence for answer in self.answers)
        self.confidence = np.array([np.nan if given is None else given for given in confidence], dtype=float)
        numbers = {name: number for number, name in enumerate(sorted({answer.image_id for answer in self.answers}))}
        self.images = np.array([numbers[answer.image_id] for answer in self.answers], dtype=int)


_Cell = tuple[str, str, Estimated]  # condition, metric, figure


def _cells(table: _Table, protocol: Protocol, subset: str, held: Mapping[str, Sequence[int]]) -> Iterator[_Cell]:
    """Every condition; of a protocol with contrasts the kinds of the wrong one and the differences as well."""
    for condition in sorted(held, key=_condition_rank):
        at = np.array(held[condition])
        yield from ((condition, *figure) for figure in _means(table, protocol, subset, at))
        if has_confidence_rows(subset):
            yield from ((condition, *figure) for figure in _of_confidence(table, at))
    if not protocol.contrasts:
        return
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i in held.get("wrong", ()):
        by_kind[table.answers[i].shown_kind].append(i)
    for kind in sorted(kind for kind in by_kind if kind.startswith("wrong:")):
        yield from ((kind, *figure) for figure in _means(table, protocol, subset, np.array(by_kind[kind])))
    for contrast in protocol.contrasts:
        yield from _differences(table, protocol, subset, contrast, held)


def _means(
    table: _Table, protocol: Protocol, subset: str, held: Int[np.ndarray, " N"]
) -> Iterator[tuple[str, Estimated]]:
    for metric in protocol.metrics_of(subset):
        figure = None
        if metric in protocol.corpus:
            statistic = protocol.corpus[metric]([table.answers[i] for i in held.tolist()], table.answers)
            figure = table.estimator.statistic(statistic, table.images[held])
        elif metric in table.values:
            at = held[~np.isnan(table.values[metric][held])]
            figure = table.estimator.mean(table.values[metric][at], table.images[at]) if len(at) else None
        if figure is not None:
            yield metric, figure


def _of_confidence(table: _Table, held: Int[np.ndarray, " N"]) -> Iterator[tuple[str, Estimated]]:
    """Over those of the held answers that have a confidence and an accuracy."""
    if "accuracy" in table.values:
        correct = table.values["accuracy"]
        at = held[~np.isnan(table.confidence[held]) & ~np.isnan(correct[held])]
        if len(at):
            columns = table.confidence[at], correct[at], table.images[at]
            yield from confidence_figures(CONFIDENCE_METRICS, *columns, table.estimator)


def _differences(
    table: _Table, protocol: Protocol, subset: str, contrast: Contrast, held: Mapping[str, Sequence[int]]
) -> Iterator[_Cell]:
    """Differences over the questions answered under both conditions.

    Left out where the subset mixes questions with and without a region and the contrast needs one: its number would
    stand beside rows over other questions. `has_region=yes` has it.
    """
    others = {table.answers[i].id: i for i in held.get(contrast.second, ())}
    matched = [(i, others[name]) for i in held.get(contrast.first, ()) if (name := table.answers[i].id) in others]
    if not matched or (contrast.needs_region and not all(table.answers[i].has_region for i, _ in matched)):
        return
    first, second = np.array(matched).T
    for metric in protocol.metrics_of(subset):
        values = table.values[metric]
        figure = table.estimator.mean(values[first] - values[second], table.images[first], bounds=(-1.0, 1.0))
        yield f"{contrast.first}-{contrast.second}", metric, figure


_PLACES: Mapping[str, int] = {condition: place for place, condition in enumerate(ALL)}


def _condition_rank(condition: str) -> tuple[int, str]:
    return (_PLACES.get(condition, len(ALL)), condition) if condition else (-1, "")
