"""A plan in words, and as JSON."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from rllava_jax.config.stored import to_json
from rllava_jax.planning.chips import GIB, Chip
from rllava_jax.planning.memory import Buffer
from rllava_jax.planning.plan import StepPlan
from rllava_jax.planning.roofline import Roofline, assumptions
from rllava_jax.planning.traffic import Collective

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
    """The plan for a reader at a terminal."""
    sections = [_head(plan), _memory(plan), _flops(plan)]
    if compiled := plan.compiled:
        sections[2:2] = [_buffers(compiled.buffers), _collectives(plan.topology.chip, compiled.collectives)]
        sections.append(_time(plan, compiled.estimate))
    sections.append(["assumed:", *(f"  {line}" for line in _assumptions(plan))])
    return "\n\n".join("\n".join(lines) for lines in sections)


def _head(plan: StepPlan) -> list[str]:
    config, topology = plan.config, plan.topology
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    lora = f"LoRA of rank {config.lora.rank}" if config.lora.rank else "every chosen parameter in full"
    micro = f" in {config.train.accumulate} micro-batches" if config.train.accumulate > 1 else ""
    seconds = f"; lowered in {plan.seconds[0]:.1f} s, compiled in {plan.seconds[1]:.1f} s" if plan.seconds[1] else ""
    return [
        f"{config.model.size} for {topology.name}: {topology.devices} devices ({topology.chip.label}), {mesh}",
        f"{lora}; batch {plan.batch}{micro}; {config.model.compute_dtype}; remat {config.model.remat}{seconds}",
    ]


def _memory(plan: StepPlan) -> list[str]:
    memory, total = dataclasses.asdict(plan.memory), _bytes(plan.memory.total)
    lines = ["memory of a device:"]
    lines += [f"  {_bytes(size)}  {_KINDS.get(kind, kind)}" for kind, size in memory.items() if size]
    lines.append(f"  {total}  in all, of {plan.limit:.2f} GiB")
    verdict = "fits" if plan.fits else f"does not fit, needs {'' if plan.compiled else 'at least '}{total.strip()}"
    if plan.quick and plan.compiled:
        verdict += "; an upper bound, compiled with the least effort: without --quick it may need less"
    return [*lines, f"  {verdict}" + (f" ({plan.refusal})" if plan.refusal else "")]


def _buffers(buffers: Sequence[Buffer]) -> list[str]:
    rows = (f"  {_bytes(b.bytes)}  {b.array}  {b.op} x{b.count}  {b.source}" for b in buffers[:5])
    return ["largest arrays written to HBM (they need not live at the same time):", *rows]


def _collectives(chip: Chip, collectives: Sequence[Collective]) -> list[str]:
    if not collectives:
        return ["collectives: none"]
    names = {False: chip.fabric_name, True: chip.network_name}
    rows = (f"  {c.kind:20} {c.count:>7} x  {_bytes(c.bytes)} over {names[c.slow]}" for c in collectives)
    return ["collectives in a step, and what each device sends:", *rows]


def _flops(plan: StepPlan) -> list[str]:
    def row(name: str, *numbers: float) -> str:
        return f"  {name:10}" + "".join(f"{number / 1e9:13,.3f}" for number in numbers)

    rows = {part.part: [getattr(part, name) for name in _PASSES] for part in plan.flops}
    total = [sum(numbers) for numbers in zip(*rows.values(), strict=True)]
    lines = ["GFLOP of an example:", f"  {'':10}" + "".join(f"{name:>13}" for name in _PASSES)]
    lines += [row(name, *numbers) for name, numbers in rows.items()]
    lines.append(row("in all", *total))
    model, hardware = sum(total[:2]) * plan.batch, sum(total) * plan.batch
    lines.append(f"  a step: {model / 1e12:,.3f} TFLOP of the model, {hardware / 1e12:,.3f} computed")
    return lines


def _time(plan: StepPlan, estimate: Roofline) -> list[str]:
    chip = plan.topology.chip
    names = {"compute": "arithmetic", "hbm": "HBM", "fabric": chip.fabric_name, "network": chip.network_name}
    parts = ", ".join(f"{title} {getattr(estimate, name):.4f}" for name, title in names.items())
    model = sum(part.model for part in plan.flops) * plan.batch / plan.topology.devices
    share = model / estimate.exposed / chip.flops
    lines = [
        f"estimated seconds of a step: {estimate.exposed:.4f} ({estimate.hidden:.4f} at best); {parts}",
        f"  bound by {names[estimate.bound]}; {share:.0%} of the chips' peak in the model's arithmetic",
        f"  {plan.examples_per_second:,.1f} examples a second ({plan.batch / estimate.hidden:,.1f} at best)",
    ]
    if plan.hours is None:
        return [*lines, f"  hours of the run: not known, {plan.run.unknown}"]
    return [*lines, f"  {plan.hours:,.2f} hours for {plan.run.steps:,} steps"]


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
