"""The report's section on the image: controls that take it away, and corruptions that make it worse."""

from __future__ import annotations

from html import escape

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, LEVELS
from rllava_jax.evaluation.metrics import metrics_of
from rllava_jax.evaluation.summary import HEADLINE, bar_of
from rllava_jax.report.line_plots import corruption_plot
from rllava_jax.report.plots import Bar
from rllava_jax.report.tables import RowIndex, score_table, subset_name

_CONTROLLED = ("right", "none", "blank", *CONTROLS)


def controls_html(index: RowIndex) -> str:
    """A table of the controls and a plot of the corruptions; "" where none was asked."""
    parts = []
    if any(region in CONTROLS for _, region, _ in index):
        subsets = [*HEADLINE, "answer_type=closed", "answer_type=open"]
        caption = "Accuracy in percent without the image, or with one that is not the question’s; 95 % intervals"
        parts.append(
            '<p class="note">A score that survives noise, another question’s image, or no image at all was not read '
            "from the image. Noise and another’s image are shown with the right region named; question only shows a "
            "blank image and no region.</p>"
            + score_table(caption, index, subsets, differences=False, conditions=_CONTROLLED)
        )
    if any(region.startswith("corrupted:") for _, region, _ in index):
        parts.append(_corruptions(index))
    return "".join(parts)


def _corruptions(index: RowIndex) -> str:
    held = [s for s in ("all", *HEADLINE) if any(_corrupted(index, s))]
    subset = held[0]
    curves = {"JPEG" if kind == "jpeg" else kind: levels for kind, levels in _corrupted(index, subset).items()}
    clean = index.get((subset, "right", metrics_of(subset)[0]))
    plot = corruption_plot(curves, bar_of(clean) if clean else None)
    caption = f"{subset_name(subset)}. The image made worse by degrees, the right region shown."
    conditions = ["right", *(f"corrupted:{kind}:{max(levels)}" for kind, levels in _corrupted(index, subset).items())]
    strongest = score_table(
        "Accuracy in percent at the greatest strength, with 95 % intervals",
        index,
        held,
        differences=False,
        conditions=conditions,
    )
    return (
        f"<h3>A worse image</h3>"
        '<div class="panel" tabindex="0" role="region" aria-label="Plot of accuracy by strength of corruption"><figure '
        f'class="middling">{plot}<figcaption>{escape(caption)}</figcaption></figure></div>{strongest}'
    )


def _corrupted(index: RowIndex, subset: str) -> dict[str, dict[int, Bar]]:
    """Kind → strength → accuracy."""
    found: dict[str, dict[int, Bar]] = {}
    metric = metrics_of(subset)[0]
    for kind in CORRUPTIONS:
        for level in LEVELS:
            if row := index.get((subset, f"corrupted:{kind}:{level}", metric)):
                found.setdefault(kind, {})[level] = bar_of(row)
    return found
