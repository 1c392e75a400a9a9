"""A plan in words, and as JSON."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
from jinja2 import Environment, PackageLoader, StrictUndefined

from rllava_jax.config.stored import to_json
from rllava_jax.planning.chips import GIB, assumptions
from rllava_jax.planning.plan import StepPlan

# Kind of memory → what a reader calls it, where that is another word.
_KINDS = {
    "optimizer": "optimiser",
    "inputs": "batch, padding",
    "activations": "activations kept for the backward pass",
}


_PASSES = ("forward", "backward", "recomputed")


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
        "steps": plan.run.steps,
        "hours": plan.hours,
        "hours_unknown": plan.run.unknown,
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
