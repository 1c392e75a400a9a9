"""Bootstrap intervals over images.

Questions about one image are not independent, so whole images are drawn: the cluster bootstrap
(Davison & Hinkley 1997, section 3.8).
Axes: S resamples, N questions, C images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
_CHUNK = 128  # resamples at a time: bounds memory at 128 N floats

Statistic = Callable[[Float[np.ndarray, "S N"]], Float[np.ndarray, " S"]]


class Interval(NamedTuple):
    """Ends of a 95 % interval."""

    low: float
    high: float


def weighted_mean(weights: Float[np.ndarray, "S N"], values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " S"]:
    """Mean of `values` under each row of `weights`."""
    return (weights @ values) / weights.sum(axis=1)


def bootstrap_interval(statistic: Statistic, clusters: Sequence[str], *, resamples: int, seed: int) -> Interval | None:
    """Percentile interval of a statistic when images are drawn with replacement.

    Args:
      statistic: maps weights [S, N] (how often each question is drawn) to [S] values, NaN where undefined.
      clusters: [N] image of each question.
      resamples: 0 for no interval.
      seed: the same seed and number of images give the same draws, whichever other rows are computed.

    Returns:
      None when no interval can be drawn: no resamples, one image, or a statistic undefined in most resamples.
    """
    member, count = _cluster_index(clusters)
    if resamples == 0 or count < 2:
        return None
    draws = _draws(count, resamples, seed)
    values = np.concatenate([statistic(draws[i : i + _CHUNK][:, member]) for i in range(0, resamples, _CHUNK)])
    defined = values[np.isfinite(values)]
    if defined.size * 2 < resamples:
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mean_interval(
    values: Float[np.ndarray, " N"],
    clusters: Sequence[str],
    *,
    resamples: int,
    seed: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval | None:
    """Interval of a mean.

    Where all N values are equal the bootstrap collapses to a point, which would claim certainty from three images
    or from one. Then the exact binomial bound at the edge is used (Clopper & Pearson 1934): with C images all alike,
    a share of up to 1 - 0.025^(1/C) of unlike ones may have gone unseen, and could lie as far off as `bounds`.
    """
    if resamples == 0:
        return None
    if np.ptp(values) == 0:
        _, count = _cluster_index(clusters)
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / count)
        value = float(values[0])
        return Interval(value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value))
    mean = partial(weighted_mean, values=values)
    interval = bootstrap_interval(mean, clusters, resamples=resamples, seed=seed)
    return Interval(*bounds) if interval is None else interval  # one image: nothing is known about others


def _cluster_index(clusters: Sequence[str]) -> tuple[Int[np.ndarray, " N"], int]:
    names, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return member, len(names)


@lru_cache(maxsize=4)
def _draws(count: int, resamples: int, seed: int) -> Float[np.ndarray, "S C"]:
    """How often each of `count` images occurs in each resample."""
    rng = np.random.default_rng([seed, count])
    picked = rng.integers(0, count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    times = np.bincount(picked.ravel(), minlength=resamples * count)
    draws = times.reshape(resamples, count).astype(np.float64)
    draws.flags.writeable = False  # the cache hands the same array to every caller
    return draws
