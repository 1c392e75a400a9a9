"""Makes the tables of docs/SCALING.md by compiling, one after the other, what `--mode compile` compiles.

    python benchmarks/scaling_table.py --cache scaling.jsonl          (goes on where it was stopped; hours on two cores)
    python benchmarks/scaling_table.py --cache scaling.jsonl --goals  (the goals alone)
    python benchmarks/scaling_table.py --cache scaling.jsonl --rows 3b-448 2-10b-448 --topologies v5e:2x4 v5e:4x4
    python benchmarks/scaling_table.py --cache scaling.jsonl --write docs/SCALING.md --only-write

Each compile is a process of its own and one line of the cache. Needs the compilers: `pip install "jax[tpu]"`, and for
H100s `pip install --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION`.

How a cell is set up: fsdp over all devices up to 64, copies of that beyond; remat full; XLA's attention; Adam with two
float32 moments. Full fine-tuning has float32 parameters and bfloat16 arithmetic; LoRA (rank 12, alpha 32, on all
projections of the decoder) has a bfloat16 frozen base. With regions: crop and loc, one region of 16 tokens, crops of
224 pixels. Text has 64 tokens. The largest batch is where a straight line through one and four examples a device meets
the chip's usable memory, at most 64 a device, and is then compiled itself. TPU cells of the table (not the goals) are
compiled with --quick, whose memory is an upper bound. Close to the limit XLA searches for minutes, so their line is to
meet 0.85 of the memory, and their batches are 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 64 a device. Of the chips that a
family has in several numbers, only the fewest that hold the step give the line: for more of them it is moved by what
they save of parameters and optimiser. Where the cache knows a larger batch that fits, the table shows that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = ("paligemma-3b-224", "paligemma-3b-448", "paligemma2-10b-448", "paligemma2-28b-224")
TOPOLOGIES = ("v5e:2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x2", "h100:1", "h100:8", "h100:64")
REPLICATED_BEYOND = 64
MOST_PER_DEVICE = 64
TPU_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
TPU_SHARE = 0.85
TIMEOUT = 1200
BEGIN, END = "<!-- made by benchmarks/scaling_table.py: {} -->", "<!-- end -->"


@dataclass(frozen=True)
class Cell:
    """One compile. `batch` is of a device."""

    size: str
    lora: bool
    regions: bool
    topology: str
    batch: int
    fsdp: int = 0
    quick: bool = False

    @property
    def name(self) -> str:
        """The row of the table that it is in, such as "2-10b-448, LoRA, regions"."""
        size = self.size.removeprefix("paligemma").removeprefix("-")
        return f"{size}, {'LoRA' if self.lora else 'full'}{', regions' if self.regions else ''}"

    @property
    def key(self) -> str:
        """Its name in the cache."""
        fsdp = f" fsdp{self.fsdp}" if self.fsdp else ""
        parts = (self.size, "lora" if self.lora else "full", "regions" if self.regions else "plain", self.topology)
        return " ".join(parts) + f" b{self.batch}{fsdp}{' quick' if self.quick else ''}"


@dataclass(frozen=True)
class Goal:
    """A cell with what is asked of it: GiB to fit in, or None for the chip's own."""

    said: str
    cell: Cell
    memory: float | None = None


GOALS = (
    Goal("3B-448, LoRA with regions, batch 8, one 16-GB v5e chip", Cell("paligemma-3b-448", True, True, "v5e:1x1", 8)),
    Goal("3B-448, LoRA with regions, batch 8, a 24-GB GPU", Cell("paligemma-3b-448", True, True, "h100:1", 8), 24.0),
    Goal("3B-224, full, v5e:2x4, global batch 64", Cell("paligemma-3b-224", False, True, "v5e:2x4", 8)),
    Goal("28B-224, LoRA with regions, v5e:4x8", Cell("paligemma2-28b-224", True, True, "v5e:4x8", 1)),
)
# Chips and batch grow together, each copy of the model over 16 chips.
GROWTH = tuple(
    Cell("paligemma-3b-224", False, True, topology, 8, 16) for topology in ("v5e:4x4", "v5e:8x8", "v5e:16x16")
)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="a JSON line a compile; read, and added to")
    parser.add_argument("--goals", action="store_true", help="compile the goals and nothing else")
    parser.add_argument(
        "--rows", nargs="+", metavar="START", help="compile only rows whose size starts so, such as 3b-448 or 2-28b"
    )
    parser.add_argument(
        "--topologies", nargs="+", choices=TOPOLOGIES, default=TOPOLOGIES, help="compile only these columns"
    )
    parser.add_argument("--write", type=Path, help="put the tables into this document, between its markers")
    parser.add_argument("--only-write", action="store_true", help="compile nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compile_cell(Cell(**json.loads(options.one)))))
        return 0
    cache = Cache(options.cache, compiling=not options.only_write)
    for cell in (*(goal.cell for goal in GOALS), *GROWTH):
        cache.get(cell)
    if not options.goals:
        for row in rows():
            if row.topology in options.topologies and row.name.startswith(tuple(options.rows or [""])):
                largest(cache, row)
    tables = {"goals": goal_table(cache), "table": main_table(cache), "flops": flops_table()}
    if options.write:
        write(options.write, tables)
    print("\n\n".join(tables.values()))
    return 0


class Cache:
    """Results by cell, one line of a file each."""

    def __init__(self, path: Path, *, compiling: bool):
        self.path, self.compiling = path, compiling
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, dict[str, Any]] = {record["key"]: record for record in map(json.loads, lines)}

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """The cell's result, compiled now if it is not known and compiling is allowed."""
        if cell.key not in self.known and self.compiling:
            record = self._compile(cell)
            if "error" not in record:  # a failure is tried again by the next start
                with self.path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            self.known[cell.key] = record
        return self.known.get(cell.key)

    def best(self, row: Cell) -> dict[str, Any] | None:
        """The known result of the row with the largest batch that fits, its batch beside it."""
        known = {
            batch: self.known.get(dataclasses.replace(row, batch=batch).key) for batch in range(MOST_PER_DEVICE + 1)
        }
        fitting = {batch: found for batch, found in known.items() if found and found.get("fits")}
        return {**fitting[max(fitting)], "batch": max(fitting)} if fitting else None

    def _compile(self, cell: Cell) -> dict[str, Any]:
        print(f"{cell.key} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--cache", os.devnull, "--one", json.dumps(dataclasses.asdict(cell))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, check=False)
        except subprocess.TimeoutExpired:
            return {"key": cell.key, "error": f"not compiled within {TIMEOUT} s"}
        if done.returncode:
            return {"key": cell.key, "error": done.stderr.strip().splitlines()[-1]}
        record = json.loads(done.stdout.splitlines()[-1])
        print(f"  {record['total'] / 2**30:.2f} GiB, {record['compile_seconds']:.0f} s", file=sys.stderr, flush=True)
        return {"key": cell.key, **record}


def compile_cell(cell: Cell) -> dict[str, Any]:
    """Compiles one cell in this process."""
    from rllava_jax.planning.command import as_json
    from rllava_jax.planning.plan import make_plan
    from rllava_jax.planning.topology import parse_topology

    topology = parse_topology(cell.topology)
    plan = make_plan(configuration(cell, topology.devices), topology, quick=cell.quick)
    made = as_json(plan)
    memory = made["memory"]
    return {
        "fits": made["fits"],
        "total": memory["total"],
        "memory": memory,
        "usable": memory["limit"],
        "compiled": memory["compiled"],
        "refusal": made["refusal"],
        "examples_per_second": made["examples_per_second"],
        "seconds": made["seconds"],
        "collectives": made["collectives"],
        "largest_buffers": made["largest_buffers"][:4],
        "lowering_seconds": made["lowering_seconds"],
        "compile_seconds": made["compile_seconds"],
        "mesh": made["mesh"],
        "jax": made["jax"],
    }


def configuration(cell: Cell, devices: int) -> Any:
    """The run of a cell."""
    from rllava_jax.config import (
        Config,
        DataConfig,
        EvaluationConfig,
        LoraConfig,
        MeshConfig,
        ModelConfig,
        RegionConfig,
        TrainConfig,
    )

    return Config(
        model=ModelConfig(cell.size, compute_dtype="bfloat16", remat="full"),
        lora=LoraConfig(rank=12, alpha=32) if cell.lora else LoraConfig(),
        regions=RegionConfig(encoders=("crop", "loc") if cell.regions else (), crop_size=224, tokens=16),
        data=DataConfig(text_length=64),
        train=TrainConfig(duration="1000 steps", batch_size=cell.batch * devices),
        evaluation=EvaluationConfig(batch_size=max(devices, 64)),
        mesh=MeshConfig(data=-1, fsdp=cell.fsdp or min(devices, REPLICATED_BEYOND)),
    )


def rows() -> Iterator[Cell]:
    """The table's rows, at one example a device."""
    for size in SIZES:
        for lora in (True, False):
            for regions in (True, False):
                for topology in TOPOLOGIES:
                    yield row_of(size, lora, regions, topology)


def row_of(size: str, lora: bool, regions: bool, topology: str) -> Cell:
    """A cell of the table, at one example a device."""
    return Cell(size, lora, regions, topology, 1, quick=topology.startswith("v"))


def largest(cache: Cache, row: Cell) -> dict[str, Any] | None:
    """The result with the largest batch that fits, else one that does not; None where nothing is known."""
    guess = moved_guess(cache, row)
    if not guess:
        one = cache.get(row)
        if one is None or not one.get("fits"):
            return one
        four = cache.get(dataclasses.replace(row, batch=4))
        guess = met_by_line(row, one, four) if four and four.get("fits") else 2
    found = cache.best(row)
    if found and found["batch"] >= guess:
        return found
    for batch in sorted({guess, guess * 7 // 8, guess * 3 // 4} - {0}, reverse=True):
        found = cache.get(dataclasses.replace(row, batch=batch))
        if found and found.get("fits"):
            break
    return cache.best(row) or found


def met_by_line(row: Cell, one: dict[str, Any], four: dict[str, Any], saved: float = 0.0) -> int:
    """Examples a device at which a line through the results of one and of four, less `saved` bytes, meets the memory.

    On a TPU one of TPU_BATCHES that stays below TPU_SHARE of the memory: close to the limit XLA spends minutes on
    recomputing values to save memory.
    """
    slope = max((four["total"] - one["total"]) / 3, 1.0)
    usable = one["usable"] * (TPU_SHARE if row.quick else 1.0)
    met = max(min(int(1 + (usable - one["total"] + saved) / slope), MOST_PER_DEVICE), 1)
    return max(step for step in TPU_BATCHES if step <= met) if row.quick else met


def moved_guess(cache: Cache, row: Cell) -> int:
    """The largest batch by the line of fewer chips of the same family; 0 where that is not known."""
    family, _, shape = row.topology.partition(":")
    if not row.quick or shape == "2x4":
        return 0
    for fewer in TOPOLOGIES[: TOPOLOGIES.index(row.topology)]:
        pair = [cache.known.get(dataclasses.replace(row, topology=fewer, batch=batch).key) for batch in (1, 4)]
        one, four = pair
        if not fewer.startswith(f"{family}:") or not one or not four or not (one.get("fits") and four.get("fits")):
            continue
        share = min(devices_of(fewer), REPLICATED_BEYOND) / min(devices_of(row.topology), REPLICATED_BEYOND)
        state = sum(one["memory"][kind] for kind in ("parameters", "optimizer", "gradients"))
        return met_by_line(row, one, four, saved=state * (1 - share))
    return 0


def devices_of(topology: str) -> int:
    """Chips of a topology: 16 of v5e:4x4."""
    return math.prod(int(side) for side in topology.partition(":")[2].split("x"))


def goal_table(cache: Cache) -> str:
    """The goals: asked and found."""
    lines = ["| goal | GiB per device | of | met | compile, s |", "|---|---|---|---|---|"]
    for goal in GOALS:
        found = cache.known.get(goal.cell.key)
        if found is None or "error" in found:
            lines.append(f"| {goal.said} | {found['error'] if found else 'not compiled yet'} | | | |")
            continue
        limit = goal.memory or found["usable"] / 2**30
        met = found["compiled"] and found["total"] <= limit * 2**30
        lines.append(
            f"| {goal.said} | {found['total'] / 2**30:.2f} | {limit:.2f} | {'yes' if met else 'no'} "
            f"| {found['compile_seconds']:.0f} |"
        )
    totals = [found["total"] for cell in GROWTH if (found := cache.known.get(cell.key)) and "error" not in found]
    said = "3B-224, full, 8 a device, 16 to 256 chips: bytes per device flat within 10 %"
    if len(totals) == len(GROWTH):
        shown = " / ".join(f"{total / 2**30:.2f}" for total in totals)
        lines.append(f"| {said} | {shown} | | {'yes' if max(totals) <= 1.1 * min(totals) else 'no'} | |")
    else:
        lines.append(f"| {said} | not compiled yet | | | |")
    return "\n".join(lines)


def main_table(cache: Cache) -> str:
    """Fits or not, largest batch, bytes per device, examples per second."""
    known = Cache(cache.path, compiling=False)
    known.known = cache.known
    lines = [f"| | {' | '.join(TOPOLOGIES)} |", f"|---|{'---|' * len(TOPOLOGIES)}"]
    for size in SIZES:
        for lora in (True, False):
            for regions in (True, False):
                cells = [_cell_text(largest(known, row_of(size, lora, regions, name))) for name in TOPOLOGIES]
                lines.append(f"| {row_of(size, lora, regions, TOPOLOGIES[0]).name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell_text(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not compiled"
    if "error" in found:
        return "failed"
    gib = found["total"] / 2**30
    if not found["compiled"]:
        return f"no: state alone {gib:.0f} GiB" if found["refusal"].startswith("not compiled") else f"no: {gib:.0f} GiB"
    if not found["fits"]:
        return f"no: {gib:.0f} GiB"
    count = 1
    for number in found["mesh"].values():
        count *= number
    return f"{found['batch'] * count}; {gib:.1f}; {found['examples_per_second']:,.0f}/s"


def flops_table() -> str:
    """What regions cost in arithmetic."""
    from rllava_jax.config import Config, DataConfig, ModelConfig, RegionConfig
    from rllava_jax.model.params import abstract
    from rllava_jax.model.sizes import model_size
    from rllava_jax.planning.flops import training_flops

    encoders: dict[str, tuple[Any, ...]] = {"none": (), "align": ("align",), "crop": ("crop",)}
    lines = [f"| TFLOP of an example, full fine-tuning | {' | '.join(encoders)} |", "|---|---|---|---|"]
    for size in SIZES:
        sums = []
        for chosen in encoders.values():
            config = Config(
                model=ModelConfig(size),
                regions=RegionConfig(encoders=chosen, crop_size=224, tokens=16),
                data=DataConfig(text_length=64),
            )
            names = abstract(config, vocab=0)[1]
            sums.append(sum(part.model for part in training_flops(config, model_size(config.model), names)))
        shown = " | ".join(f"{one / 1e12:.2f} (+{one / sums[0] - 1:.1%})" for one in sums[1:])
        lines.append(f"| {size} | {sums[0] / 1e12:.2f} | {shown} |")
    return "\n".join(lines)


def write(path: Path, tables: dict[str, str]) -> None:
    """Replaces what stands between a table's markers."""
    text = path.read_text()
    for name, table in tables.items():
        begin = BEGIN.format(name)
        start = text.index(begin) + len(begin)
        text = f"{text[:start]}\n{table}\n{text[text.index(END, start) :]}"
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
