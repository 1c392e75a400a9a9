"""Rows of a protocol: a mean or a statistic for each subset, condition and metric, with an interval by image.

A row is one of `evaluation.metrics` ({dataset, split, subset, condition, metric, value, n, ci_low, ci_high}). Its
`condition` is "" where the file of predictions names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from data_pipelines.conditions import ALL
from rllava_jax.evaluation.figures import Table, confidence_figures, mean_figure
from rllava_jax.evaluation.intervals import Estimated, Estimator
from rllava_jax.evaluation.metrics import Row, make_row
from rllava_jax.evaluation.protocols.protocol import Item, Protocol, Scores
from rllava_jax.evaluation.subsets import has_confidence_rows, rank


class ScoredItem(NamedTuple):
    """An item and its scores, computed once."""

    item: Item
    scores: Scores


def score_items(items: Sequence[Item], protocol: Protocol) -> list[ScoredItem]:
    """The scores of every item. One without an answer has 0 in every metric that an empty answer would have."""
    scores = protocol.score(items)
    return [
        ScoredItem(item, own if item.predictions else dict.fromkeys(own, 0.0))
        for item, own in zip(items, scores, strict=True)
    ]


def score_rows(scored: Sequence[ScoredItem], protocol: Protocol, *, bootstrap: int, seed: int) -> list[Row]:
    """Every subset under every condition, with 95 % intervals by image.

    Questions of one image share an `image_id`. Where answers have a confidence, "all" and each family also have
    `confidence`, `ece`, `brier` and `auroc`, over the questions that have one.

    Args:
      bootstrap: resamples behind each interval; 0 leaves the intervals out.
      seed: of the resampling.
    """
    items = [s.item for s in scored]
    table = Table([s.scores for s in scored], [item.confidence for item in items], [item.image_id for item in items])
    estimator = Estimator(bootstrap, seed)
    cells: dict[tuple[str, str], dict[tuple[str, str], list[int]]] = {}
    for position, item in enumerate(items):
        group = cells.setdefault((item.dataset, item.split), {})
        for subset in protocol.subsets(item):
            group.setdefault((subset, item.condition), []).append(position)
    rows = []
    for (dataset, split), group in cells.items():
        for subset, condition in sorted(group, key=lambda key: (rank(key[0]), _condition_rank(key[1]))):
            held = np.array(group[subset, condition])
            for metric, figure in _figures(items, table, held, subset, protocol, estimator):
                rows.append(make_row(dataset, split, subset, condition, metric, *figure))
    return rows


def _figures(
    items: Sequence[Item],
    table: Table,
    held: Int[np.ndarray, " N"],
    subset: str,
    protocol: Protocol,
    estimator: Estimator,
) -> Iterator[tuple[str, Estimated]]:
    for metric in protocol.metrics_of(subset):
        if metric in protocol.corpus:
            statistic = protocol.corpus[metric]([items[i] for i in held.tolist()])
            figure = estimator.statistic(statistic, table.images[held])
        else:
            figure = mean_figure(table, held, metric, estimator)
        if figure is not None:
            yield metric, figure
    if has_confidence_rows(subset):
        yield from confidence_figures(table, held, estimator)


_PLACES: Mapping[str, int] = {condition: place for place, condition in enumerate(ALL)}


def _condition_rank(condition: str) -> tuple[int, str]:
    return (_PLACES.get(condition, len(ALL)), condition) if condition else (-1, "")
