"""Bootstrap intervals over images.

Questions about one image are not independent, so whole images are drawn: the cluster bootstrap
(Davison & Hinkley 1997, section 3.8).
Axes: S resamples, N questions, C images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
_CHUNK = 128  # resamples at a time: bounds memory at 128 N floats
_KEPT = 25_000_000  # draws of at most so many numbers, 100 MB, are kept for the next row

Values = Float[np.ndarray, " N"]  # of each question
Weights = Float[np.ndarray, "S N"]  # how often each question is drawn, in each resample
Resampled = Float[np.ndarray, " S"]  # of each resample
# Image of each question: its name, or a number that stands for it in the order of the names.
Clusters = Sequence[str] | Int[np.ndarray, " N"]
Statistic = Callable[[Weights], Resampled]


class Interval(NamedTuple):
    """Ends of a 95 % interval."""

    low: float
    high: float


def bootstrap_interval(statistic: Statistic, clusters: Clusters, *, resamples: int, seed: int) -> Interval | None:
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
    values = [statistic(draws[:, member]) for draws in _draws(count, resamples, seed)]
    return _percentiles(np.concatenate(values))


def bootstrap_means(values: Values, clusters: Clusters, *, resamples: int, seed: int) -> Resampled:
    """The mean of each resample of the images.

    What each image adds is summed first, so that a resample costs C operations and not N.
    """
    member, count = _cluster_index(clusters)
    sums, sizes = np.bincount(member, values, minlength=count), np.bincount(member, minlength=count)
    totals = np.stack([sums, sizes], axis=1)
    return np.concatenate([np.divide(*(draws @ totals).T) for draws in _draws(count, resamples, seed)])


def mean_interval(
    values: Values, clusters: Clusters, *, resamples: int, seed: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """Interval of a mean.

    Where all N values are equal the bootstrap collapses to a point, which would claim certainty from three images
    or from one. Then the exact binomial bound at the edge is used (Clopper & Pearson 1934): with C images all alike,
    a share of up to 1 - 0.025^(1/C) of unlike ones may have gone unseen, and could lie as far off as `bounds`.
    """
    if resamples == 0:
        return None
    _, count = _cluster_index(clusters)
    if np.ptp(values) == 0:
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / count)
        value = float(values[0])
        return Interval(value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value))
    if count < 2:
        return Interval(*bounds)  # one image: nothing is known about others
    return _percentiles(bootstrap_means(values, clusters, resamples=resamples, seed=seed))


Estimated = tuple[float, int, Interval | None]


@dataclass(frozen=True)
class Estimator:
    """A figure with its number of questions and its interval, drawn alike for every row of a result.

    Attributes:
      resamples: of the images behind each interval; 0 leaves the intervals out.
      seed: of the resampling.
    """

    resamples: int
    seed: int

    def mean(self, values: Values, images: Clusters, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimated:
        """The mean of N ≥ 1 values, as `mean_interval`."""
        interval = mean_interval(values, images, resamples=self.resamples, seed=self.seed, bounds=bounds)
        return float(values.mean()), len(values), interval

    def statistic(self, statistic: Statistic, images: Clusters) -> Estimated | None:
        """A statistic of N questions, as `bootstrap_interval`; None where it is undefined."""
        value = float(statistic(np.ones((1, len(images))))[0])
        if not np.isfinite(value):
            return None
        return value, len(images), bootstrap_interval(statistic, images, resamples=self.resamples, seed=self.seed)


def _percentiles(values: Resampled) -> Interval | None:
    defined = values[np.isfinite(values)]
    if defined.size * 2 < len(values):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _cluster_index(clusters: Clusters) -> tuple[Int[np.ndarray, " N"], int]:
    names = clusters if isinstance(clusters, np.ndarray) else np.asarray(clusters, dtype=str)
    found, member = np.unique(names, return_inverse=True)
    return member, len(found)


def _draws(count: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "S C"]]:
    """How often each of `count` images occurs in each resample, some resamples at a time."""
    kept = _kept_draws(count, resamples, seed) if count * resamples <= _KEPT else None
    rng = np.random.default_rng([seed, count])
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        yield (_drawn(rng, count, rows) if kept is None else kept[start : start + rows]).astype(np.float64)


@lru_cache(maxsize=2)
def _kept_draws(count: int, resamples: int, seed: int) -> Int[np.ndarray, "S C"]:
    return _drawn(np.random.default_rng([seed, count]), count, resamples)


def _drawn(rng: np.random.Generator, count: int, rows: int) -> Int[np.ndarray, "S C"]:
    """The next resamples of a generator: in one call or in several, they are the same."""
    draws = np.empty((rows, count), np.int32)
    for row in draws:  # one at a time: its counts stay in the processor's cache
        row[:] = np.bincount(rng.integers(0, count, size=count), minlength=count)
    return draws
