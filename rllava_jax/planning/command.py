"""`--mode compile`: what a configuration needs of hardware that is not here, printed and written as JSON."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from jinja2 import Environment, PackageLoader, StrictUndefined

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import made_folder
from data_pipelines.core.errors import InvalidOption, MissingOption, OptionConflict
from rllava_jax.config.stored import to_json
from rllava_jax.planning.chips import GIB, assumptions
from rllava_jax.planning.plan import StepPlan, load_config_for_planning, make_plan
from rllava_jax.planning.topology import parse_topology

# Kind of memory → what a reader calls it, where that is another word.
_KINDS = {
    "optimizer": "optimiser",
    "inputs": "batch, padding",
    "activations": "activations kept for the backward pass",
}


_PASSES = ("forward", "backward", "recomputed")


def compile_for(
    path: str,
    overrides: Sequence[str],
    workdir: Path,
    *,
    topology: str | None,
    stage: str = "",
    memory: float | None = None,
    examples: int | None = None,
    quick: bool = False,
) -> StepPlan:
    """Plans the run and writes `WORKDIR/compile/TOPOLOGY.json` (with _quick, _24GiB where these were asked).

    That the step does not fit is a result, not an error.

    Args:
      path, overrides: of the configuration. topology: as `topology.parse_topology` reads it.
      stage: of those that the configuration defines; its plan is written below `WORKDIR/STAGE`.
      memory: GiB to fit in, in place of the chip's own. examples: per epoch, where the data is not at hand.
      quick: as `make_plan`.

    Raises:
      ConfigError: a configuration that is wrong, does not go with the topology, or a compiler that is not installed.
    """
    if not topology:
        raise MissingOption("--mode compile: for which hardware? add --topology, e.g. v5e:4x4, v5e:16x16*2 or h100:8")
    wanted = parse_topology(topology)
    if memory is not None and memory > wanted.chip.usable:
        raise InvalidOption(
            f"--memory {memory:g}: is more than what a {wanted.chip.name} has to use, {wanted.chip.usable:.1f} GiB"
        )
    if quick and wanted.chip.platform != "tpu":
        raise OptionConflict(f"--quick: is for TPUs, which {topology} is not; leave it out")
    workdir = workdir / stage if stage else workdir
    config, vocab = load_config_for_planning(path, overrides, workdir, stage=stage)
    # Another question of the same topology has a file of its own.
    name = wanted.file_name + (f"_{memory:g}GiB" if memory else "") + ("_quick" if quick else "")
    file = workdir / "compile" / f"{name}.json"
    made_folder(file.parent, option="--workdir")
    plan = make_plan(config, wanted, vocab=vocab, memory=memory, examples=examples, quick=quick)
    write_atomically(file, json.dumps(as_json(plan), indent=2) + "\n")
    if stage:
        print(f"stage {stage}\n")
    print(as_text(plan))
    print(f"\n{file}")
    return plan


def as_json(plan: StepPlan) -> dict[str, Any]:
    """Everything the text says, in bytes, operations and seconds; `config` is the whole configuration."""
    compiled, memory = plan.compiled, plan.memory
    found: dict[str, Any] = dataclasses.asdict(compiled) if compiled else {}
    if compiled:
        found["estimate"] |= {name: getattr(compiled.estimate, name) for name in ("exposed", "hidden", "bound")}
    return {
        "topology": plan.topology.name,
        "chip": plan.topology.chip.label,
        "devices": plan.topology.devices,
        "mesh": plan.mesh,
        "jax": jax.__version__,
        "quick": plan.quick,
        "memory": dataclasses.asdict(memory)
        | {"total": memory.total, "limit": int(plan.limit * GIB), "compiled": compiled is not None},
        "fits": plan.fits,
        "refusal": plan.refusal,
        "collectives": found.get("collectives", []),
        "hbm_bytes": found.get("hbm"),
        "largest_buffers": found.get("buffers", []),
        "flops_per_example": {part.part: {k: getattr(part, k) for k in _PASSES} for part in plan.flops},
        "model_flops": sum(part.model for part in plan.flops) * plan.batch,
        "hardware_flops": sum(part.hardware for part in plan.flops) * plan.batch,
        "seconds": found.get("estimate"),
        "examples_per_second": plan.examples_per_second,
        "steps": plan.steps,
        "hours": plan.hours,
        "hours_unknown": plan.unknown,
        "assumptions": list(_assumptions(plan)),
        "lowering_seconds": plan.seconds[0],
        "compile_seconds": plan.seconds[1],
        "config": to_json(plan.config),
    }


def as_text(plan: StepPlan) -> str:
    """The plan for a reader at a terminal: `templates/plan.txt`, filled in."""
    environment = Environment(
        loader=PackageLoader("rllava_jax.planning"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bytes"] = _bytes
    flops = {part.part: [getattr(part, name) for name in _PASSES] for part in plan.flops}
    total = [sum(numbers) for numbers in zip(*flops.values(), strict=True)]
    text = environment.get_template("plan.txt").render(
        plan=plan,
        axes=[f"{name} {size}" for name, size in plan.mesh.items() if size > 1],
        kinds=dataclasses.asdict(plan.memory),
        titles=_KINDS,
        passes=_PASSES,
        flops=flops | {"in all": total},
        total=total,
        assumptions=_assumptions(plan),
    )
    return text.rstrip()


def _bytes(number: float) -> str:
    unit, name = (GIB, "GiB") if number >= 2**27 else (2**20, "MiB")
    return f"{number / unit:9.2f} {name}"


def _assumptions(plan: StepPlan) -> Iterable[str]:
    chip = plan.topology.chip
    yield f"{chip.usable:g} of the chip's {chip.memory:g} GiB can be used: {chip.kept}"
    yield f"answers of at most {plan.config.train.loss_chunk} tokens: one chunk of logits (train.loss_chunk)"
    yield "flops are those of matrix products; gradients and activations may share memory with temporaries"
    if plan.compiled:
        yield from assumptions(chip)
