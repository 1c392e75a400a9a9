"""Two sets of answers to the same questions: is one better, or is it chance?

The difference of each question is resampled by image, as every interval here is (`intervals.py`). Where scores are 0
or 1, McNemar's exact test (McNemar 1947; Fagerland, Lydersen & Laake 2013) stands beside it: it looks only at the
questions that one answered rightly and the other wrongly. It takes questions for independent, so where several are
about one image its p may be too small; the bootstrap's is not. Neither is corrected for the number of comparisons.

Axes: S resamples, N questions, C images.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from rllava_jax.evaluation.intervals import Interval, Values, bootstrap_means, mean_interval
from rllava_jax.evaluation.metrics import Measured
from rllava_jax.evaluation.predictions import Answered, Key, key_of
from rllava_jax.evaluation.results import markdown as markdown_table
from rllava_jax.evaluation.scoring import Scored


class McNemar(NamedTuple):
    """Questions that only one of the two answered rightly, and the two-sided exact p that neither is better."""

    first_only: int
    second_only: int
    p: float


class Difference(NamedTuple):
    """Mean of first minus second over n questions.

    Attributes:
      interval: 95 %, by image; None without resamples.
      p: two-sided, of no difference, by the bootstrap; None without resamples or with a single image.
      mcnemar: None where a score is neither 0 nor 1.
    """

    difference: float
    n: int
    interval: Interval | None
    p: float | None
    mcnemar: McNemar | None


class ComparisonRow(Measured):
    """One number of a comparison; n questions that both have. None where no interval or test could be had."""

    first: float
    second: float
    difference: float
    n: int
    ci_low: float | None
    ci_high: float | None
    p: float | None
    first_only: int | None
    second_only: int | None
    mcnemar_p: float | None


def compare(first: Values, second: Values, images: Sequence[str], *, resamples: int, seed: int) -> Difference:
    """Compares two scores, 0..1, of each of N ≥ 1 questions.

    p is twice the share of resampled differences on the far side of zero (Davison & Hinkley 1997, section 4.4, with one
    added above and below the line, so that it is never 0). With C images it is at least 2^(1 - C), which is what a sign
    test says where every image agrees: a bootstrap of three equal differences would claim certainty.
    """
    difference = first - second
    interval = mean_interval(difference, images, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))
    p = None
    count = len(set(images))
    if resamples and count > 1:
        values = bootstrap_means(difference, images, resamples=resamples, seed=seed)
        fewer = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
        p = max(min(2 * (fewer + 1) / (resamples + 1), 1.0), 2.0 ** (1 - count))
    binary = bool(np.isin(np.concatenate([first, second]), (0, 1)).all())
    return Difference(float(difference.mean()), len(first), interval, p, mcnemar(first, second) if binary else None)


def mcnemar(first: Values, second: Values) -> McNemar:
    """The exact test on scores that are 0 or 1; p is 1 where the two never differ."""
    first_only = int(np.count_nonzero(first > second))
    second_only = int(np.count_nonzero(second > first))
    differing = first_only + second_only
    p = float(binomtest(first_only, differing).pvalue) if differing else 1.0
    return McNemar(first_only, second_only, p)


def comparison_rows(
    first: Iterable[Scored[Answered]],
    second: Iterable[Scored[Answered]],
    metrics_of: Callable[[str], Sequence[str]],
    *,
    resamples: int,
    seed: int,
) -> list[ComparisonRow]:
    """Compares every subset under every condition, over the questions that both sets have.

    Args:
      metrics_of: the metrics that a subset reports, e.g. `Protocol.metrics_of`.

    Returns:
      Rows in the order in which the first set names data set, split, subset and condition. `unmatched` tells what no
      row has.
    """
    others = {key_of(s.answer): s for s in second}
    cells: dict[tuple[str, str, str, str], list[tuple[Scored[Answered], Scored[Answered]]]] = {}
    for s in first:
        if (key := key_of(s.answer)) in others:
            dataset, split, _, condition = key
            for subset in s.subsets:
                cells.setdefault((dataset, split, subset, condition), []).append((s, others[key]))
    rows = []
    for (dataset, split, subset, condition), pairs in cells.items():
        for metric in metrics_of(subset):
            held = [(s, other) for s, other in pairs if metric in s.scores and metric in other.scores]
            if not held:
                continue
            values = np.array([(s.scores[metric], other.scores[metric]) for s, other in held], dtype=float)
            images = [s.answer.image_id for s, _ in held]
            found = compare(values[:, 0], values[:, 1], images, resamples=resamples, seed=seed)
            low, high = found.interval or (None, None)
            first_only, second_only, exact = found.mcnemar or (None, None, None)
            rows.append(
                ComparisonRow(
                    dataset=dataset, split=split, subset=subset, condition=condition, metric=metric,
                    first=float(values[:, 0].mean()), second=float(values[:, 1].mean()),
                    difference=found.difference, n=found.n, ci_low=low, ci_high=high, p=found.p,
                    first_only=first_only, second_only=second_only, mcnemar_p=exact,
                )
            )  # fmt: skip
    return rows


def unmatched(first: Iterable[Scored[Answered]], second: Iterable[Scored[Answered]]) -> tuple[list[str], list[str]]:
    """The questions that only the first, and only the second, has; as "id (condition)"."""
    ours, theirs = ({key_of(s.answer): None for s in side} for side in (first, second))

    def names(questions: Iterable[Key]) -> list[str]:
        return [f"{name} ({condition})" if condition else name for _, _, name, condition in questions]

    return names(q for q in ours if q not in theirs), names(q for q in theirs if q not in ours)


def markdown(rows: Sequence[ComparisonRow]) -> str:
    """Subsets and metrics down, in percent; differences in points with 95 % intervals."""
    several = len({(row["dataset"], row["split"]) for row in rows}) > 1
    conditions = any(row["condition"] for row in rows)
    lines = []
    for row in rows:
        name = f"{row['dataset']} {row['split']}, {row['subset']}" if several else row["subset"]
        name += f" ({row['condition']})" if conditions and row["condition"] else ""
        difference = f"{100 * row['difference']:+.1f}"
        if row["ci_low"] is not None and row["ci_high"] is not None:
            difference += f" ({100 * row['ci_low']:+.1f} to {100 * row['ci_high']:+.1f})"
        exact = "–"
        if row["mcnemar_p"] is not None:  # which is 0.0 where it is too small for a float
            exact = f"{row['first_only']} : {row['second_only']}, p {p_text(row['mcnemar_p'])}"
        first, second = (f"{100 * value:.1f}" for value in (row["first"], row["second"]))
        lines.append((name, row["metric"], row["n"], first, second, difference, p_text(row["p"]), exact))
    heads = ("questions", "metric", "n", "first", "second", "difference", "p", "McNemar")
    return markdown_table(heads, lines, words=2)


def p_text(p: float | None) -> str:
    """A p for people; a dash where there is none."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
