"""The plots of the pages, as SVG text that takes its colours from the page around it, and of files that stand alone."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy import ndarray

from rllava_jax.evaluation.confidence.calibration import ReliabilityBin
from rllava_jax.evaluation.metrics import Row
from rllava_jax.report.names import condition_name

# Okabe and Ito's palette: told apart with any colour vision, and in grey by their lightness and edge.
CONDITION_COLOURS = {"right": "#009e73", "none": "#8b94a3", "wrong": "#d55e00", "blank": "none"}
MARKERS = ("o", "s", "^", "D", "v", "P")
DOTTED = (0, (1, 2))

# Stand-ins that `_page_svg` turns into the page's own colours, so that one picture serves a light and a dark page. The
# series of a line plot each have a shade of their own per page: no one colour has contrast enough on both.
INK, _RULE = "#010203", "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05")
_SERIES_ALONE = ("#0072b2", "#b26a00", "#00805d", "#c04f00", "#a8497c")  # where no page defines them
_PAGE_COLOURS = {
    INK: "currentColor",
    _RULE: "var(--rule)",
    **{c: f"var(--series-{i}, {alone})" for i, (c, alone) in enumerate(zip(SERIES, _SERIES_ALONE, strict=True), 1)},
}
# What no XML may hold, escaped or not: control characters, halves of surrogate pairs, two that are no characters.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
FILE_INK = "#1f2630"  # of pictures that stand alone, on white


def _style(ink: str, rule: str, grid: str, ground: str) -> dict[Any, Any]:
    return {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink),
        **dict.fromkeys(("axes.facecolor", "figure.facecolor"), ground),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        "axes.edgecolor": rule,
        "grid.color": grid,
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "text.parse_math": False,  # a name of the data may hold dollar signs
    }


def page_plot(description: str, draw: Callable[[Axes], object], size: tuple[float, float] = (4.5, 4.0)) -> Markup:
    """Inline SVG: no prolog, no fixed size, the page's colours.

    Args:
      description: what a screen reader says of the picture.
      draw: draws it.
      size: in inches, which give the aspect.
    """
    style = _style(INK, _RULE, _RULE, "none") | {
        "svg.fonttype": "none",  # text stays text: searchable, read aloud, in the page's font
        "font.family": "sans-serif",
        "hatch.linewidth": 0.8,
    }
    text = _drawn(description, size, lambda figure: draw(figure.add_subplot()), style)
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # an inline picture's rules would reach the page
    text = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0]), text)  # what stands between tags are names of the data
    head, body = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return (
        Markup(head) + Markup(' role="img" aria-label="{}">').format(_NOT_XML.sub("\ufffd", description)) + Markup(body)
    )


def _page_tag(tag: str) -> str:
    for stand_in, colour in _PAGE_COLOURS.items():
        tag = tag.replace(stand_in, colour)
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)  # matplotlib gives every figure the same group names
    return re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)


def file_picture(
    name: str, size: tuple[float, float], draw: Callable[[Figure], object], *, font_size: float = 11
) -> str:
    """An SVG that stands alone, on white, and looks the same everywhere.

    Args:
      name: the identifiers in the file follow from it, so that the same picture is the same file.
      size: in inches.
      draw: draws it.
    """
    style = _style(FILE_INK, "#c9d0d9", "#e6eaee", "white")
    return _drawn(name, size, draw, style | {"svg.fonttype": "path", "font.size": font_size})


def _drawn(name: str, size: tuple[float, float], draw: Callable[[Figure], object], style: dict[Any, Any]) -> str:
    """A figure as SVG, without the date, so that the same figure is the same text."""
    with mpl.rc_context({"svg.hashsalt": name, "font.size": 11} | style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        for text in figure.findobj(Text):
            text.set_text(_NOT_XML.sub("\ufffd", text.get_text()))
        FigureCanvasSVG(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def literal(name: str) -> str:
    """A name of the data as the label of a series or a tick: on one line, in characters that XML may hold, and shown
    even where it begins with "_", which matplotlib takes for a series without a label."""
    line = _NOT_XML.sub("\ufffd", re.sub(r"[\t\n\r]+", " ", name))
    return f"\u200b{line}" if line.startswith("_") else line


def percent_axes(axes: Axes, which: str = "xy") -> None:
    """Axes from 0 to 100 % with a grid."""
    ticks, limits = range(0, 101, 25), (-2, 102)
    for name in which:
        axes.set(**{f"{name}lim": limits, f"{name}ticks": ticks, f"{name}ticklabels": [f"{t} %" for t in ticks]})
    axes.grid(axis="both" if which == "xy" else which)  # type: ignore[arg-type]
    axes.tick_params(length=0)


def whisker(axes: Axes, at: float, row: Row, *, across: bool = False, **style: Any) -> None:
    """The interval of a row, where it has one."""
    low, high = row["ci_low"], row["ci_high"]
    if low is not None and high is not None:
        (axes.hlines if across else axes.vlines)(at, 100 * low, 100 * high, **style)


def condition_colour(condition: str) -> str:
    """The colour of a condition's line; "blank", and one beyond the four, is drawn in the ink."""
    colour = CONDITION_COLOURS.get(condition, "none")
    return INK if colour == "none" else colour


def grouped_bars(groups: Mapping[str, Mapping[str, Row]], *, chance: Mapping[str, float]) -> Markup:
    """Accuracy by question group and condition, with whiskers; a dotted line at chance where it is known."""
    conditions = [c for c in CONDITION_COLOURS if any(c in rows for rows in groups.values())]
    width = 0.8 / max(len(conditions), 1)

    def draw(axes: Axes) -> None:
        for c, condition in enumerate(conditions):
            held = [(g, rows[condition]) for g, rows in enumerate(groups.values()) if condition in rows]
            offset = (c - (len(conditions) - 1) / 2) * width
            _draw_bars(axes, condition, [(g + offset, row) for g, row in held], 0.86 * width)
        for g, name in enumerate(groups):
            if name in chance:
                axes.hlines(100 * chance[name], g - 0.46, g + 0.46, colors=INK, linestyles=DOTTED, linewidth=1.2)
        percent_axes(axes, "y")
        axes.set(
            xticks=range(len(groups)),
            xticklabels=list(map(literal, groups)),
            xlim=(-0.6, len(groups) - 0.4),
            ylim=(0, 108),
        )
        axes.spines["left"].set_visible(False)
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2, handlelength=1.2)

    description = "Bar chart of accuracy by question family and region condition, with 95 % intervals"
    return page_plot(description, draw, (9.2, 3.5))


def _draw_bars(axes: Axes, condition: str, places: Sequence[tuple[float, Row]], width: float) -> None:
    hollow = condition == "blank"
    axes.bar(
        [at for at, _ in places],
        [100 * row["value"] for _, row in places],
        width,
        color=CONDITION_COLOURS[condition],
        edgecolor=condition_colour(condition),
        linewidth=1,
        hatch="///" if hollow else None,
        label=literal(condition_name(condition).lower()),
    )
    for at, row in places:
        whisker(axes, at, row, colors=INK, linewidth=1.3)
        place = at, 100 * max(row["value"], row["ci_high"] or 0)
        style: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        axes.annotate(f"{100 * row['value']:.0f}", place, **style)


def reliability_plot(curves: Mapping[str, Sequence[ReliabilityBin]], *, bins_of: str = "equal width") -> Markup:
    """Accuracy over confidence for each condition; a dot's area is its bin's share; the diagonal is perfect.

    Args:
      bins_of: "equal width" or "equal mass", told to those who do not see the picture.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=DOTTED)
        for condition, bins in curves.items():
            total = sum(b.n for b in bins)
            x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
            axes.plot(x, y, linewidth=1.6, label=literal(condition), **_line_style(condition))
            areas = [14 + 160 * b.n / total for b in bins]
            axes.scatter(x, y, s=areas, color=condition_colour(condition), alpha=0.75, linewidths=0, zorder=3)
        percent_axes(axes)
        axes.set(xlabel="confidence", ylabel="share answered right")
        axes.legend(loc="upper left", fontsize=10)

    return page_plot(f"Reliability diagram in bins of {bins_of}: share of right answers against confidence", draw)


def risk_coverage_plot(curves: Mapping[str, tuple[Float[ndarray, " U"], Float[ndarray, " U"]]]) -> Markup:
    """Share of wrong answers when only the most confident ones are given."""

    def draw(axes: Axes) -> None:
        for condition, (coverage, risk) in curves.items():
            style = _line_style(condition)
            axes.step(100 * coverage, 100 * risk, where="post", linewidth=1.6, label=literal(condition), **style)
        percent_axes(axes)
        axes.set(xlabel="share of questions answered, most confident first", ylabel="share answered wrong")
        axes.legend(loc="upper left", fontsize=10)

    return page_plot("Risk-coverage curve: error rate against the share of questions answered", draw)


def _line_style(condition: str) -> dict[str, Any]:
    return {"color": condition_colour(condition), "linestyle": (0, (4, 2)) if condition == "blank" else "-"}
