"""Trains the tiny runs on SLAKE that docs/SCALING_LAW.md fits: four widths, three durations and more, seed 0.

    python benchmarks/scaling_runs.py --root DIR --out runs/scaling
    python -m rllava_jax.scaling runs/scaling/w* --out runs/scaling/fit

One run after the other, each a process of its own in OUT/wWIDTH_sSTEPS, with its command in OUT/commands.txt. A run
that has its results is left alone, and one that was interrupted goes on, so the same line may be given again.
`--before` puts words in front of each command: `--before "nice -n 19"`, or a lock that other work takes too.

How a run is made: configs/slake_tiny.py with images of 56 pixels, no localise questions, and the width of the vision
tower and of the decoder scaled together (feed-forward three times as wide, two heads, four and two layers as in the
tiny size). Each duration has its own whole schedule of the learning rate: a longer run's intermediate checkpoint would
not have ended its decay. The learning rate is the same for all widths. Asked with the right region alone.
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

from rllava_jax.model.sizes import SIZES, dimensions_of

ROOT = Path(__file__).parents[1]
WIDTHS = (16, 32, 64, 128)
STEPS = (80, 220, 600)
LONGER = ((16, 1800), (32, 1800))  # the narrowest ones, which have hardly begun to answer after the shorter ones
FAMILIES = ("vqa", "identify", "verify", "choose")
WEIGHTS = {"vqa": 0.3, "identify": 0.4, "verify": 0.15, "choose": 0.15}
SEED = 0


def main() -> int:
    """The command line. Returns the exit status of the first run that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of SLAKE as published")
    parser.add_argument("--out", type=Path, required=True, help="the runs' folders are made in here")
    parser.add_argument("--before", default="", help="words in front of each command")
    parser.add_argument("--only", help="one run by its name, e.g. w32_s220")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for width, steps in (*itertools.product(WIDTHS, STEPS), *LONGER):
        name = f"w{width}_s{steps}"
        workdir = options.out / name
        if (options.only and options.only != name) or (workdir / "eval" / str(steps) / "report.html").exists():
            continue
        command = [*shlex.split(options.before), *command_of(workdir, width, steps, root=options.root)]
        with (options.out / "commands.txt").open("a", encoding="utf-8") as file:
            file.write(f"{shlex.join(command)}\n")
        began = time.time()
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        print(f"{name}: exit status {status} after {time.time() - began:.0f} s", flush=True)
        if status:
            return status
    return 0


def command_of(workdir: Path, width: int, steps: int, *, root: str) -> list[str]:
    """The command line of one run."""
    settings = {
        "data.root": root,
        "data.validation_split": "",
        "data.families": json.dumps(WEIGHTS),
        "model.size": "custom",
        "model.dimensions": json.dumps(dimensions(width)),
        "model.image_size": 56,
        "train.duration": f"{steps} steps",
        "train.checkpoint_every": "never",
        "train.evaluate_every": "never",
        "train.log_examples": True,
        "train.compilation_cache": str(workdir.resolve().parent / "compiled"),
        "evaluation.families": ",".join(FAMILIES),
        "evaluation.conditions": "right",
        "evaluation.gallery": 0,
        "seed": SEED,
    }
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    config = str(ROOT / "configs" / "slake_tiny.py")
    program = [sys.executable, "-m", "rllava_jax.main", "--config", config, "--workdir", str(workdir.resolve())]
    return [*program, *overrides]


def dimensions(width: int) -> dict[str, float]:
    """The tiny size's numbers at another width."""
    changed: dict[str, float] = {"decoder.head_dim": width // 2, "decoder.query_scale": (width // 2) ** -0.5}
    for part in ("vision", "decoder"):
        changed |= {f"{part}.width": width, f"{part}.mlp": 3 * width}
    return dimensions_of(SIZES["tiny"]) | changed


if __name__ == "__main__":
    sys.exit(main())
