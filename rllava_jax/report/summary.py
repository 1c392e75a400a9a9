"""A run's figures as a Markdown table and a picture, for a paper or a README.

python -m rllava_jax.report.summary runs/demo/eval/500 --subsets family=identify,family=choose --picture bars.svg
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import Parser, file_or_folder, run_command, words
from data_pipelines.core.errors import UnknownName
from data_pipelines.core.paths import path_of
from rllava_jax.evaluation.metrics import CONDITIONS, HEADLINE, Row, metrics_of
from rllava_jax.evaluation.results import METRICS_FILE, markdown_table, read_rows
from rllava_jax.report.names import subset_name
from rllava_jax.report.plots import grouped_bars

_CHANCE = {"family=verify": 0.5, "family=choose": 0.25}  # a uniform guess; what words alone give is in docs/RESULTS.md


def headline_bars(rows: Sequence[Row], subsets: Sequence[str] = HEADLINE) -> str:
    """Accuracy under each condition, as SVG; subsets that the rows lack are left out."""
    names = {subset: subset_name(subset).replace(", ", ",\n") for subset in subsets}
    bars: dict[str, dict[str, Row]] = {name: {} for name in names.values()}
    for row in rows:
        subset, condition = row["subset"], row["condition"]
        if subset in names and row["metric"] == metrics_of(subset)[0] and condition in CONDITIONS:
            bars[names[subset]][condition] = row
    chance = {names[subset]: share for subset, share in _CHANCE.items() if subset in names}
    return grouped_bars({name: held for name, held in bars.items() if held}, chance=chance)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 where the folder holds no results or not the subsets."""
    return run_command(_parser(), _summarise, argv)


def _summarise(options: argparse.Namespace) -> None:
    path = path_of(options.folder) / METRICS_FILE
    rows = read_rows(path, remedy="give a run's eval/STEP folder")
    known = list(dict.fromkeys(row["subset"] for row in rows))
    subsets = list(options.subsets) or [subset for subset in HEADLINE if subset in known]
    if missing := [subset for subset in subsets if subset not in known]:
        raise UnknownName(f"--subsets: {path} has no {', '.join(missing)}; it has {', '.join(known)}")
    metrics = options.metrics or {row["metric"] for row in rows}
    chosen = [row for row in rows if row["subset"] in subsets and row["metric"] in metrics]
    print(markdown_table(sorted(chosen, key=lambda row: subsets.index(row["subset"]))), end="")
    if options.picture:
        write_atomically(path_of(options.picture), headline_bars(rows, subsets) + "\n")


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.report.summary", description=__doc__)
    parser.add_argument("folder", type=file_or_folder, metavar="DIR", help="a run's eval/STEP folder")
    names: dict[str, Any] = {"type": words, "default": (), "metavar": "A,B"}
    parser.add_argument("--subsets", help="e.g. family=identify,answer_type=closed (default: headline)", **names)
    parser.add_argument("--metrics", help="e.g. accuracy,f1 (default: all)", **names)
    parser.add_argument("--picture", type=file_or_folder, metavar="FILE", help="also write a bar plot as SVG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
