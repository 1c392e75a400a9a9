"""Plots of accuracy against a degree, and of accuracy by kind of question."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.core.errors import InvalidOption
from rllava_jax.evaluation.metrics import Row
from rllava_jax.report import plots
from rllava_jax.report.names import condition_name
from rllava_jax.report.plots import DOTTED, INK, MARKERS, SERIES, literal, page_plot, percent_axes, whisker

# Of the models in a picture that stands alone: Okabe and Ito's palette.
_MODELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_APART = 0.008  # between the whiskers of two models, in IoU
_CURVES: dict[str, dict[str, Any]] = {
    "shifted": {"linestyle": "-"},
    "scaled": {"linestyle": (0, (5, 2))},
    "": {"linestyle": "none", "markerfacecolor": "none"},
}


# Of each curve, "shifted" or "scaled", and of "" for variants that stand alone: the mean IoU of what was shown with the
# right box, 0..1, and the accuracy.
TrustPoints = Mapping[str, Sequence[tuple[float, Row]]]


def trust_plot(runs: Mapping[str, TrustPoints], without: Mapping[str, float]) -> Markup:
    """Accuracy against the IoU of the shown box with the right one: the trust curve.

    Args:
      runs: the points of each run, at most five; a colour and a marker each.
      without: accuracy of each run when no box is shown, a dotted line.
    """

    def draw(axes: Axes) -> None:
        for (name, points), colour, marker in zip(runs.items(), SERIES, MARKERS, strict=False):
            prefix = f"{literal(name)}, " if len(runs) > 1 else ""
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
            for curve, look in _CURVES.items():
                if held := sorted(points.get(curve, ()), key=itemgetter(0)):
                    _draw_curve(axes, held, label=f"{prefix}{curve or 'other wrong boxes'}", **style, **look)
            if name in without:
                _draw_without(axes, without[name], color=colour, label=f"{prefix}no box")
        _trust_axes(axes)
        axes.legend(loc="best", fontsize=9)

    return page_plot("Trust curve: share of right answers against the overlap of the shown box", draw)


def trust_picture(curves: Mapping[str, Sequence[tuple[float, Row]]], without: Mapping[str, float] | None = None) -> str:
    """The trust curves of several models as an SVG that stands alone, with 95 % intervals.

    Args:
      curves: model → (IoU of the shown box with the right one, accuracy), by rising IoU; at most six models.
      without: model → accuracy without a box, a dotted line in its colour.

    Raises:
      DataError: more than six models, which nobody could tell apart.
    """
    if len(curves) > len(_MODELS):
        raise InvalidOption(f"trust curve: {len(curves)} models; draw at most {len(_MODELS)} in one picture")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, ((name, points), colour) in enumerate(zip(curves.items(), _MODELS, strict=False)):
            places = [(iou + (number - (len(curves) - 1) / 2) * _APART, row) for iou, row in points]
            _draw_curve(axes, places, color=colour, marker=MARKERS[number], markersize=5, label=literal(name))
            if without and name in without:
                _draw_without(axes, without[name], color=colour)
        _trust_axes(axes, note=" (dotted: no box)" if without else "")
        axes.legend(loc="best", fontsize=10)

    return plots.file_picture("trust", (6.4, 4.2), draw)


def _draw_curve(axes: Axes, points: Sequence[tuple[float, Row]], **style: Any) -> None:
    for iou, row in points:
        whisker(axes, iou, row, colors=style["color"], linewidth=1, alpha=0.6)
    axes.plot([iou for iou, _ in points], [100 * row["value"] for _, row in points], linewidth=1.6, **style)


def _draw_without(axes: Axes, accuracy: float, **style: Any) -> None:
    axes.axhline(100 * accuracy, linestyle=DOTTED, linewidth=1.3, **style)


def _trust_axes(axes: Axes, note: str = "") -> None:
    percent_axes(axes, "y")
    axes.grid(axis="x")
    axes.set(xlim=(-0.04, 1.04), xticks=[0, 0.25, 0.5, 0.75, 1], ylim=(0, 102))
    axes.set(xlabel=f"IoU of the shown box with the right one{note}", ylabel="share answered right")


def corruption_plot(curves: Mapping[str, Mapping[int, Row]], clean: Row | None) -> Markup:
    """Accuracy against the strength of each corruption; strength 0 is the image as it is."""
    most = max((level for levels in curves.values() for level in levels), default=1)

    def draw(axes: Axes) -> None:
        for (kind, levels), colour, marker in zip(curves.items(), SERIES, MARKERS, strict=False):
            rows = ({0: clean} if clean else {}) | dict(sorted(levels.items()))
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
            label = "JPEG" if kind == "jpeg" else literal(kind)
            axes.plot(list(rows), [100 * row["value"] for row in rows.values()], label=label, **style)
        percent_axes(axes, "y")
        axes.set_xticks(range(most + 1), labels=["as it is", *(str(level) for level in range(1, most + 1))])
        axes.set(xlim=(-0.2, most + 0.2), ylim=(0, 102), xlabel="strength of the corruption", ylabel="answered right")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=10)

    return page_plot("Line plot of accuracy against the strength of each image corruption", draw, (6.4, 3.5))


def dot_plot(groups: Mapping[str, Mapping[str, Row]], description: str) -> Markup:
    """Accuracy of each group, one line each, a marker per condition with its 95 % interval.

    Args:
      groups: name on the axis → condition → value, drawn from the top.
      description: what a screen reader says of the picture.
    """
    conditions = list(dict.fromkeys(c for rows in groups.values() for c in rows))
    bottom = len(groups) - 0.45

    def draw(axes: Axes) -> None:
        for c, condition in enumerate(conditions):
            offset = 0.0 if len(conditions) == 1 else 0.5 * (c / (len(conditions) - 1) - 0.5)
            held = [(g + offset, rows[condition]) for g, rows in enumerate(groups.values()) if condition in rows]
            colour = plots.condition_colour(condition)
            for y, row in held:
                whisker(axes, y, row, across=True, colors=colour, linewidth=1.2)
            axes.scatter(
                [100 * row["value"] for _, row in held],
                [y for y, _ in held],
                s=30,
                marker=MARKERS[c % len(MARKERS)],
                facecolors="none" if condition == "blank" else colour,
                edgecolors=colour,
                zorder=3,
                label=literal(condition_name(condition).lower()),
            )
        percent_axes(axes, "x")
        axes.set_yticks(range(len(groups)), labels=list(map(literal, groups)))
        axes.set(ylim=(bottom, -0.55))
        axes.axhline(bottom, color=INK, linewidth=0.4, alpha=0.4)
        axes.spines[["left", "bottom"]].set_visible(False)
        if len(conditions) > 1:
            axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, fontsize=10)

    row_height = 0.30 + 0.09 * (len(conditions) - 1)
    return page_plot(description, draw, (4.5, 1.0 + row_height * len(groups)))
