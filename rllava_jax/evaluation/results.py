"""The two result files of an evaluation, written and read, and its numbers as a Markdown table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.paths import path_of
from data_pipelines.core.schemas import file_as
from rllava_jax.evaluation.metrics import CONDITIONS, Row, scores_of
from rllava_jax.evaluation.predictions import Prediction, to_json

METRICS_FILE = "metrics.json"


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """A JSON list, one row a line."""
    one_per_line = ",\n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in rows)
    return f"[\n{one_per_line}\n]\n"


def json_lines(lines: Iterable[Mapping[str, Any]]) -> str:
    """JSON Lines, an object each."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    return "".join(f"{encode(line)}\n" for line in lines)


def write_results(folder: str | Path, rows: Sequence[Row], predictions: Iterable[Prediction]) -> None:
    """Writes metrics.json (a list of rows) and predictions.jsonl (one question and condition a line, with its scores).

    Each file appears whole or not at all; an interrupted run leaves the older one in place.
    """
    folder = path_of(folder)
    write_rows(folder, rows)
    lines = ({**to_json(p), "scores": scores_of(p)} for p in predictions)
    write_atomically(folder / "predictions.jsonl", json_lines(lines))


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Writes `metrics.json`: a list, one row a line; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / METRICS_FILE, rows_as_json(rows))


def read_rows(path: Path, *, remedy: str = "evaluate the run again") -> list[Row]:
    """The rows of a metrics.json.

    Raises:
      DataError: the file cannot be read, or holds something else.
    """
    return file_as(list[Row], path, remedy=remedy)


def markdown_table(rows: Sequence[Row], *, conditions: Sequence[str] = CONDITIONS) -> str:
    """Subsets and metrics down, conditions across, in percent with 95 % intervals.

    n is that of the conditions; where they differ each cell names its own.

    Args:
      conditions: those to show, as far as there are any; () is all of them, in the order of the rows.
    """
    found = dict.fromkeys(row["condition"] for row in rows)
    shown = [condition for condition in conditions or found if condition in found]
    cells: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["condition"] in shown:
            key = (row["dataset"], row["split"], row["subset"], row["metric"])
            cells.setdefault(key, {})[row["condition"]] = row
    several = len({key[:2] for key in cells}) > 1
    lines = []
    for (dataset, split, subset, metric), by_condition in cells.items():
        counts = {row["n"] for row in by_condition.values()}
        name = f"{dataset} {split}, {subset}" if several else subset
        held = [by_condition.get(r) for r in shown]
        values = [in_percent(row) + (f", n {row['n']}" if row and len(counts) > 1 else "") for row in held]
        lines.append((name, metric, counts.pop() if len(counts) == 1 else "–", *values))
    return markdown(("questions", "metric", "n", *(condition or "score" for condition in shown)), lines, words=2)


def markdown(heads: Sequence[str], lines: Iterable[Sequence[object]], *, words: int = 1) -> str:
    """A Markdown table; each cell on one line, its bars escaped. The first columns hold `words`, the others numbers."""
    ruler = f"|{':--|' * words}{'--:|' * (len(heads) - words)}"
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in (heads, *lines)]
    head, *rest = (f"| {' | '.join(line)} |\n" for line in cells)
    return "".join((head, ruler, "\n", *rest))


def in_percent(row: Row | None) -> str:
    """A row's value with its interval, for people; a dash where there is no row."""
    if row is None:
        return "–"
    text = f"{100 * row['value']:.1f}"
    if row["ci_low"] is not None and row["ci_high"] is not None:
        text += f" ({100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f})"
    return text
