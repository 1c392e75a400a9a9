"""The report's plots of accuracy against a degree, and of accuracy by kind of question; SVG as in `report/plots.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rllava_jax.report.plots import INK, SERIES, STYLE, Bar, condition_style, percent_square, svg_text

_MARKERS = ("o", "s", "^", "D", "v")


class TrustPoint(NamedTuple):
    """Accuracy under one variant of the box, and how much of the right box it keeps.

    Attributes:
      curve: "shifted" or "scaled", whose points are joined; "" for a variant that stands alone.
      iou: mean IoU of what was shown with the right box, 0..1.
    """

    curve: str
    iou: float
    accuracy: Bar


def trust_plot(runs: Mapping[str, Sequence[TrustPoint]], without: Mapping[str, float]) -> str:
    """Accuracy against the IoU of the shown box with the right one: the trust curve.

    Args:
      runs: the points of each run, at most five; a colour and a marker each.
      without: accuracy of each run when no box is shown, a dotted line.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": "trust"}):
        figure = Figure(figsize=(4.5, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for (name, points), colour, marker in zip(runs.items(), SERIES, _MARKERS, strict=False):
            prefix = f"{name}, " if len(runs) > 1 else ""
            _draw_trust(axes, points, prefix, colour, marker)
            if name in without:
                style: dict[str, Any] = {"color": colour, "linestyle": (0, (1, 2)), "linewidth": 1.3}
                axes.axhline(100 * without[name], label=f"{prefix}no box", **style)
        percent_square(axes, "IoU of the shown box with the right one", "share answered right")
        axes.set_xticks([0, 25, 50, 75, 100], labels=["0", "0.25", "0.5", "0.75", "1"])
        axes.legend(frameon=False, loc="best", fontsize=9)
        return svg_text(figure, "Trust curve: share of right answers against the overlap of the shown box")


def _draw_trust(axes: Axes, points: Sequence[TrustPoint], prefix: str, colour: str, marker: str) -> None:
    for curve, line in (("shifted", "-"), ("scaled", (0, (5, 2))), ("", "none")):
        held = sorted((p for p in points if p.curve == curve), key=lambda p: p.iou)
        if not held:
            continue
        x, y = [100 * p.iou for p in held], [100 * p.accuracy.value for p in held]
        for at, p in zip(x, held, strict=True):
            if p.accuracy.low is not None and p.accuracy.high is not None:
                axes.vlines(at, 100 * p.accuracy.low, 100 * p.accuracy.high, colors=colour, linewidth=0.9, alpha=0.6)
        style: dict[str, Any] = {"linestyle": line, "linewidth": 1.6, "color": colour}
        label = f"{prefix}{curve or 'other wrong boxes'}"
        if curve:
            axes.plot(x, y, marker=marker, markersize=5, label=label, **style)
        else:
            axes.scatter(x, y, s=22, marker=marker, facecolors="none", edgecolors=colour, label=label)


def corruption_plot(curves: Mapping[str, Mapping[int, Bar]], clean: Bar | None) -> str:
    """Accuracy against the strength of each corruption; strength 0 is the image as it is."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "corruption"}):
        figure = Figure(figsize=(6.4, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for (kind, levels), colour, marker in zip(curves.items(), SERIES, _MARKERS, strict=False):
            bars = ({0: clean} if clean else {}) | dict(sorted(levels.items()))
            y = [100 * bar.value for bar in bars.values()]
            axes.plot(list(bars), y, color=colour, marker=marker, markersize=5, linewidth=1.6, label=kind)
        most = max((level for levels in curves.values() for level in levels), default=1)
        axes.set_xticks(range(most + 1), labels=["as it is", *(str(level) for level in range(1, most + 1))])
        axes.set(xlim=(-0.2, most + 0.2), ylim=(0, 102), xlabel="strength of the corruption", ylabel="answered right")
        axes.set_yticks(range(0, 101, 25), labels=[f"{v} %" for v in range(0, 101, 25)])
        axes.grid(axis="y", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=10)
        return svg_text(figure, "Line plot of accuracy against the strength of each image corruption")


def dot_plot(groups: Mapping[str, Mapping[str, Bar]], description: str, *, legend: bool = True) -> str:
    """Accuracy of each group, one line each, a marker per condition with its 95 % interval.

    Args:
      groups: name on the axis → condition → value, drawn from the top.
      description: what a screen reader says of the picture.
    """
    conditions = list(dict.fromkeys(c for bars in groups.values() for c in bars))
    with mpl.rc_context({**STYLE, "svg.hashsalt": description}):
        row = 0.30 + 0.09 * (len(conditions) - 1)
        figure = Figure(figsize=(4.5, 1.0 + row * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        for c, condition in enumerate(conditions):
            offset = 0.0 if len(conditions) == 1 else 0.5 * (c / (len(conditions) - 1) - 0.5)
            held = [(g + offset, bars[condition]) for g, bars in enumerate(groups.values()) if condition in bars]
            style = condition_style(condition)
            for y, bar in held:
                if bar.low is not None and bar.high is not None:
                    axes.hlines(y, 100 * bar.low, 100 * bar.high, colors=style["color"], linewidth=1.2)
            hollow = condition == "blank"
            axes.scatter(
                [100 * bar.value for _, bar in held],
                [y for y, _ in held],
                s=30,
                marker=_MARKERS[c % len(_MARKERS)],
                facecolors="none" if hollow else style["color"],
                edgecolors=style["color"],
                zorder=3,
                label={"blank": "blank image", "none": "no region"}.get(condition, f"{condition} region"),
            )
        axes.set_yticks(range(len(groups)), labels=list(groups))
        axes.set(xlim=(-2, 102), ylim=(len(groups) - 0.45, -0.55))
        axes.set_xticks(range(0, 101, 25), labels=[f"{v} %" for v in range(0, 101, 25)])
        axes.grid(axis="x", linewidth=0.7)
        axes.axhline(len(groups) - 0.45, color=INK, linewidth=0.4, alpha=0.4)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        if legend and len(conditions) > 1:
            axes.legend(
                ncols=2, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, fontsize=10
            )
        return svg_text(figure, description)
