"""The report's chapter on the image: controls that take it away, and corruptions that make it worse."""

from typing import Any

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, LEVELS
from rllava_jax.evaluation.metrics import Row, metrics_of
from rllava_jax.evaluation.subsets import HEADLINE
from rllava_jax.report.line_plots import corruption_plot
from rllava_jax.report.names import subset_name
from rllava_jax.report.tables import RowIndex, score_table

_CONTROLLED = ("right", "none", "blank", *CONTROLS)


def controls(index: RowIndex) -> dict[str, Any] | None:
    """A table of the controls and a plot of the corruptions; None where neither was evaluated."""
    found: dict[str, Any] = {"controls": None, "corruptions": None}
    if any(condition in CONTROLS for _, condition, _ in index):
        found["controls"] = score_table(
            "Accuracy in percent without the image, or with one that is not the question’s; 95 % intervals",
            index,
            [*HEADLINE, "answer_type=closed", "answer_type=open"],
            conditions=_CONTROLLED,
            pairs=(),
        )
    if held := [s for s in ("all", *HEADLINE) if _corrupted(index, s)]:
        subset = held[0]
        curves = _corrupted(index, subset)
        plot = corruption_plot(curves, index.get((subset, "right", metrics_of(subset)[0])))
        found["corruptions"] = plot, f"{subset_name(subset)}. The image made worse by degrees, the right region shown."
        found["strongest"] = score_table(
            "Accuracy in percent at the greatest strength, with 95 % intervals",
            index,
            held,
            conditions=["right", *(f"corrupted:{kind}:{max(levels)}" for kind, levels in curves.items())],
            pairs=(),
        )
    return found if any(found.values()) else None


def _corrupted(index: RowIndex, subset: str) -> dict[str, dict[int, Row]]:
    """Kind → strength → accuracy."""
    metric = metrics_of(subset)[0]
    found = {
        kind: {level: row for level in LEVELS if (row := index.get((subset, f"corrupted:{kind}:{level}", metric)))}
        for kind in CORRUPTIONS
    }
    return {kind: levels for kind, levels in found.items() if levels}
