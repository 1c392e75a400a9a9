"""The tables of a page, as data: `templates/macros.html` shows them. Values are in percent."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rllava_jax.evaluation.metrics import CONDITIONS, CONTRASTS, Contrast, Row, metrics_of
from rllava_jax.evaluation.paired import ComparisonRow
from rllava_jax.report.names import condition_name, interval_text, minus, percent, subset_detail, subset_name

_CALIBRATION = ("Condition", "Mean confidence", "Accuracy", "Calibration error (ECE)", "Brier score",
                "AUROC of confidence")  # fmt: skip

# (subset, condition, metric) of one data set's split.
RowIndex = Mapping[tuple[str, str, str], Row]


class Cell(NamedTuple):
    """Attributes:
    small: lines below the text, "" for none.
    mark: CSS class.
    key: the condition whose colour stands before the text.
    """

    text: str
    small: tuple[str, ...] = ()
    mark: str = ""
    key: str = ""


class PageTable(NamedTuple):
    """A line's first cell is its heading; a cell that is alone in its line is the heading of those below."""

    caption: str
    heads: Sequence[Cell]
    lines: Sequence[Sequence[Cell]]


class Tile(NamedTuple):
    """A figure in large letters over its interval.

    Attributes:
      mark: CSS class.
      meaning: a line below.
    """

    name: str
    row: Row
    mark: str = ""
    meaning: str = ""


def index_of(rows: Iterable[Row], dataset: str, split: str) -> RowIndex:
    """The rows of one data set's split."""
    return {
        (r["subset"], r["condition"], r["metric"]): r for r in rows if (r["dataset"], r["split"]) == (dataset, split)
    }


def score_table(
    caption: str,
    index: RowIndex,
    subsets: Iterable[str],
    *,
    conditions: Sequence[str] = CONDITIONS,
    pairs: Sequence[Contrast] = CONTRASTS,
    main_metric_only: bool = False,
) -> PageTable | None:
    """Subsets (a line for each metric) down, conditions across, the paired differences after them; None if empty."""
    lines_of = [(s, m) for s in subsets for m in metrics_of(s)[: 1 if main_metric_only else None]]
    conditions = [c for c in conditions if any((s, c, m) in index for s, m in lines_of)]
    lines_of = [(s, m) for s, m in lines_of if any((s, c, m) in index for c in conditions)]
    differences = [f"{p.first}-{p.second}" for p in pairs]
    differences = [d for d in differences if any((s, d, m) in index for s, m in lines_of)]
    lines = []
    for subset, metric in lines_of:
        counts = {index[subset, c, metric]["n"] for c in conditions if (subset, c, metric) in index}
        n = f"{counts.pop():,}" if len(counts) == 1 else ""
        cells = [value_cell(index.get((subset, c, metric)), own_n=not n) for c in conditions]
        for d in differences:
            row = index.get((subset, d, metric))
            cells.append(signed_cell(row["value"], row) if row else Cell("–"))
        lines.append([Cell(subset_name(subset), (subset_detail(subset, metric),)), Cell(n), *cells])
    heads = [Cell(condition_name(c), key=c if c in CONDITIONS else "") for c in conditions]
    heads += [Cell(d.capitalize().replace("-", " − ")) for d in differences]
    return PageTable(caption, [Cell("Questions"), Cell("n"), *heads], lines) if lines else None


def calibration_table(caption: str, index: RowIndex, subsets: Iterable[str]) -> PageTable:
    """Conditions down, grouped by subset; confidence, accuracy and the calibration metrics across."""
    lines = []
    for subset in subsets:
        metrics = ("confidence", metrics_of(subset)[0], "ece", "brier", "auroc")
        held = [c for c in CONDITIONS if (subset, c, "confidence") in index]
        lines += [[Cell(subset_name(subset))]] * bool(held)
        lines += [
            [Cell(condition_name(c), key=c), *(value_cell(index.get((subset, c, m))) for m in metrics)] for c in held
        ]
    return PageTable(caption, [*map(Cell, _CALIBRATION)], lines)


def value_cell(row: Row | None, *, own_n: bool = False) -> Cell:
    """A percentage over its interval."""
    if row is None:
        return Cell("–")
    return Cell(percent(row["value"]), (interval_text(row), f"n {row['n']:,}" if own_n else ""))


def signed_cell(value: float, row: Row | ComparisonRow) -> Cell:
    """A signed difference, in bold where the row's interval leaves zero out."""
    clear = row["ci_low"] is not None and row["ci_high"] is not None and (row["ci_low"] > 0 or row["ci_high"] < 0)
    return Cell(minus(f"{100 * value:+.1f}"), (interval_text(row),), "clear" if clear else "")


def flat(facts: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Names and values of a run, nested ones under dotted names."""
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
