"""The results of a run in its folder, and several runs' side by side in one Markdown table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.conditions import SHIFTED_IOUS
from data_pipelines.core.errors import MalformedFile
from data_pipelines.regions.perturbations import PREFIX, VARIANTS
from rllava_jax.evaluation import results
from rllava_jax.evaluation.metrics import Row
from rllava_jax.evaluation.trust.metrics import SUMMARY
from rllava_jax.evaluation.trust.summary import FIGURES

_CURVE = {f"{PREFIX}shifted:{iou:.2f}": iou for iou in sorted(SHIFTED_IOUS)} | {f"{PREFIX}right": 1.0}
_FIGURES = (("lost", "lost"), ("followed", "followed"), ("sure and wrong", "confident_errors"))


def read_rows(folder: Path) -> list[Row]:
    """The rows of a scored run.

    Raises:
      DataError: the folder holds none.
    """
    path = folder / results.METRICS_FILE
    rows = results.read_rows(path, remedy=f"score it with: python -m rllava_jax.trust score --answers {folder}")
    if not any(row["condition"] == SUMMARY or row["condition"].startswith(PREFIX) for row in rows):
        raise MalformedFile(f"{path}: holds no results of the trust benchmark; name a folder of `trust run`")
    return rows


def curves_of(
    runs: Mapping[str, Sequence[Row]], *, subset: str = "all"
) -> tuple[dict[str, list[tuple[float, Row]]], dict[str, float]]:
    """Of each run the trust curve, and the accuracy without a box where that was evaluated.

    A curve is (IoU, accuracy) of the shifted boxes and the right one, by rising IoU.
    """
    curves, without = {}, {}
    for name, rows in runs.items():
        found = {row["condition"]: row for row in rows if row["subset"] == subset and row["metric"] == "accuracy"}
        curves[name] = [(iou, found[condition]) for condition, iou in _CURVE.items() if condition in found]
        if row := found.get(f"{PREFIX}none"):
            without[name] = row["value"]
    return curves, without


def markdown_table(runs: Mapping[str, Sequence[Row]], *, subset: str = "all") -> str:
    """Runs across; down the score and its parts, accuracy by variant, and how often the wrong hint costs an answer.

    In percent, with 95 % intervals.
    """
    found = {
        name: {(row["condition"], row["metric"]): row for row in rows if row["subset"] == subset}
        for name, rows in runs.items()
    }
    lines: list[Sequence[object]] = []

    def add(label: str, condition: str, metric: str) -> None:
        held = [cells.get((condition, metric)) for cells in found.values()]
        counts = {row["n"] for row in held if row is not None}
        if counts:
            lines.append((label, counts.pop() if len(counts) == 1 else "–", *map(results.in_percent, held)))

    for metric in FIGURES:
        add(f"**{metric.replace('_', ' ')}**" if metric == FIGURES[0] else metric, SUMMARY, metric)
    for name in VARIANTS:
        add(name, PREFIX + name, "accuracy")
    for title, metric in _FIGURES:
        for name in VARIANTS:
            add(f"{title}: {name}", PREFIX + name, metric)
    return results.markdown((subset, "n", *runs), lines)
