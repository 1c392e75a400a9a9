"""The plots of the report, as SVG text that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy import ndarray

from rllava_jax.evaluation.confidence.calibration import ReliabilityBin

# Okabe and Ito's palette: told apart with any colour vision, and in grey by their lightness and edge.
CONDITION_COLOURS = {"right": "#009e73", "none": "#8b94a3", "wrong": "#d55e00", "blank": "none"}

# Stand-ins that `svg_text` turns into the page's own colours, so that one picture serves a light and a dark page. The
# series of a line plot each have a shade of their own per page: no one colour has contrast enough on both.
INK, RULE = "#010203", "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05")
_SERIES_ALONE = ("#0072b2", "#b26a00", "#00805d", "#c04f00", "#a8497c")  # where no page defines them
_PAGE_COLOURS = {
    INK: "currentColor",
    RULE: "var(--rule)",
    **{c: f"var(--series-{i}, {alone})" for i, (c, alone) in enumerate(zip(SERIES, _SERIES_ALONE, strict=True), 1)},
}
FILE_INK = "#1f2630"  # of pictures that stand alone, on white


def _axes_style(ink: str, *, rule: str, grid: str, ground: str) -> dict[Any, Any]:
    return {
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": rule,
        "axes.facecolor": ground,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": grid,
        "figure.facecolor": ground,
    }


STYLE: dict[Any, Any] = {
    **_axes_style(INK, rule=RULE, grid=RULE, ground="none"),
    "svg.fonttype": "none",  # text stays text: searchable, read aloud, in the page's font
    "font.family": "sans-serif",
    "font.size": 11,
    "hatch.linewidth": 0.8,
}


def file_style(name: str, *, font_size: int) -> dict[Any, Any]:
    """The style of a picture in a file of its own.

    Args:
      name: of the picture; the identifiers in the file follow from it, so that the same picture is the same file.
    """
    return {
        **_axes_style(FILE_INK, rule="#c9d0d9", grid="#e6eaee", ground="white"),
        "svg.fonttype": "path",  # looks the same wherever it is shown
        "svg.hashsalt": name,
        "font.size": font_size,
    }


class Bar(NamedTuple):
    """One bar, in shares of 1."""

    value: float
    low: float | None
    high: float | None


def grouped_bars(groups: Mapping[str, Mapping[str, Bar]], *, chance: Mapping[str, float]) -> str:
    """Accuracy by question group and condition, with whiskers; a dotted line at chance where it is known."""
    conditions = [c for c in CONDITION_COLOURS if any(c in bars for bars in groups.values())]
    width = 0.8 / max(len(conditions), 1)
    with mpl.rc_context({**STYLE, "svg.hashsalt": "bars"}):
        figure = Figure(figsize=(9.2, 3.5), layout="constrained")
        axes = figure.add_subplot()
        for c, condition in enumerate(conditions):
            _draw_condition(axes, condition, groups, offset=(c - (len(conditions) - 1) / 2) * width, width=width)
        for g, name in enumerate(groups):
            if name in chance:
                axes.hlines(100 * chance[name], g - 0.46, g + 0.46, colors=INK, linestyles=(0, (1, 2)), linewidth=1.2)
        axes.set_xticks(range(len(groups)), labels=list(groups))
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.tick_params(length=0)
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 25), labels=[f"{v} %" for v in range(0, 101, 25)])
        axes.grid(axis="y", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.legend(
            ncols=4, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, handlelength=1.2
        )
        return svg_text(figure, "Bar chart of accuracy by question family and region condition, with 95 % intervals")


def _draw_condition(
    axes: Axes, condition: str, groups: Mapping[str, Mapping[str, Bar]], *, offset: float, width: float
) -> None:
    drawn = [(g, bars[condition]) for g, bars in enumerate(groups.values()) if condition in bars]
    if not drawn:
        return
    x = [g + offset for g, _ in drawn]
    hollow = CONDITION_COLOURS[condition] == "none"
    axes.bar(
        x,
        [100 * bar.value for _, bar in drawn],
        0.86 * width,
        color=CONDITION_COLOURS[condition],
        edgecolor=INK if hollow else CONDITION_COLOURS[condition],
        linewidth=1,
        hatch="///" if hollow else None,
        label={"blank": "blank image", "none": "no region"}.get(condition, f"{condition} region"),
    )
    for at, (_, bar) in zip(x, drawn, strict=True):
        top = bar.value
        if bar.low is not None and bar.high is not None:
            axes.vlines(at, 100 * bar.low, 100 * bar.high, colors=INK, linewidth=1.3)
            top = max(top, bar.high)
        axes.annotate(
            f"{100 * bar.value:.0f}",
            (at, 100 * top),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )


def reliability_plot(curves: Mapping[str, Sequence[ReliabilityBin]], *, bins_of: str = "equal width") -> str:
    """Accuracy over confidence for each condition; a dot's area is its bin's share; the diagonal is perfect.

    Args:
      bins_of: "equal width" or "equal mass", told to those who do not see the picture.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"reliability, {bins_of}"}):
        figure = Figure(figsize=(4.5, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (1, 2)))
        for condition, bins in curves.items():
            total = sum(b.n for b in bins)
            x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
            axes.plot(x, y, linewidth=1.6, label=condition, **condition_style(condition))
            areas = [14 + 160 * b.n / total for b in bins]
            axes.scatter(x, y, s=areas, color=_colour(condition), alpha=0.75, linewidths=0, zorder=3)
        percent_square(axes, "confidence", "share answered right")
        axes.legend(frameon=False, loc="upper left", fontsize=10)
        return svg_text(
            figure, f"Reliability diagram in bins of {bins_of}: share of right answers against the model's confidence"
        )


def risk_coverage_plot(curves: Mapping[str, tuple[Float[ndarray, " U"], Float[ndarray, " U"]]]) -> str:
    """Share of wrong answers when only the most confident ones are given."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "risk"}):
        figure = Figure(figsize=(4.5, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for condition, (coverage, risk) in curves.items():
            axes.step(
                100 * coverage, 100 * risk, where="post", linewidth=1.6, label=condition, **condition_style(condition)
            )
        percent_square(axes, "share of questions answered, most confident first", "share answered wrong")
        axes.legend(frameon=False, loc="upper left", fontsize=10)
        return svg_text(figure, "Risk-coverage curve: error rate against the share of questions answered")


def condition_style(condition: str) -> dict[str, Any]:
    """Colour and dashes of a condition's line; one beyond the four is drawn in the ink."""
    return {"color": _colour(condition), "linestyle": (0, (4, 2)) if condition == "blank" else "-"}


def _colour(condition: str) -> str:
    colour = CONDITION_COLOURS.get(condition, "none")
    return INK if colour == "none" else colour


def percent_square(axes: Axes, x_label: str, y_label: str) -> None:
    """Both axes from 0 to 100 %."""
    ticks = range(0, 101, 25)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel=x_label, ylabel=y_label)
    axes.set_xticks(ticks, labels=[f"{t} %" for t in ticks])
    axes.set_yticks(ticks, labels=[f"{t} %" for t in ticks])
    axes.grid(linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def svg_text(figure: Figure, description: str) -> str:
    """Inline SVG: no prolog, no fixed size, the page's colours."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # matplotlib gives every figure the same group names
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # an inline picture's rules would reach the page
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    head, body = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{description}">{body}'
