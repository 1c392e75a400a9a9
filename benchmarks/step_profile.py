"""Where a training step's time goes on CPU: XLA's operations by kind, read from one traced step.

    python benchmarks/step_profile.py --folder runs/weights --layers scanned
    python benchmarks/step_profile.py --folder runs/weights --layers unrolled

    GLIBC_TUNABLES=… python benchmarks/step_profile.py --folder runs/weights     (with `process_memory.TUNABLES`)

FOLDER is what `benchmarks/peers.py --folder` keeps: setting `deep`, seed 0. A matrix product's milliseconds are those
of the thread that asked for it, while all cores share its work; most other operations run on one core. Operations are
named as XLA names them: ynn_fusion and dot are matrix products, wrapped_broadcast fills memory with one value.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from speed.ours import Ours, model_batch, training_step
from speed.setting import SETTINGS, training_batch

from rllava_jax.model.sharding import to_devices


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the weights that benchmarks/peers.py --folder kept")
    parser.add_argument("--setting", choices=list(SETTINGS), default="deep", help="default: deep")
    parser.add_argument("--layers", choices=("scanned", "unrolled"), default="unrolled", help="default: as on CPU")
    parser.add_argument("--steps", type=int, default=5, help="timed before the traced one (default: 5)")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    ours = Ours(options.folder / setting.name, setting)
    model = dataclasses.replace(ours.config.model, layers=options.layers)
    step, state = training_step(dataclasses.replace(ours.config, model=model), ours.params(), setting)
    batch = model_batch(training_batch(setting))
    seconds, used = [], []
    for _ in range(options.steps + 1):
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        state, _ = jax.block_until_ready(step(state, to_devices(batch, ours.mesh)))
        seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used.append((after.ru_minflt - before.ru_minflt, after.ru_stime - before.ru_stime))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            jax.block_until_ready(step(state, to_devices(batch, ours.mesh)))
        (trace,) = Path(folder).rglob("perfetto_trace.json.gz")
        milliseconds, calls = by_kind(json.loads(gzip.decompress(trace.read_bytes())))
    print(f"layers {options.layers}: a step takes {np.median(seconds[1:]):.2f} s (median of {options.steps})")
    faults, kernel = np.median(used[1:], axis=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"page faults in it {faults:,.0f}, seconds in the kernel {kernel:.2f}; peak of the process {peak:.1f} GiB")
    print(f"{'ms':>8} {'calls':>6}  operation")
    for kind, spent in milliseconds.most_common(20):
        print(f"{spent:8.0f} {calls[kind]:6}  {kind}")
    print(f"{sum(milliseconds.values()):8.0f} {sum(calls.values()):6}  all")
    return 0


def by_kind(trace: Any) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds and calls of the operations on XLA's own threads, by their name without its number."""
    events: list[Mapping[str, Any]] = trace["traceEvents"] if isinstance(trace, dict) else trace
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    milliseconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        thread = threads.get((event.get("pid"), event.get("tid")), "")
        # What holds other operations, or waits for them, is no time of its own.
        if event.get("ph") != "X" or "Eigen" not in thread or re.match(r"Thunk|Slinky|while|end:", event["name"]):
            continue
        kind = re.sub(r"[.\d]+$", "", event["name"])
        milliseconds[kind] += event["dur"] / 1000
        calls[kind] += 1
    return milliseconds, calls


if __name__ == "__main__":
    sys.exit(main())
