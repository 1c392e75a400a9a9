"""The trust curve as a picture that stands alone: accuracy against how much of the right box is shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from data_pipelines.core.errors import DataError
from rllava_jax.report.plots import Bar, file_style

# Okabe and Ito's palette and a marker each: told apart with any colour vision, and in grey.
_SERIES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P"))
_APART = 0.008  # between the whiskers of two models, in IoU


def trust_curve_plot(
    curves: Mapping[str, Sequence[tuple[float, Bar]]], without: Mapping[str, float] | None = None
) -> str:
    """A self-contained SVG: a curve a model, with 95 % intervals.

    Args:
      curves: model → (IoU of the shown box with the right one, accuracy), by rising IoU; at most six models.
      without: model → accuracy without a box, a dotted line in its colour.

    Raises:
      DataError: more than six models, which nobody could tell apart.
    """
    if len(curves) > len(_SERIES):
        raise DataError(f"trust curve: {len(curves)} models; draw at most {len(_SERIES)} in one picture")
    with mpl.rc_context(file_style("trust", font_size=11)):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for number, ((name, points), (colour, marker)) in enumerate(zip(curves.items(), _SERIES, strict=False)):
            x = [iou + (number - (len(curves) - 1) / 2) * _APART for iou, _ in points]
            for at, (_, bar) in zip(x, points, strict=True):
                if bar.low is not None and bar.high is not None:
                    axes.vlines(at, 100 * bar.low, 100 * bar.high, colors=colour, linewidth=1, alpha=0.6)
            y = [100 * bar.value for _, bar in points]
            axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.6, label=name)
            if without and name in without:
                axes.axhline(100 * without[name], color=colour, linestyle=(0, (1, 2)), linewidth=1.3)
        axes.set(xlim=(-0.04, 1.04), ylim=(0, 102), ylabel="share answered right")
        axes.set_xlabel("IoU of the shown box with the right one" + (" (dotted: no box)" if without else ""))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_yticks(range(0, 101, 25), labels=[f"{v} %" for v in range(0, 101, 25)])
        axes.grid(linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="best", fontsize=10)
        FigureCanvasSVG(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
