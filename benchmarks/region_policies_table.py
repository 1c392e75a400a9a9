"""The table and the picture of the runs that benchmarks/region_policies.py trained.

    python benchmarks/region_policies_table.py --out runs/policies --document docs/RESULTS.md

A question's score is its mean over the seeds; a figure is the mean of those over the questions, with a 95 % interval
from drawing whole test images. The least and greatest seed stand beside it: with three seeds an interval over seeds
would say little. Differences are taken question by question.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from region_policies import POLICIES, SEEDS, results_of

from data_pipelines.core.atomic_files import write_atomically
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.intervals import Interval, mean_interval
from rllava_jax.evaluation.predictions import read_predictions

BEGIN, END = "<!-- made by benchmarks/region_policies_table.py -->", "<!-- end -->"
PICTURE = "region_policies.svg"
SUBSETS = {
    "identify": "what is the marked structure?",
    "choose": "which of four is marked?",
    "verify": "is the marked structure the X?",
    "with a region": "ordinary questions that have a region",
    "vqa": "ordinary questions, all",
}
CONDITIONS = ("right", "none", "wrong")
COLOURS = {"right": "#009e73", "none": "#8b94a3", "wrong": "#d55e00"}
# (first, second): each minus the other, in the subset.
AGAINST = "third"

# question → mean score over the seeds; and its image.
Scores = dict[str, float]


class Cell(NamedTuple):
    """A policy's accuracy on a subset under a condition."""

    scores: Scores
    by_seed: tuple[float, ...]

    @property
    def value(self) -> float:
        return float(np.mean(list(self.scores.values())))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the runs' folders are in here")
    parser.add_argument("--document", type=Path, help="put the tables between its marks, and the picture beside it")
    parser.add_argument("--resamples", type=int, default=1000, help="behind each interval (default: 1000)")
    options = parser.parse_args()
    cells, images = read(options.out)
    text = "\n\n".join(
        (accuracy_table(cells, images, options.resamples), difference_table(cells, images, options.resamples))
    )
    if options.document:
        put_into(options.document, text)
        write_atomically(options.document.parent / PICTURE, picture(cells, images, options.resamples))
    print(text)
    return 0


def read(out: Path) -> tuple[dict[tuple[str, str, str], Cell], dict[str, str]]:
    """(policy, subset, condition) → Cell, and each question's image."""
    found: dict[tuple[str, str, str], list[Scores]] = defaultdict(list)
    images: dict[str, str] = {}
    for policy in POLICIES:
        for seed in SEEDS:
            folder = results_of(out / f"{policy}_{seed}")
            if folder is None:
                raise SystemExit(f"error: {out / f'{policy}_{seed}'}: is not finished; train it first")
            of_seed: dict[tuple[str, str, str], Scores] = defaultdict(dict)
            for p in read_predictions(folder / "predictions.jsonl"):
                images[p.id] = p.image_id
                right = is_right(p)
                of_seed[policy, p.family, p.condition][p.id] = right
                if p.family == "vqa" and p.right_boxes:
                    of_seed[policy, "with a region", p.condition][p.id] = right
            for key, scores in of_seed.items():
                found[key].append(scores)
    return {key: _cell(seeds) for key, seeds in found.items()}, images


def _cell(seeds: list[Scores]) -> Cell:
    mean = {name: float(np.mean([scores[name] for scores in seeds])) for name in seeds[0]}
    return Cell(mean, tuple(float(np.mean(list(scores.values()))) for scores in seeds))


def accuracy_table(cells: dict[tuple[str, str, str], Cell], images: dict[str, str], resamples: int) -> str:
    """Policies down within each subset, conditions across."""
    lines = ["| questions (n) | regions in training | right | none | wrong |", "|:--|:--|--:|--:|--:|"]
    for subset, said in SUBSETS.items():
        for policy, meant in POLICIES.items():
            shown = [_text(cells[policy, subset, c], images, resamples) for c in CONDITIONS]
            count = len(cells[policy, subset, "right"].scores)
            lines.append(f"| {said} ({count}) | {meant.said} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _text(cell: Cell, images: dict[str, str], resamples: int) -> str:
    low, high = interval(cell.scores, images, resamples)
    seeds = f"{100 * min(cell.by_seed):.1f}–{100 * max(cell.by_seed):.1f}"
    return f"{100 * cell.value:.1f} ({100 * low:.1f} to {100 * high:.1f}); {seeds}"


def difference_table(cells: dict[tuple[str, str, str], Cell], images: dict[str, str], resamples: int) -> str:
    """Each policy minus one third without wrong ones, on the same questions."""
    lines = [f"| questions | minus “{POLICIES[AGAINST].said}” | right | none | wrong |", "|:--|:--|--:|--:|--:|"]
    for subset, said in SUBSETS.items():
        for policy, meant in POLICIES.items():
            if policy == AGAINST:
                continue
            shown = []
            for c in CONDITIONS:
                base = cells[AGAINST, subset, c].scores
                change = {name: value - base[name] for name, value in cells[policy, subset, c].scores.items()}
                low, high = interval(change, images, resamples, bounds=(-1.0, 1.0))
                text = f"{100 * np.mean(list(change.values())):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                shown.append(f"**{text}**" if low > 0 or high < 0 else text)
            lines.append(f"| {said} | {meant.said} | {' | '.join(shown)} |")
    return "\n".join(lines)


def interval(
    scores: Scores, images: dict[str, str], resamples: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """95 %, by image."""
    values = np.array(list(scores.values()))
    found = mean_interval(values, [images[name] for name in scores], resamples=resamples, seed=0, bounds=bounds)
    assert found is not None
    return found


def picture(cells: dict[tuple[str, str, str], Cell], images: dict[str, str], resamples: int) -> str:
    """One panel a subset: policies across, a bar with its interval a condition, a dot a seed."""
    shown = ("identify", "choose", "with a region", "vqa")
    with mpl.rc_context({"svg.hashsalt": "policies", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10, 6.4), layout="constrained", facecolor="white")
        for panel, subset in zip(figure.subplots(2, 2).flat, shown, strict=True):
            for c, condition in enumerate(CONDITIONS):
                for p, policy in enumerate(POLICIES):
                    cell, at = cells[policy, subset, condition], p + 0.27 * (c - 1)
                    low, high = interval(cell.scores, images, resamples)
                    label = f"{condition} region" if condition != "none" else "no region"
                    panel.bar(at, 100 * cell.value, 0.25, color=COLOURS[condition], label=label if p == 0 else None)
                    panel.vlines(at, 100 * low, 100 * high, color="#222", linewidth=1.2)
                    dots = [100 * value for value in cell.by_seed]
                    panel.scatter([at] * len(dots), dots, s=9, color="white", edgecolor="#222", linewidth=0.7, zorder=3)
            panel.set_xticks(range(len(POLICIES)), ["never", "always", "1/3", "1/3, 10 %\nwrong", "1/3, 30 %\nwrong"])
            panel.set(title=SUBSETS[subset], ylim=(0, 100))
            panel.title.set_fontsize(10)
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(length=0, labelsize=9)
            panel.grid(axis="y", linewidth=0.5, color="#ddd")
            panel.set_axisbelow(True)
        handles, labels = panel.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        figure.supylabel("accuracy, %", fontsize=10)
        figure.supxlabel("regions in training", fontsize=10)
        buffer = io.StringIO()
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def put_into(path: Path, text: str) -> None:
    """Replaces what stands between the document's marks."""
    old = path.read_text()
    start = old.index(BEGIN) + len(BEGIN)
    write_atomically(path, f"{old[:start]}\n{text}\n{old[old.index(END, start) :]}")


if __name__ == "__main__":
    raise SystemExit(main())
