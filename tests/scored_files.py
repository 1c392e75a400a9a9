"""Files of answers, and what `python -m rllava_jax.evaluate` made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


class Scores:
    """What one call wrote and printed."""

    def __init__(self, folder: Path, err: str = "") -> None:
        self.rows = json.loads((folder / "scores.json").read_text())
        self.about = json.loads((folder / "about.json").read_text())
        self.scored = [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
        self.err = err

    def __getitem__(self, key: str) -> tuple[float, int]:
        subset, metric = key.rsplit("/", 1)
        (row,) = [r for r in self.rows if (r["subset"], r["metric"]) == (subset, metric)]
        return row["value"], row["n"]

    def found(self, words: str) -> int:
        """How many of what `words` begin to describe."""
        return sum(count for what, count in self.about["found"].items() if what.startswith(words))
