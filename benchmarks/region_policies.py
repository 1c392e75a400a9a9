"""Trains the tiny size on SLAKE under five region policies, three seeds each: what regions in training are worth.

    python benchmarks/region_policies.py --root DIR --out runs/policies
    python benchmarks/region_policies_table.py --out runs/policies --document docs/RESULTS.md

One run after the other, each a process of its own in OUT/POLICY_SEED, with its command in OUT/commands.txt. A run that
has its results is left alone, and one that was interrupted goes on, so the same line may be given again.

How a run is made: configs/slake_tiny.py with images of 56 pixels and no localise questions, a budget of STEPS steps of
32 for every policy, and for every family of questions the same share of shown regions. Asked with the right region,
none, and a wrong one of each kind of `data_pipelines/regions/policy.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STEPS = 1200
SEEDS = (0, 1, 2)
FAMILIES = {"vqa": 0.3, "identify": 0.4, "verify": 0.1, "choose": 0.2}


class Policy(NamedTuple):
    """How often a training example that has a region is shown one, and how many of the shown ones are wrong."""

    said: str
    shown: float
    wrong: float


POLICIES = {
    "never": Policy("never", 0.0, 0.0),
    "always": Policy("always", 1.0, 0.0),
    "third": Policy("one third", 1 / 3, 0.0),
    "third_wrong10": Policy("one third, 10 % of them wrong", 1 / 3, 0.1),
    "third_wrong30": Policy("one third, 30 % of them wrong", 1 / 3, 0.3),
}


def main() -> int:
    """The command line. Returns the exit status of the first run that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of SLAKE as published")
    parser.add_argument("--out", type=Path, required=True, help="the runs' folders are made in here")
    parser.add_argument("--before", default="", help="words in front of each command")
    parser.add_argument("--only", nargs="*", help="runs by their names, e.g. third_0")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed, name in itertools.product(SEEDS, POLICIES):
        workdir = options.out / f"{name}_{seed}"
        if (options.only and workdir.name not in options.only) or results_of(workdir):
            continue
        command = [*shlex.split(options.before), *command_of(workdir, POLICIES[name], seed, root=options.root)]
        with (options.out / "commands.txt").open("a", encoding="utf-8") as file:
            file.write(f"{shlex.join(command)}\n")
        began = time.time()
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        print(f"{workdir.name}: exit status {status} after {time.time() - began:.0f} s", flush=True)
        if status:
            return status
    return 0


def results_of(workdir: Path) -> Path | None:
    """The folder of a finished run's results."""
    folder = workdir / "eval" / str(STEPS)
    return folder if (folder / "report.html").exists() else None


def command_of(workdir: Path, policy: Policy, seed: int, *, root: str) -> list[str]:
    """The command line of one run."""
    settings = {
        "data.root": root,
        "data.validation_split": "",
        "data.families": json.dumps(FAMILIES),
        "data.policy.shown": policy.shown,
        "data.policy.shown_by_family": "{}",
        "data.policy.wrong": policy.wrong,
        "model.image_size": 56,
        "train.duration": f"{STEPS} steps",
        "train.checkpoint_every": "400 steps",
        "train.evaluate_every": "never",
        "train.compilation_cache": str(workdir.resolve().parent / "compiled"),
        "evaluation.families": ",".join(FAMILIES),
        "evaluation.conditions": "right,none,wrong",
        "evaluation.gallery": 0,
        "seed": seed,
    }
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    config = str(ROOT / "configs" / "slake_tiny.py")
    program = [sys.executable, "-m", "rllava_jax.main", "--config", config, "--workdir", str(workdir.resolve())]
    return [*program, *overrides]


if __name__ == "__main__":
    sys.exit(main())
