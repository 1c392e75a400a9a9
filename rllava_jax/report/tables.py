"""The tables of the report, as accessible HTML. Values are in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from rllava_jax.evaluation.metrics import CONDITIONS, PAIRS, Row, metrics_of
from rllava_jax.report.condition_names import condition_name

# (subset, region, metric) of one data set's split.
RowIndex = Mapping[tuple[str, str, str], Row]

CHANCE = {
    "family=verify": 0.5,
    "family=choose": 0.25,
}  # a uniform guess; what the words alone give is in docs/RESULTS.md

_SUBSET_NAMES = {
    "family=identify": ("Identify", "what is the marked structure?"),
    "family=verify": ("Verify", "is the marked structure the X? A uniform guess: 50 %"),
    "family=choose": ("Choose", "which of four is marked? A uniform guess: 25 %"),
    "family=localise": ("Localise", "box of a named structure"),
    "has_region=yes": ("Ordinary, with a region", "questions of the data set that have one"),
    "family=vqa": ("Ordinary, all", "region shown only where the question has one"),
    "answer_type=closed": ("Closed", "every closed question, yes/no or not"),
    "answer_type=yes_no": ("Closed, yes/no", "those whose reference is yes or no"),
    "answer_type=open": ("Open", ""),
    "all": ("All questions", "all families together"),
}
_METRIC_NAMES = {
    "accuracy": "accuracy",
    "accuracy@0.5": "IoU of at least 0.5",
    "iou": "mean IoU",
    "exact_match": "exact match",
    "recall": "token recall",
    "precision": "token precision",
    "f1": "token F1",
    "confidence": "mean confidence",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "auroc": "AUROC of confidence",
}


def subset_name(subset: str) -> str:
    """What a reader calls a subset: `content_type=Organ` is "Organ"."""
    return _SUBSET_NAMES[subset][0] if subset in _SUBSET_NAMES else subset.partition("=")[2]


def metric_name(metric: str) -> str:
    """ "f1" is "token F1"; a name that is not known stays as it is."""
    return _METRIC_NAMES.get(metric, metric)


def score_table(
    caption: str,
    index: RowIndex,
    subsets: Iterable[str],
    *,
    differences: bool,
    conditions: Sequence[str] = CONDITIONS,
) -> str:
    """Subsets (a line for each metric) down, conditions across, the paired differences after them if wanted."""
    shown = [s for s in subsets if any(key[0] == s for key in index)]
    cells_of = [(s, m) for s in shown for m in metrics_of(s)]
    conditions = [c for c in conditions if any((s, c, m) in index for s, m in cells_of)]
    pairs = [f"{p.first}-{p.second}" for p in PAIRS if differences]
    pairs = [p for p in pairs if any((s, p, m) in index for s, m in cells_of)]
    heads = [_condition_head(c) for c in conditions] + [_head(p.replace("-", " − ")) for p in pairs]
    lines = []
    for subset, metric in cells_of:
        held = [index[subset, c, metric] for c in conditions if (subset, c, metric) in index]
        counts = {row["n"] for row in held}
        cells = [value_cell(index.get((subset, c, metric)), own_n=len(counts) > 1) for c in conditions]
        cells += [_difference_cell(index.get((subset, p, metric))) for p in pairs]
        n = f"{counts.pop():,}" if len(counts) == 1 else ""
        lines.append(f"<tr>{_subset_head(subset, metric)}<td>{n}</td>{''.join(cells)}</tr>")
    return table_html(caption, [_head("Questions"), _head("n"), *heads], lines) if lines else ""


def wrong_kind_table(caption: str, index: RowIndex, subsets: Iterable[str]) -> str:
    """Subsets down, kinds of wrong region across; each cell with its own n."""
    kinds = sorted({region for _, region, _ in index if region.startswith("wrong:")})
    lines = []
    for subset in subsets:
        metric = metrics_of(subset)[0]
        if any((subset, kind, metric) in index for kind in kinds):
            cells = [value_cell(index.get((subset, kind, metric)), own_n=True) for kind in kinds]
            lines.append(f"<tr>{_subset_head(subset, metric)}{''.join(cells)}</tr>")
    heads = [_head("Questions"), *(_head(kind.removeprefix("wrong:").capitalize()) for kind in kinds)]
    return table_html(caption, heads, lines) if lines else ""


def calibration_table(caption: str, index: RowIndex, subsets: Iterable[str]) -> str:
    """Conditions down, grouped by subset; confidence, accuracy and the calibration metrics across."""
    metrics = ("confidence", "accuracy", "ece", "brier", "auroc")
    lines = []
    for subset in subsets:
        own = metrics_of(subset)[0]
        names = [own if m == "accuracy" else m for m in metrics]
        held = [c for c in CONDITIONS if (subset, c, "confidence") in index]
        if held:
            span = len(metrics) + 1
            lines.append(
                f'<tr class="group"><th colspan="{span}" scope="rowgroup">{escape(subset_name(subset))}</th></tr>'
            )
        for c in held:
            cells = "".join(value_cell(index.get((subset, c, name)), own_n=False) for name in names)
            lines.append(f'<tr><th scope="row"><i class="key {c}"></i>{escape(condition_name(c))}</th>{cells}</tr>')
    heads = [_head("Condition"), *(_head(_METRIC_NAMES[m].capitalize().replace("(ece)", "(ECE)")) for m in metrics)]
    heads[-1] = _head("AUROC of confidence")
    return table_html(caption, heads, lines) if lines else ""


def facts_table(facts: Mapping[str, object]) -> str:
    """Names and values of a run, nested ones under dotted names."""
    lines = [
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td><code>{escape(str(value))}</code></td></tr>'
        for name, value in _flat(facts)
    ]
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def percent(value: float) -> str:
    """0.8412 is "84.1"."""
    return f"{100 * value:.1f}"


def interval_text(row: Row) -> str:
    """ "79.2 to 88.6", or "" where there is no interval."""
    if row["ci_low"] is None or row["ci_high"] is None:
        return ""
    return f"{minus(percent(row['ci_low']))} to {minus(percent(row['ci_high']))}"


def _flat(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def table_html(caption: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table in a panel of its own, which a narrow screen scrolls; heads and lines are HTML."""
    return (
        f'<div class="panel" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _head(text: str) -> str:
    return f'<th scope="col">{escape(text)}</th>'


def _condition_head(condition: str) -> str:
    key = f'<i class="key {condition}"></i>' if condition in CONDITIONS else ""
    return f'<th scope="col">{key}{escape(condition_name(condition))}</th>'


def _subset_head(subset: str, metric: str) -> str:
    _, explanation = _SUBSET_NAMES.get(subset, ("", ""))
    detail = "; ".join(text for text in (explanation, "" if metric == "accuracy" else _METRIC_NAMES[metric]) if text)
    return f'<th scope="row">{escape(subset_name(subset))}<small>{escape(detail)}</small></th>'


def value_cell(row: Row | None, *, own_n: bool) -> str:
    """A percentage over its interval."""
    if row is None:
        return "<td>–</td>"
    n = f"<small>n {row['n']:,}</small>" if own_n else ""
    return f"<td>{percent(row['value'])}<small>{interval_text(row)}</small>{n}</td>"


def _difference_cell(row: Row | None) -> str:
    """A signed difference, in bold where its interval leaves zero out."""
    if row is None:
        return "<td>–</td>"
    low, high = row["ci_low"], row["ci_high"]
    clear = low is not None and high is not None and (low > 0 or high < 0)
    text = minus(f"{100 * row['value']:+.1f}")
    mark = ' class="clear"' if clear else ""
    return f"<td{mark}>{text}<small>{interval_text(row)}</small></td>"


def minus(number: str) -> str:
    """With a minus sign in place of a hyphen."""
    return number.replace("-", "−")
