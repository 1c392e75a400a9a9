"""Damages the files that commands read, and looks whether each is refused in one line or read rightly.

    make fuzz                                                      # five minutes, seed 0
    python benchmarks/fuzz.py --minutes 60 --rows docs/fuzz.jsonl  # the same line again goes on where it stopped
    python benchmarks/fuzz.py --run runs/demo --only "predict, checkpoint"   # a run of your own
    python benchmarks/fuzz.py --case 17 --only "score answers"     # one case, with its traceback

Outcomes: refused (one line, a code, exit status 2) and accepted are well. Faults are a traceback, a hang, memory
without bound, a refusal that names an exception in place of the matter (unclear), and wrong success: the command
accepts damage and an invariant of its target is broken (what decides an answer is under a checksum, no score rises by
damage, nothing outside the folder is read). Exit status 1 where a fault was found.
"""

import argparse
import collections
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Every published layout in miniature.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from fuzzing.cases import FAULTS, Row, Worker
from fuzzing.limits import Limits, rows
from fuzzing.targets import Target, answer_targets, data_targets, run_targets
from tqdm import tqdm


def all_targets(run: Path) -> list[Target]:
    """Every target; the last ones read the run."""
    return [*data_targets(), *answer_targets(), *run_targets(run)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 where a fault was found."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        scratch = Path(folder)
        run = options.run or scratch / "run"
        make = functools.partial(_named, run, options.only)
        if not make():
            names = ", ".join(target.name for target in all_targets(run))
            raise SystemExit(f"--only {' '.join(options.only)}: choose from {names}")
        if not run.exists() and {target.name for target in make()} & {target.name for target in run_targets(run)}:
            _train(run)
        if options.case is not None:
            return _one(make, scratch, options)
        counts = fuzz(make, scratch, options)
    print("\n".join(f"{count:6,} {outcome}" for outcome, count in counts.most_common()))
    return int(any(counts[fault] for fault in FAULTS))


def _train(run: Path) -> None:
    """The run whose checkpoint is damaged: half a minute."""
    config = Path(__file__).parent / "fuzzing" / "tiny_run.py"
    command = [sys.executable, "-m", "rllava_jax.main", "--config", str(config), "--workdir", str(run)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"the run to be damaged could not be trained: {ended.stderr.splitlines()[-1]}")


def fuzz(make: Callable[[], Sequence[Target]], scratch: Path, options: argparse.Namespace) -> collections.Counter[str]:
    """Runs cases until the time or the number is up, and appends their rows to the file."""
    done = _read(options.rows) if options.rows else []
    if other := {row["seed"] for row in done} - {options.seed}:
        raise SystemExit(
            f"--seed {options.seed}: {options.rows} has rows of seed {other.pop()}; give it, or another file"
        )
    counts = collections.Counter(str(row["outcome"]) for row in done)
    first = 1 + max((int(row["case"]) for row in done), default=-1)
    end = time.monotonic() + 60 * options.minutes
    limits = Limits(options.seconds, int(options.memory * 2**30))
    with tqdm(total=options.cases, initial=first, unit="case", disable=None) as bar:
        for row in rows(make, scratch, seed=options.seed, first=first, limits=limits):
            counts[row.outcome] += 1
            bar.update()
            if row.outcome in FAULTS:
                bar.write(json.dumps(row.as_json()), file=sys.stderr)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row.as_json()) + "\n")
            if time.monotonic() > end or (options.cases and row.case + 1 >= options.cases):
                return counts
    return counts


def _one(make: Callable[[], Sequence[Target]], scratch: Path, options: argparse.Namespace) -> int:
    """Runs one case in this process, and shows what the command said."""
    worker = Worker(make(), scratch, options.seed)
    row: Row = worker.again(options.case)
    print(json.dumps(row.as_json(), indent=1))
    return int(row.outcome in FAULTS)


def _named(run: Path, only: Sequence[str]) -> list[Target]:
    return [target for target in all_targets(run) if not only or target.name in only]


def _read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=5.0, help="how long (default: 5)")
    add("--cases", type=int, help="stop at so many, those of --rows counted (default: when the time is up)")
    add("--seed", type=int, default=0, help="of the damage (default: 0)")
    add("--rows", type=Path, metavar="FILE", help="append a line for each case, and go on behind its last one")
    add("--run", type=Path, metavar="DIR", help="a finished run (default: a tiny one is trained first)")
    add("--only", nargs="+", default=[], metavar="TARGET", help="these targets alone")
    add("--case", type=int, metavar="N", help="this case alone, with what the command said; with its TARGET")
    add("--seconds", type=float, default=20.0, help="longer is a hang (default: 20)")
    add("--memory", type=float, default=2.0, metavar="GIB", help="more is a fault (default: 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
