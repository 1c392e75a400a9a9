"""The report's section on the region trust benchmark: accuracy as the shown box goes wrong by degrees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape

import numpy as np

from data_pipelines.boxes import iou
from data_pipelines.conditions import TRUST
from rllava_jax.evaluation.condition_names import condition_name
from rllava_jax.evaluation.line_plots import TrustPoint, dot_plot, trust_plot
from rllava_jax.evaluation.plots import Bar
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.summary import bar_of
from rllava_jax.evaluation.tables import RowIndex, table_html, value_cell

# Columns of the table, where the rows have them.
_COLUMNS = {
    "accuracy": "Accuracy",
    "lost": "Right answers lost",
    "followed": "Wrong box followed",
    "confidence": "Mean confidence",
    "ece": "ECE",
    "auroc": "AUROC of confidence",
}


def mean_ious(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Variant → mean IoU of the shown box with the right one, over the questions that have one of each."""
    found = defaultdict(list)
    for p in predictions:
        if p.region in TRUST and len(p.boxes) == 1 and p.right_boxes:
            found[p.region].append(max(iou(p.boxes[0], right) for right in p.right_boxes))
    return {variant: float(np.mean(values)) for variant, values in found.items()}


def trust_points(index: RowIndex, predictions: Sequence[Prediction]) -> list[TrustPoint]:
    """The points of the trust curve, over all questions that were asked."""
    points = []
    for variant, overlap in mean_ious(predictions).items():
        row = index.get(("all", variant, "accuracy"))
        if row is None or variant == "trust:contradicted":  # whose box is right
            continue
        name = variant.split(":")[1]
        bar = bar_of(row)
        points += [TrustPoint(name if name in ("shifted", "scaled") else "", overlap, bar)] if name != "right" else []
        if name == "right":  # where every curve ends
            points += [TrustPoint("shifted", overlap, bar), TrustPoint("scaled", overlap, bar)]
    return points


def trust_html(index: RowIndex, predictions: Sequence[Prediction]) -> str:
    """The trust curve, the variants beside each other, and their table; "" where the benchmark was not asked."""
    held = [v for v in TRUST if ("all", v, "accuracy") in index]
    if not held:
        return ""
    overlaps = mean_ious(predictions)
    without = index.get(("all", "trust:none", "accuracy"))
    curve = trust_plot(
        {"this run": trust_points(index, predictions)}, {"this run": without["value"]} if without else {}
    )
    variants: dict[str, dict[str, Bar]] = {
        condition_name(v): {"right": bar_of(index["all", v, "accuracy"])} for v in held
    }
    dots = dot_plot(variants, "Dot plot of accuracy under each variant of the box, with 95 % intervals")
    figures = (
        (curve, "Trust curve. A model that weighs a box against the image stays at or above the dotted line."),
        (dots, "Every variant, with 95 % intervals."),
    )
    return (
        '<p class="note">The same questions with the right box, with none, and with boxes made wrong by degrees. '
        "Below the line of “no box”, a wrong box costs answers that the image alone would have given.</p>"
        f"{_totals(index)}"
        '<div class="pair">'
        + "".join(
            f'<div class="panel"><figure>{plot}<figcaption>{escape(caption)}</figcaption></figure></div>'
            for plot, caption in figures
        )
        + f"</div>{_table(index, held, overlaps)}"
    )


def _totals(index: RowIndex) -> str:
    """Figures of the benchmark as a whole: rows of the region "trust"."""
    tiles = [
        f'<div class="tile"><dt>{escape(metric.replace("_", " ").capitalize())}</dt>'
        f'<dd class="figure">{100 * row["value"]:.1f}<small> %</small></dd>'
        f'<dd class="range">n {row["n"]:,}</dd></div>'
        for (subset, region, metric), row in index.items()
        if subset == "all" and region == "trust"
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _table(index: RowIndex, variants: Sequence[str], overlaps: dict[str, float]) -> str:
    metrics = [m for m in _COLUMNS if any(("all", v, m) in index for v in variants)]
    lines = []
    for v in variants:
        overlap = f"{overlaps[v]:.2f}" if v in overlaps else "–"
        cells = "".join(value_cell(index.get(("all", v, m)), own_n=False) for m in metrics)
        n = index["all", v, "accuracy"]["n"]
        lines.append(
            f'<tr><th scope="row">{escape(condition_name(v))}</th><td>{overlap}</td><td>{n:,}</td>{cells}</tr>'
        )
    heads = ["Shown", "Mean IoU", "n", *(_COLUMNS[m] for m in metrics)]
    return table_html(
        "All questions of the benchmark, in percent with 95 % intervals",
        [f'<th scope="col">{escape(h)}</th>' for h in heads],
        lines,
    )
