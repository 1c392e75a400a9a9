"""What a fit of scaling laws says: scaling.json, and a table to print."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rllava_jax.evaluation.results import markdown, rows_as_json
from rllava_jax.scaling_laws.fit import EXPONENT, Factor
from rllava_jax.scaling_laws.refusals import Outcome

_MEASURED = ("log_residual", "left_out_error", "left_out_error_of_mean")


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
