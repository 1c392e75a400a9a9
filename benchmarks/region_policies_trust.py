"""The region trust benchmark over the runs of benchmarks/region_policies.py, and its table for docs/TRUST.md.

    python benchmarks/region_policies_trust.py --runs runs/policies --boxes docs/trust/slake_test_boxes.jsonl.gz \\
        --root DIR --out runs/trust --document docs/TRUST.md

Asks every run of the three policies that show a region in one third of the questions (none, 10 % and 30 % of them
wrong) with the published boxes, where that is not done, and writes the means over the seeds, the least and greatest
seed beside them, and the trust curves of seed 0 as a picture.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from region_policies import POLICIES, SEEDS

from data_pipelines.core.atomic_files import write_atomically
from rllava_jax.evaluation.metrics import Row
from rllava_jax.evaluation.trust.results import curves_of, read_rows
from rllava_jax.report.line_plots import trust_picture

BEGIN, END = "<!-- made by benchmarks/region_policies_trust.py -->", "<!-- end -->"
PICTURE = "curves_of.svg"
ASKED = ("third", "third_wrong10", "third_wrong30")
# What is said, and (region, metric).
ROWS = {
    "**trust score**": ("trust", "trust_score"),
    "use": ("trust", "use"),
    "resistance": ("trust", "resistance"),
    "accuracy: right box": ("trust:right", "accuracy"),
    "no box": ("trust:none", "accuracy"),
    "shifted to IoU 0.75": ("trust:shifted:0.75", "accuracy"),
    "shifted to IoU 0.50": ("trust:shifted:0.50", "accuracy"),
    "shifted to IoU 0.25": ("trust:shifted:0.25", "accuracy"),
    "shifted to IoU 0": ("trust:shifted:0.00", "accuracy"),
    "grown to an IoU of 0.25": ("trust:scaled:4.00", "accuracy"),
    "shrunk to an IoU of 0.50": ("trust:scaled:0.50", "accuracy"),
    "another structure": ("trust:another", "accuracy"),
    "mirrored": ("trust:mirrored", "accuracy"),
    "random": ("trust:random", "accuracy"),
    "whole image": ("trust:whole", "accuracy"),
    "tiny": ("trust:tiny", "accuracy"),
    "contradicted by the text": ("trust:contradicted", "accuracy"),
    "lost to another structure": ("trust:another", "lost"),
    "lost to a mirrored box": ("trust:mirrored", "lost"),
    "lost to a random box": ("trust:random", "lost"),
    "lost to a contradicting text": ("trust:contradicted", "lost"),
    "another structure's name given": ("trust:another", "followed"),
    "… and given without a box": ("trust:another", "followed_anyway"),
    "the text's false name given": ("trust:contradicted", "followed"),
    "… and given without the text": ("trust:contradicted", "followed_anyway"),
    "mean confidence, right box": ("trust:right", "confidence"),
    "mean confidence, another structure": ("trust:another", "confidence"),
    "ECE, right box": ("trust:right", "ece_equal_mass"),
    "ECE, another structure": ("trust:another", "ece_equal_mass"),
    "AUROC of confidence, right box": ("trust:right", "auroc"),
    "AUROC of confidence, another structure": ("trust:another", "auroc"),
    "sure and wrong, another structure": ("trust:another", "confident_errors"),
}


def main() -> int:
    """The command line. Returns the exit status of the first run that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the policies' runs")
    parser.add_argument("--boxes", required=True, help="file of perturbed boxes")
    parser.add_argument("--root", required=True, help="folder of SLAKE as published")
    parser.add_argument("--out", type=Path, required=True, help="the answers' folders are made in here")
    parser.add_argument("--document", type=Path, help="put the table between its marks, and the picture beside it")
    options = parser.parse_args()
    found: dict[str, list[list[Row]]] = {}
    for policy in ASKED:
        for seed in SEEDS:
            out = options.out / f"{policy}_{seed}"
            if not (out / "metrics.json").exists():
                command = [sys.executable, "-m", "rllava_jax.trust", "run", "--checkpoint", options.runs / out.name]
                command += ["--boxes", options.boxes, "--root", options.root, "--out", out]
                if status := subprocess.run(command, check=False).returncode:
                    return status
            found.setdefault(policy, []).append(read_rows(out))
    text = table(found)
    if options.document:
        old = options.document.read_text()
        start = old.index(BEGIN) + len(BEGIN)
        write_atomically(options.document, f"{old[:start]}\n{text}\n{old[old.index(END, start) :]}")
        first = {POLICIES[policy].said: runs[0] for policy, runs in found.items()}
        write_atomically(options.document.parent / PICTURE, trust_picture(*curves_of(first)))
    print(text)
    return 0


def table(found: dict[str, list[list[Row]]]) -> str:
    """Figures down, policies across: mean over the seeds (least to greatest seed), in percent; n of seed 0."""
    names = " | ".join(POLICIES[policy].said for policy in found)
    lines = [f"| | n | {names} |", f"|:--|--:|{'--:|' * len(found)}"]
    for said, (condition, metric) in ROWS.items():
        cells, n = [], 0
        for runs in found.values():
            held = [
                row
                for rows in runs
                for row in rows
                if (row["subset"], row["condition"], row["metric"]) == ("all", condition, metric)
            ]
            values = [100 * row["value"] for row in held]
            n = n or held[0]["n"]
            cells.append(f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        lines.append(f"| {said} | {n:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
