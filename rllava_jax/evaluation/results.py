"""The two result files of an evaluation, and its numbers as a Markdown table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.paths import path_of
from rllava_jax.evaluation.metrics import CONDITIONS, Row, scores_of
from rllava_jax.evaluation.predictions import Prediction, to_json


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
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "metrics.json", rows_as_json(rows))
    lines = ({**to_json(p), "scores": scores_of(p)} for p in predictions)
    write_atomically(folder / "predictions.jsonl", json_lines(lines))


def markdown_table(rows: Sequence[Row], *, conditions: Sequence[str] = CONDITIONS) -> str:
    """Subsets and metrics down, conditions across, in percent with 95 % intervals.

    n is that of the conditions; where they differ each cell names its own.
    """
    shown = [r for r in conditions if any(row["condition"] == r for row in rows)]
    cells: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["condition"] in shown:
            key = (row["dataset"], row["split"], row["subset"], row["metric"])
            cells.setdefault(key, {})[row["condition"]] = row
    several = len({key[:2] for key in cells}) > 1
    lines = [
        f"| questions | metric | n | {' | '.join(map(markdown_text, shown))} |",
        f"|:--|:--|--:|{'--:|' * len(shown)}",
    ]
    for (dataset, split, subset, metric), by_condition in cells.items():
        counts = {row["n"] for row in by_condition.values()}
        values = [_markdown_cell(by_condition.get(r), own_n=len(counts) > 1) for r in shown]
        name = f"{dataset} {split}, {subset}" if several else subset
        n = str(counts.pop()) if len(counts) == 1 else "–"
        lines.append(f"| {markdown_text(name)} | {metric} | {n} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """A text as one cell of a Markdown table: on one line, its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def _markdown_cell(row: Row | None, *, own_n: bool) -> str:
    if row is None:
        return "–"
    text = f"{100 * row['value']:.1f}"
    if row["ci_low"] is not None and row["ci_high"] is not None:
        text += f" ({100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f})"
    return f"{text}, n {row['n']}" if own_n else text
