"""Whether two revisions give the same results, bit for bit, on this machine.

    python benchmarks/same_results.py run OUT [--steps 500]    # in a checkout of each
    python benchmarks/same_results.py compare BEFORE AFTER      # exit code 1 where they differ

The demo is trained, evaluated and exported. Compared are a hash of every parameter and of every exported file, the loss
of every logged step, every answer with its confidence, and every row of figures; not times, paths and code revision.
Logits reach all of these: a confidence is a softmax of them. Rows and predictions that call a condition `region`, as
version 0.1 did, are read as those that call it `condition`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

# Of a row of metrics.jsonl: what depends on the clock.
_TIMED = re.compile(r"second|per_second|examples/s|tokens/s|wait|time|elapsed")


def main() -> int:
    """The command line. Returns 1 where two digests differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, evaluate and export the demo with the code of this folder")
    run.add_argument("out", type=Path)
    run.add_argument("--steps", type=int, default=500)
    compare = commands.add_parser("compare", help="compare two such folders")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        train_and_export(options.out, options.steps)
        return 0
    before, after = digest(options.before), digest(options.after)
    different = differences(before, after)
    print("\n".join(different) or f"the same: {', '.join(f'{len(part)} {name}' for name, part in before.items())}")
    return bool(different)


def train_and_export(out: Path, steps: int) -> None:
    """Runs the documented commands as processes of their own."""
    out.mkdir(parents=True, exist_ok=True)
    run, exported = out / "demo", out / "exported"
    arguments = [f"--config.train.duration={steps} steps"] if steps != 500 else []
    for command in (
        ["rllava_jax.main", "--config", "configs/demo.py", "--workdir", str(run), *arguments],
        ["rllava_jax.convert", "export", str(run), str(exported), "--dtype", "float32"],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True)


def digest(out: Path) -> dict[str, dict[str, Any]]:
    """Everything that is compared, by kind and name."""
    from safetensors.numpy import load_file

    parameters = {
        name: hashlib.sha256(array.tobytes()).hexdigest()
        for file in sorted((out / "exported").glob("*.safetensors"))
        for name, array in load_file(file).items()
    }
    files = {
        path.name: hashlib.sha256(_without_revision(path.read_bytes())).hexdigest()
        for path in sorted((out / "exported").iterdir())
    }
    step = max((out / "demo" / "eval").glob("[0-9]*"), key=lambda path: path.stat().st_mtime)
    losses = {
        str(row["step"]): {name: value for name, value in row.items() if not _TIMED.search(name)}
        for row in _rows(out / "demo" / "metrics.jsonl")
    }
    answers = {str(number): _renamed(row) for number, row in enumerate(_rows(step / "predictions.jsonl"))}
    figures = {str(number): _renamed(row) for number, row in enumerate(json.loads((step / "metrics.json").read_text()))}
    return {
        "parameters": parameters,
        "exported files": files,
        "logged steps": losses,
        "answers": answers,
        "rows": figures,
    }


def differences(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each kind of thing that differs, with up to five names and their values."""
    lines = []
    for kind, one in before.items():
        other = after[kind]
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        if names:
            lines.append(f"{kind}: {len(names)} of {len(one)} differ")
            lines += [f"  {name}: {one.get(name)} | {other.get(name)}" for name in names[:5]]
    return lines


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {("condition" if name == "region" else name): value for name, value in row.items()}


def _without_revision(content: bytes) -> bytes:
    return re.sub(rb"[0-9a-f]{40}(\+changes)?|/\S*/exported|/\S*/demo", b"", content)


if __name__ == "__main__":
    sys.exit(main())
