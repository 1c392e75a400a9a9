"""Kills the tests' tiny run at random moments, resumes it, and compares it bit for bit with one that was left alone.

    python benchmarks/kills.py --runs 50 --work /tmp/kills

A run is killed up to three times. Each kill is SIGKILL to the whole process group, at a moment of a run's duration that
seed and number decide; the same command then resumes the run. Compared are every loss and figure of the log, the ids of
every step's examples, every checksum of the last checkpoint, every prediction and every row of results.

A row a run is appended to --out as soon as it is known; runs that stand there are not repeated: the loop may be
stopped and goes on. Exit code 1 where a run differs or could not be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

from conftest import TINY_RUN, CommandLine  # noqa: E402

from rllava_jax.checkpoint.provenance import revision  # noqa: E402

_TIMES = {"examples_per_second", "tokens_per_second", "step_seconds", "data_wait_fraction", "compile_seconds"}
_MOST_KILLS = 3  # of one run
_LAST = 14  # step of the tiny run
_FILES = (f"checkpoints/{_LAST}/checksums/checksums.json", "examples.jsonl", f"eval/{_LAST}/metrics.json",
          f"eval/{_LAST}/predictions.jsonl")  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs that are killed (5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/kills"), help="for the runs; may be removed afterwards")
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "kills.jsonl")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    config = options.work / "tiny_run.py"
    config.write_text(TINY_RUN.replace("COMPILED", repr(str(options.work / "compiled"))))
    line = CommandLine(config)
    rows = [json.loads(row) for row in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {row["number"] for row in rows if row["seed"] == options.seed}
    if missing := [number for number in range(options.runs) if number not in known]:
        seconds, wanted = _undisturbed(line, options.work / "undisturbed")
        for number in missing:
            row = _killed(line, options.work / "killed", options.seed, number, seconds, wanted)
            rows.append(row)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    wrong = [row for row in rows if row["status"] or row["differs"]]
    kills = sum(len(row["kills"]) for row in rows)
    print(f"{len(rows)} runs, {kills} kills, {len(rows) - len(wrong)} bit for bit as the undisturbed run")
    return bool(wrong)


def _undisturbed(line: CommandLine, workdir: Path) -> tuple[float, dict[str, Any]]:
    """How long a run takes once everything is compiled, and what it is compared by."""
    seconds = workdir.with_suffix(".seconds")
    if not seconds.exists():
        for _ in range(2):  # the first one compiles
            shutil.rmtree(workdir, ignore_errors=True)
            began = time.monotonic()
            status, _, err = line.run(line.main(workdir))
            if status:
                raise SystemExit(f"the undisturbed run failed:\n{err}")
        seconds.write_text(str(time.monotonic() - began))
    return float(seconds.read_text()), _facts(workdir)


def _killed(
    line: CommandLine, workdir: Path, seed: int, number: int, seconds: float, wanted: dict[str, Any]
) -> dict[str, Any]:
    """One run, killed once or a few times, and resumed to its end."""
    rng, kills = random.Random(f"{seed}:{number}"), []
    shutil.rmtree(workdir, ignore_errors=True)
    for _ in range(rng.randint(1, _MOST_KILLS)):
        after = rng.uniform(0, seconds)
        process = line.start(line.main(workdir), own_group=True)
        try:
            process.communicate(timeout=after)
            break  # it was through before: what was left to do takes less than a whole run
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills.append({"after": round(after, 2), **_place(workdir)})
    status, _, err = line.run(line.main(workdir))
    found = _facts(workdir) if status == 0 else {}
    return {
        "seed": seed,
        "number": number,
        "revision": revision(),
        "kills": kills,
        "status": status,
        "differs": sorted(name for name in wanted if found and found[name] != wanted[name]),
        "error": err.splitlines()[-1] if status else "",
    }


def _place(workdir: Path) -> dict[str, Any]:
    """Where a kill met a run: the last step that was logged, the checkpoints, and what stood there half written."""
    log = workdir / "metrics.jsonl"
    saved = sorted(path.name for path in workdir.glob("checkpoints/*"))
    return {
        "logged": len(log.read_bytes().splitlines()) if log.exists() else 0,
        "saved": [name for name in saved if name.isdigit()],
        "unfinished": sorted({*saved, *(path.name for path in workdir.glob(".*"))} - {n for n in saved if n.isdigit()}),
        "evaluating": (workdir / "checkpoints" / str(_LAST)).exists(),
    }


def _facts(workdir: Path) -> dict[str, Any]:
    """What is compared."""
    logged = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics.jsonl": [{name: value for name, value in row.items() if name not in _TIMES} for row in logged],
        **{name: (workdir / name).read_bytes() for name in _FILES},
    }


if __name__ == "__main__":
    sys.exit(main())
