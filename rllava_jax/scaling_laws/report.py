"""What a fit of scaling laws says: scaling.json, and a table to print."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rllava_jax.evaluation.results import markdown
from rllava_jax.scaling_laws.fit import Factor, Law
from rllava_jax.scaling_laws.points import FitTarget, Point
from rllava_jax.scaling_laws.refusals import Refusal


@dataclass(frozen=True)
class Outcome:
    """A template's fit or refusal.

    Attributes:
      law: None where the fit was refused.
      intervals: 95 % intervals of the law's parameters, by name.
      left_out_error: mean absolute error at a run that the law was not fitted to; `_of_mean`, when that run's loss is
        guessed as the mean of the others.
      residual: root mean square of the residuals of log L.
    """

    template: FitTarget
    points: tuple[Point, ...]
    refusals: tuple[Refusal, ...] = ()
    law: Law | None = None
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    left_out_error: float = 0.0
    left_out_error_of_mean: float = 0.0
    residual: float = 0.0


def as_json(outcomes: Sequence[Outcome], settings: Mapping[str, Any]) -> str:
    """The content of scaling.json.

    {"settings": {…},
     "fits":   [{dataset, split, subset, condition, metric, fitted, refusals: [{code, reason}]}],
     "rows":   [{dataset, split, subset, condition, metric, quantity, value, n, ci_low, ci_high}],
     "points": [{dataset, split, subset, condition, metric, run, step, size, data, loss, error, n}]}

    quantity: A, alpha, beta, E, log_residual, left_out_error, left_out_error_of_mean. n is the number of runs in a row
    and of questions in a point.
    """
    fits, rows, points = [], [], []
    for outcome in outcomes:
        template = outcome.template._asdict()
        reasons = [refusal._asdict() for refusal in outcome.refusals]
        fits.append({**template, "fitted": outcome.law is not None, "refusals": reasons})
        for quantity, value in _quantities(outcome).items():
            low, high = outcome.intervals.get(quantity, (None, None))
            number = {"quantity": quantity, "value": value, "n": len(outcome.points), "ci_low": low, "ci_high": high}
            rows.append({**template, **number})
        points += [{**template, **dataclasses.asdict(point)} for point in outcome.points]
    parts = {"fits": fits, "rows": rows, "points": points}
    texts = [f'"settings": {json.dumps(settings, ensure_ascii=False)}']
    for name, lines in parts.items():
        one_a_line = ",\n".join(json.dumps(line, allow_nan=False, ensure_ascii=False) for line in lines)
        texts.append(f'"{name}": [\n{one_a_line}\n]')
    return "{" + ",\n".join(texts) + "}\n"


def _quantities(outcome: Outcome) -> dict[str, float]:
    if outcome.law is None:
        return {}
    return {
        **outcome.law.parameters(),
        "log_residual": outcome.residual,
        "left_out_error": outcome.left_out_error,
        "left_out_error_of_mean": outcome.left_out_error_of_mean,
    }


def markdown_table(outcomes: Sequence[Outcome], factors: Sequence[Factor]) -> str:
    """One line a template: parameters with their intervals, and how well left-out runs are predicted; or why not."""
    names = ["A", *(name for factor, name in (("size", "alpha"), ("data", "beta")) if factor in factors), "E"]
    lines = []
    for outcome in outcomes:
        if outcome.law is None:
            cells = ["refused", *["–"] * (len(names) - 1), "–"]
        else:
            values = outcome.law.parameters()
            cells = [f"{values[name]:.3g} ({_interval(outcome.intervals[name])})" for name in names]
            cells.append(f"{outcome.left_out_error:.3f} ({outcome.left_out_error_of_mean:.3f})")
        lines.append((outcome.template, len(outcome.points), *cells))
    text = markdown(("template", "runs", *names, "error at a left-out run (of the mean)"), lines)
    for outcome in outcomes:
        if outcome.refusals:
            text += f"\nRefused: {outcome.template}\n"
            text += "".join(f"- {refusal.reason} [{refusal.code}]\n" for refusal in outcome.refusals)
    return text


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"
