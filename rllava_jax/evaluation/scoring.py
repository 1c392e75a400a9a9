"""Rows of a protocol: a mean or a statistic for each subset, condition and metric, with an interval by image.

A row is one of `evaluation.metrics` ({dataset, split, subset, region, metric, value, n, ci_low, ci_high}). Its `region`
is the condition under which the questions were asked, and "" where the file of predictions names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from data_pipelines.conditions import ALL
from rllava_jax.evaluation.intervals import Interval, bootstrap_interval, mean_interval
from rllava_jax.evaluation.metrics import Row, confidence_figures, make_row
from rllava_jax.evaluation.protocols.protocol import Item, Protocol, Scores

_SUBSETS = ("all", "family=", "has_region=", "answer_type=closed", "answer_type=yes_no", "answer_type=open",
            "content_type=", "modality=")  # fmt: skip


class Scored(NamedTuple):
    """An item and its scores, computed once."""

    item: Item
    scores: Scores


def score_items(items: Sequence[Item], protocol: Protocol) -> list[Scored]:
    """The scores of every item. One without an answer has 0 in every metric that an empty answer would have."""
    scores = protocol.score(items)
    return [
        Scored(item, own if item.predictions else dict.fromkeys(own, 0.0))
        for item, own in zip(items, scores, strict=True)
    ]


def score_rows(scored: Sequence[Scored], protocol: Protocol, *, bootstrap: int, seed: int) -> list[Row]:
    """Every subset under every condition, with 95 % intervals by image.

    Questions of one image share an `image_id`. Where answers have a confidence, "all" and each family also have
    `confidence`, `ece`, `brier` and `auroc`, over the questions that have one.

    Args:
      bootstrap: resamples behind each interval; 0 leaves the intervals out.
      seed: of the resampling.
    """
    table = _Table(scored)
    cells: dict[tuple[str, str], dict[tuple[str, str], list[int]]] = {}
    for position, s in enumerate(scored):
        group = cells.setdefault((s.item.dataset, s.item.split), {})
        for subset in protocol.subsets(s.item):
            group.setdefault((subset, s.item.region), []).append(position)
    rows = []
    for (dataset, split), group in cells.items():
        for subset, region in sorted(group, key=lambda key: (_rank(key[0]), _region_rank(key[1]))):
            held = np.array(group[subset, region])
            for metric, value, n, interval in _figures(table, held, subset, protocol, bootstrap, seed):
                rows.append(make_row(dataset, split, subset, region, metric, value, n, interval))
    return rows


class _Table:
    """Every item's scores, confidence and image as columns; NaN where an item has none. M items."""

    def __init__(self, scored: Sequence[Scored]) -> None:
        self.items = [s.item for s in scored]
        names = dict.fromkeys(metric for s in scored for metric in s.scores)
        self.values = {name: np.array([s.scores.get(name, np.nan) for s in scored], dtype=float) for name in names}
        # Numbered in the order of their names, so that draws are those of `evaluation.metrics`.
        numbers = {name: number for number, name in enumerate(sorted({item.image_id for item in self.items}))}
        self.images = np.array([numbers[item.image_id] for item in self.items], dtype=int)
        given = (item.confidence for item in self.items)
        self.confidence = np.array([np.nan if confidence is None else confidence for confidence in given], dtype=float)


def _figures(
    table: _Table, held: Int[np.ndarray, " N"], subset: str, protocol: Protocol, bootstrap: int, seed: int
) -> Iterator[tuple[str, float, int, Interval | None]]:
    for metric in protocol.metrics_of(subset):
        if metric in protocol.corpus:
            statistic = protocol.corpus[metric]([table.items[i] for i in held.tolist()])
            value = float(statistic(np.ones((1, len(held))))[0])
            if np.isfinite(value):
                interval = bootstrap_interval(statistic, table.images[held], resamples=bootstrap, seed=seed)
                yield metric, value, len(held), interval
        elif metric in table.values:
            at = held[~np.isnan(table.values[metric][held])]
            if len(at):
                values = table.values[metric][at]
                interval = mean_interval(values, table.images[at], resamples=bootstrap, seed=seed)
                yield metric, float(values.mean()), len(at), interval
    if (subset == "all" or subset.startswith("family=")) and "accuracy" in table.values:
        confidence, correct = table.confidence, table.values["accuracy"]
        at = held[~np.isnan(confidence[held]) & ~np.isnan(correct[held])]
        if len(at):
            figures = confidence_figures(confidence[at], correct[at], table.images[at], resamples=bootstrap, seed=seed)
            for metric, value, interval in figures:
                yield metric, value, len(at), interval


def _rank(subset: str) -> tuple[int, str]:
    place = next((i for i, prefix in enumerate(_SUBSETS) if subset.startswith(prefix)), len(_SUBSETS))
    return place, subset


_PLACES: Mapping[str, int] = {region: place for place, region in enumerate(ALL)}


def _region_rank(region: str) -> tuple[int, str]:
    return (_PLACES.get(region, len(ALL)), region) if region else (-1, "")
