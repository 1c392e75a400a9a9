"""The report's chapter on the region trust benchmark: accuracy as the shown box goes wrong by degrees.

It is drawn from the benchmark's rows alone (`python -m rllava_jax.trust score`), whose conditions are "trust:VARIANT"
and "trust".
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data_pipelines.conditions import TRUST
from rllava_jax.evaluation.metrics import Row
from rllava_jax.report.line_plots import TrustPoints, dot_plot, trust_plot
from rllava_jax.report.names import condition_name, subset_name
from rllava_jax.report.tables import Cell, PageTable, RowIndex, Tile, value_cell

_FIGURES = {
    "trust_score": ("Trust score", "of both together; docs/TRUST.md"),
    "use": ("Use of a right box", "of what is wrong without a box, the share that it fixes"),
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
_CAPTION = (
    "In percent, with 95 % intervals. Lost: of the answers right with the right box. Followed: answers what the wrong "
    "hint implies, where the annotations tell what that is. ECE: bins of equal mass. Sure and wrong: confidence of 0.9 "
    "or more"
)
_FAMILIES = ("family=vqa", "family=identify", "family=verify", "family=choose")
_TWO_HINTS = ("trust:two", "trust:contradicted")  # where one IoU does not say what was shown


def trust_curves(runs: Mapping[str, RowIndex]) -> Markup | None:
    """The trust curve of each run in one plot; None where none has a point."""
    points = {name: found for name, index in runs.items() if (found := _points(index))}
    plain = {name: index.get(("all", "trust:none", "accuracy")) for name, index in runs.items()}
    return trust_plot(points, {name: row["value"] for name, row in plain.items() if row}) if points else None


def _points(index: RowIndex) -> TrustPoints:
    """Of the trust curve; the right box ends every curve."""
    points: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for variant in TRUST:
        overlap, row = index.get(("all", variant, "iou")), index.get(("all", variant, "accuracy"))
        if overlap is None or row is None or variant in _TWO_HINTS:
            continue
        name = variant.split(":")[1]
        curves = {"right": ("shifted", "scaled"), "shifted": ("shifted",), "scaled": ("scaled",)}.get(name, ("",))
        for curve in curves:
            points[curve].append((overlap["value"], row))
    return points


def trust_benchmark(index: RowIndex) -> dict[str, Any]:
    """The benchmark's figures, the trust curve, every variant beside it, and their table; no figures without rows."""
    held = [v for v in TRUST if ("all", v, "accuracy") in index]
    if not held:
        return {"figures": ()}
    dots = dot_plot(
        {condition_name(v): {"right": index["all", v, "accuracy"]} for v in held},
        "Dot plot of accuracy under each variant of the box, with 95 % intervals",
    )
    figures = [
        (
            trust_curves({"this run": index}),
            "Trust curve. Below the dotted line, the box costs answers that the image alone would have given.",
        ),
        (dots, "Every variant, with 95 % intervals."),
    ]
    tables = [(s, [v for v in held if (s, v, "accuracy") in index]) for s in _FAMILIES]
    return {
        "tiles": [
            Tile(name, row, meaning=meaning)
            for metric, (name, meaning) in _FIGURES.items()
            if (row := index.get(("all", "trust", metric)))
        ],
        "figures": [figure for figure in figures if figure[0]],
        "table": _table(index, "all", held),
        "families": [(subset_name(s), _table(index, s, variants)) for s, variants in tables if variants],
    }


def _table(index: RowIndex, subset: str, variants: Sequence[str]) -> PageTable:
    metrics = [m for m in _COLUMNS if any((subset, v, m) in index for v in variants)]
    lines = []
    for v in variants:
        overlap = index.get((subset, v, "iou"))
        shown = f"{overlap['value']:.2f}" if overlap and v not in _TWO_HINTS else "–"
        cells = (value_cell(index.get((subset, v, m))) for m in metrics)
        lines.append([Cell(condition_name(v)), Cell(shown), Cell(f"{index[subset, v, 'accuracy']['n']:,}"), *cells])
    heads = ["Shown", "Mean IoU", "n", *(_COLUMNS[m] for m in metrics)]
    return PageTable(_CAPTION, [*map(Cell, heads)], lines)
