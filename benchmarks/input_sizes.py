"""Images a second and core of the input pipeline at two sizes, beside torch's DataLoader, in turn in one process.

    python benchmarks/input_sizes.py --data DIR/slake --folder runs/weights/deep --rounds 3

Needs the environment of benchmarks/peers.py, and the folder that it made (`--folder runs/weights`).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from speed.input_pipeline import BATCH, BATCHES, OURS, OURS_UNCACHED, TORCH_FAST, TORCH_PILLOW, open_pipeline
from speed.spread import ratio, spread

SYSTEMS = (OURS, OURS_UNCACHED, TORCH_FAST, TORCH_PILLOW)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of SLAKE as published")
    parser.add_argument("--folder", type=Path, required=True, help="a setting's folder of benchmarks/peers.py")
    parser.add_argument("--sides", type=int, nargs="+", default=(224, 448), help="in pixels (default: 224 448)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print("| side | | images a second and core | against the faster DataLoader |\n|--:|:--|--:|--:|")
    for side in options.sides:
        systems = {name: open_pipeline(name, options.folder, options.data, side)[0] for name in SYSTEMS}
        seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
        for _ in range(options.rounds):
            for name, run in systems.items():
                seconds[name].append(float(run()))
        best = min((TORCH_FAST, TORCH_PILLOW), key=lambda name: spread(seconds[name]).median)
        for name, values in seconds.items():
            rates = spread([BATCH * BATCHES / cores / value for value in values])
            times = ratio(seconds[best], values)
            against = (
                f"{times.median:.2f} × ({times.least:.2f}–{times.most:.2f})" if name in (OURS, OURS_UNCACHED) else ""
            )
            print(
                f"| {side} | {name} | {rates.median:.0f} ({rates.least:.0f}–{rates.most:.0f}) | {against} |", flush=True
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
