"""What a fit of scaling laws says: scaling.json, a table to print, and a picture.

The picture has the loss over the amount of data, a curve a size, and the residuals below.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rllava_jax.evaluation.results import markdown, rows_as_json
from rllava_jax.report.plots import FILE_INK, file_picture, literal
from rllava_jax.scaling_laws.fit import EXPONENT, Factor
from rllava_jax.scaling_laws.refusals import Outcome

_MEASURED = ("log_residual", "left_out_error", "left_out_error_of_mean")
_MOST_CURVES = 7  # of more sizes, so many are drawn, evenly spread
_COLUMNS = 4
_MOST_TICKS = 4  # values of the horizontal axis that are written where the runs are, rather than at powers of ten
_Colours = dict[int, Any]  # of each size, or of each amount of data where size is the horizontal axis
_ACROSS: dict[Factor, Factor] = {"data": "size", "size": "data"}  # horizontal axis → what tells the curves apart
_LABELS: dict[Factor, str] = {"size": "parameters, X", "data": "examples, D"}


def as_json(outcomes: Sequence[Outcome], settings: Mapping[str, Any]) -> str:
    """The content of scaling.json.

    {"settings": {…},
     "fits":   [{dataset, split, subset, condition, metric, fitted, refusals: [{code, reason}]}],
     "rows":   [{dataset, split, subset, condition, metric, quantity, value, n, ci_low, ci_high}],
     "points": [{dataset, split, subset, condition, metric, run, step, size, data, loss, error, n}]}

    quantity: A, alpha, beta, E, log_residual, left_out_error, left_out_error_of_mean. n is the number of runs in a row
    and of questions in a point.
    """
    parts: dict[str, list[dict[str, Any]]] = {"fits": [], "rows": [], "points": []}
    for outcome in outcomes:
        template, law, n = outcome.template._asdict(), outcome.law, len(outcome.points)
        reasons = [refusal._asdict() for refusal in outcome.refusals]
        parts["fits"].append({**template, "fitted": law is not None, "refusals": reasons})
        measured = {name: getattr(outcome, name) for name in _MEASURED}
        for quantity, value in ({**law.parameters(), **measured} if law else {}).items():
            low, high = outcome.intervals.get(quantity, (None, None))
            number = {"quantity": quantity, "value": value, "n": n, "ci_low": low, "ci_high": high}
            parts["rows"].append({**template, **number})
        parts["points"] += [{**template, **dataclasses.asdict(point)} for point in outcome.points]
    texts = [f'"settings": {json.dumps(settings, ensure_ascii=False)}']
    texts += [f'"{name}": {rows_as_json(lines).rstrip()}' for name, lines in parts.items()]
    return "{" + ",\n".join(texts) + "}\n"


def markdown_table(outcomes: Sequence[Outcome], factors: Sequence[Factor]) -> str:
    """One line a template: parameters with their intervals, and how well left-out runs are predicted; or why not."""
    names = ["A", *(EXPONENT[factor] for factor in factors), "E"]
    lines = []
    for outcome in outcomes:
        if outcome.law is None:
            cells = ["refused", *["–"] * (len(names) - 1), "–"]
        else:
            values = outcome.law.parameters()
            cells = ["{:.3g} ({:.3g} to {:.3g})".format(values[name], *outcome.intervals[name]) for name in names]
            cells.append(f"{outcome.left_out_error:.3f} ({outcome.left_out_error_of_mean:.3f})")
        lines.append((outcome.template, len(outcome.points), *cells))
    text = markdown(("template", "runs", *names, "error at a left-out run (of the mean)"), lines)
    for outcome in outcomes:
        if outcome.refusals:
            text += f"\nRefused: {outcome.template}\n"
            text += "".join(f"- {refusal.reason} [{refusal.code}]\n" for refusal in outcome.refusals)
    return text


def picture(outcomes: Sequence[Outcome], factors: Sequence[Factor]) -> str:
    """A self-contained SVG: a column a template, its law above and its residuals below.

    Args:
      factors: of the fit; the horizontal axis is data where it is one, and size where it is the only one.
    """
    along: Factor = "data" if "data" in factors else "size"
    colours = _colours(outcomes, _ACROSS[along])
    columns = min(len(outcomes), _COLUMNS)
    blocks = math.ceil(len(outcomes) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(2 * blocks, columns, height_ratios=[3.2, 1.0] * blocks)
        for number, outcome in enumerate(outcomes):
            row, column = divmod(number, columns)
            above = figure.add_subplot(grid[2 * row, column])
            below = figure.add_subplot(grid[2 * row + 1, column], sharex=above)
            _draw_law(above, outcome, along, colours, first=column == 0)
            _draw_residuals(below, outcome, along, colours, labelled=column == 0 or outcomes[number - 1].law is None)
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        labels = [label for level in colours if (label := _level_label(along, level)) in handles]
        figure.legend(
            [handles[label] for label in labels], labels, loc="outside lower center", ncols=min(len(labels), 8)
        )

    size = max(3.3 * columns, 6.0) + 0.6, 5.0 * blocks + 0.6
    return file_picture("scaling", size, draw, font_size=10)


def _draw_law(axes: Axes, outcome: Outcome, along: Factor, colours: _Colours, *, first: bool) -> None:
    levels = list(colours)
    shown = {levels[i] for i in np.unique(np.linspace(0, len(levels) - 1, _MOST_CURVES).round().astype(int))}
    for level in levels:
        mine = [point for point in outcome.points if getattr(point, _ACROSS[along]) == level]
        if not mine:
            continue
        mine.sort(key=lambda point: float(getattr(point, along)))
        at, losses = [getattr(p, along) for p in mine], [p.loss for p in mine]
        label = _level_label(along, level) if level in shown else None
        axes.errorbar(
            at, losses, yerr=[1.96 * p.error for p in mine], fmt="o", markersize=5, elinewidth=0.9, zorder=3,
            color=colours[level], markeredgecolor="white", markeredgewidth=0.6, label=label,
        )  # fmt: skip
        if outcome.law is None and len(mine) > 1:
            axes.plot(at, losses, color=colours[level], linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
        elif outcome.law is not None and level in shown:
            ends = [getattr(point, along) for point in outcome.points]
            grid = np.geomspace(min(ends) / 1.15, max(ends) * 1.15, 100)
            columns = [grid if factor == along else np.full(grid.size, float(level)) for factor in outcome.law.factors]
            law = outcome.law.predict(np.column_stack(columns))
            axes.plot(grid, law, color=colours[level], linewidth=1.5, zorder=2)
    axes.set(xscale="log", yscale="log", ylabel="loss, L" if first else "")
    axes.set_title(_title(outcome), fontsize=10, loc="left")
    axes.grid(which="major")
    axes.tick_params(which="both", length=0, labelbottom=False)
    # Plain numbers, and enough of them: losses seldom span a decade.
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_residuals(axes: Axes, outcome: Outcome, along: Factor, colours: _Colours, *, labelled: bool) -> None:
    axes.set(xscale="log", xlabel=_LABELS[along])
    axes.tick_params(which="both", length=0)
    used = sorted({getattr(point, along) for point in outcome.points})
    if len(used) <= _MOST_TICKS:
        axes.set_xticks(used)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if outcome.law is None:
        axes.text(
            0.02, 0.5, "refused:\n" + "\n".join(dict.fromkeys(r.code.replace("_", " ") for r in outcome.refusals)),
            transform=axes.transAxes, va="center", fontsize=8.5,
        )  # fmt: skip
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        return
    values = np.array([[getattr(p, factor) for factor in outcome.law.factors] for p in outcome.points], float)
    residuals = 100 * (np.log([p.loss for p in outcome.points]) - np.log(outcome.law.predict(values)))
    axes.axhline(0, color=FILE_INK, linewidth=0.8)
    axes.scatter(
        [getattr(p, along) for p in outcome.points], residuals, s=20, zorder=3, linewidths=0,
        color=[colours[getattr(p, _ACROSS[along])] for p in outcome.points],
    )  # fmt: skip
    reach = 1.25 * max(np.abs(residuals).max(), 1e-6)
    axes.set(ylim=(-reach, reach), ylabel="residual, %" if labelled else "")
    axes.grid(axis="y")


def _colours(outcomes: Sequence[Outcome], across: Factor) -> _Colours:
    """Dark for the smallest, light for the largest; the same in every column."""
    levels = sorted({getattr(point, across) for outcome in outcomes for point in outcome.points})
    return dict(zip(levels, mpl.colormaps["viridis"](np.linspace(0.0, 0.88, len(levels))), strict=True))


def _level_label(along: Factor, level: int) -> str:
    return f"{'X' if along == 'data' else 'D'} = {_short(level)}"


def _title(outcome: Outcome) -> str:
    template = outcome.template
    name = template.subset.removeprefix("family=")
    asked = "" if template.condition == "right" else f" ({template.condition})"
    head = f"{literal(name)}: {template.metric}{asked}"
    if outcome.law is None:
        return f"{head}\nno law"
    greek = {"alpha": "α", "beta": "β"}
    exponents = [f"{greek[name]} = {value:.2f}" for name, value in outcome.law.named_exponents().items()]
    return f"{head}\n{', '.join([*exponents, f'E = {outcome.law.irreducible:.2f}'])}"


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
