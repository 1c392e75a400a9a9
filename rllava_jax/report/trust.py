"""The report's section on the region trust benchmark: accuracy as the shown box goes wrong by degrees.

It is drawn from the benchmark's rows alone (`python -m rllava_jax.trust score`), whose regions are "trust:VARIANT" and
"trust".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from data_pipelines.conditions import TRUST
from rllava_jax.evaluation.summary import bar_of
from rllava_jax.report.condition_names import condition_name
from rllava_jax.report.line_plots import TrustPoint, dot_plot, trust_plot
from rllava_jax.report.tables import RowIndex, interval_text, percent, subset_name, table_html, value_cell

_SUMMARY = "trust"
_FIGURES = {
    "trust_score": ("Trust score", "of both together; docs/TRUST.md"),
    "use": ("Use of a right box", "of what is wrong without a box, the share that it mends"),
    "resistance": ("Resistance to a wrong box", "of what is right without a box, the share that stays right"),
}
# Columns of the table, where the rows have them.
_COLUMNS = {
    "accuracy": "Accuracy",
    "lost": "Right answers lost",
    "followed": "Wrong hint followed",
    "followed_anyway": "Answered so anyway",
    "confidence": "Mean confidence",
    "ece_equal_mass": "ECE",
    "confident_errors": "Sure and wrong",
}
_FAMILIES = ("family=vqa", "family=identify", "family=verify", "family=choose")
_TWO_HINTS = ("trust:two", "trust:contradicted")  # where one IoU does not say what was shown


def trust_points(index: RowIndex, subset: str = "all") -> list[TrustPoint]:
    """The points of the trust curve; the right box ends every curve."""
    points = []
    for variant in TRUST:
        overlap, row = index.get((subset, variant, "iou")), index.get((subset, variant, "accuracy"))
        if overlap is None or row is None or variant in _TWO_HINTS:
            continue
        name = variant.split(":")[1]
        curves = {"right": ("shifted", "scaled"), "shifted": ("shifted",), "scaled": ("scaled",)}.get(name, ("",))
        points += [TrustPoint(curve, overlap["value"], bar_of(row)) for curve in curves]
    return points


def trust_curves(runs: Mapping[str, RowIndex]) -> str:
    """The trust curve of each run in one plot; "" where none has a point."""
    points = {name: found for name, index in runs.items() if (found := trust_points(index))}
    plain = {name: index.get(("all", "trust:none", "accuracy")) for name, index in runs.items()}
    return trust_plot(points, {name: row["value"] for name, row in plain.items() if row}) if points else ""


def trust_html(index: RowIndex) -> str:
    """The benchmark's figures, the trust curve, every variant beside it, and their table; "" where it was not run."""
    held = [v for v in TRUST if ("all", v, "accuracy") in index]
    if not held:
        return ""
    dots = dot_plot(
        {condition_name(v): {"right": bar_of(index["all", v, "accuracy"])} for v in held},
        "Dot plot of accuracy under each variant of the box, with 95 % intervals",
    )
    figures = (
        (
            trust_curves({"this run": index}),
            "Trust curve. Below the dotted line, the box costs answers that the image alone would have given.",
        ),
        (dots, "Every variant, with 95 % intervals."),
    )
    plots = "".join(
        f'<div class="panel"><figure>{plot}<figcaption>{escape(caption)}</figcaption></figure></div>'
        for plot, caption in figures
        if plot
    )
    families = [s for s in _FAMILIES if any((s, v, "accuracy") in index for v in held)]
    return (
        '<p class="note">The region trust benchmark: the same questions with the right box, with none, and with boxes '
        "made wrong by degrees.</p>"
        f'{_figures(index)}<div class="pair">{plots}</div>{_table(index, "all", held)}'
        + "".join(
            f"<details><summary>{escape(subset_name(s))}</summary>"
            f"{_table(index, s, [v for v in held if (s, v, 'accuracy') in index])}</details>"
            for s in families
        )
    )


def _figures(index: RowIndex) -> str:
    tiles = [
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="figure">{percent(row["value"])}<small> %</small></dd>'
        f'<dd class="range">{interval_text(row)} · n {row["n"]:,}</dd><dd class="range">{escape(meaning)}</dd></div>'
        for metric, (name, meaning) in _FIGURES.items()
        if (row := index.get(("all", _SUMMARY, metric)))
    ]
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _table(index: RowIndex, subset: str, variants: Sequence[str]) -> str:
    metrics = [m for m in _COLUMNS if any((subset, v, m) in index for v in variants)]
    lines = []
    for v in variants:
        overlap = index.get((subset, v, "iou"))
        shown = f"{overlap['value']:.2f}" if overlap and v not in _TWO_HINTS else "–"
        cells = "".join(value_cell(index.get((subset, v, m)), own_n=False) for m in metrics)
        n = index[subset, v, "accuracy"]["n"]
        lines.append(f'<tr><th scope="row">{escape(condition_name(v))}</th><td>{shown}</td><td>{n:,}</td>{cells}</tr>')
    heads = ["Shown", "Mean IoU", "n", *(_COLUMNS[m] for m in metrics)]
    return table_html(
        "In percent, with 95 % intervals. Lost: of the answers right with the right box. Followed: answers what the "
        "wrong hint implies, where the annotations tell what that is. ECE: bins of equal mass. Sure and wrong: "
        "confidence of 0.9 or more",
        [f'<th scope="col">{escape(h)}</th>' for h in heads],
        lines,
    )
