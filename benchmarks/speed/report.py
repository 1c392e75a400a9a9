"""Measurements as JSON, added to part by part, and as the tables of docs/PERFORMANCE.md."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speed.setting import SETTINGS, Setting
from speed.spread import Spread, ratio, spread

_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
_PACKAGES = ("jax", "jaxlib", "torch", "torchvision", "transformers", "keras", "keras-hub", "grain", "pillow", "numpy")
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "LD_PRELOAD")
# (what, against whom, least ratio): all in the setting "deep".
GOALS = (
    ("training step", "fastest peer", 1.15),
    ("training step", "transformers", 1.4),
    ("decode 1", "fastest peer", 1.0),
    ("decode 8", "fastest peer", 1.0),
)
SHARE_GOAL, INPUT_GOAL = 0.6, 2.0


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    found = (
        re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": found[1] if found else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        # What every system's process is started with, and what changes speed.
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def add(path: Path, part: str, content: Mapping[str, Any], *, command: str, seed: int) -> dict[str, Any]:
    """Replaces one part of the JSON file, and returns the whole."""
    everything = json.loads(path.read_text()) if path.exists() else {}
    everything[part] = {"command": command, "seed": seed, "machine": machine(), **content}
    path.write_text(json.dumps(everything, indent=1) + "\n")
    return everything


def tables(measured: Mapping[str, Any]) -> str:
    """Every measured part, in the document's form."""
    out = []
    for name, setting in SETTINGS.items():
        parts = {key.split("/")[1]: value for key, value in measured.items() if key.startswith(f"{name}/")}
        if parts:
            out += [*_systems(setting, parts, measured.get("peak")), ""]
    if "input" in measured:
        out += [*_input(measured["input"]), ""]
    if "peak" in measured:
        out += [*_peak(measured["peak"]), ""]
    if "growth" in measured:
        out += [*_growth(measured["growth"], measured.get("peak")), ""]
    return "\n".join([*out, *_conditions(measured)])


def put_into(document: Path, text: str) -> None:
    """Replaces what stands between the document's two marks.

    Raises:
      ValueError: it has none.
    """
    before, begin, rest = document.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{document}: has no lines {_BEGIN} and {_END}; put them where the tables go")
    document.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """The peer with the least median."""
    return min((name for name in seconds if name != "rllava_jax"), key=lambda name: spread(seconds[name]).median)


def _systems(setting: Setting, parts: Mapping[str, Any], peak: Mapping[str, Any] | None) -> list[str]:
    names = list(dict.fromkeys(name for part in parts.values() for name in part["seconds"]))
    vision, decoder = setting.size.vision, setting.size.decoder
    lines = [
        f"### Setting `{setting.name}`",
        "",
        f"{next(iter(parts.values()))['parameters']:,} parameters: SigLIP {vision.depth} × {vision.width} (mlp "
        f"{vision.mlp}, {vision.heads} heads), Gemma {decoder.depth} × {decoder.width} (mlp {decoder.mlp}, "
        f"{decoder.heads} heads of {decoder.head_dim}, {decoder.kv_heads} of keys and values), {decoder.vocab:,} rows; "
        f"{vision.image_size} pixels ({vision.grid**2} image tokens), {setting.text} text tokens of which "
        f"{setting.answer} answer, batch {setting.batch}; prompts of {setting.prompt} tokens; float32.",
        "",
        "| | " + " | ".join(_bold(name) for name in names) + " | against the fastest peer |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for task, part in parts.items():
        seconds = part["seconds"]
        cells = [_milliseconds(spread(seconds[name])) if name in seconds else "" for name in names]
        rival = fastest(seconds) if len(seconds) > 1 else None
        compared = f"{_times(ratio(seconds[rival], seconds['rllava_jax']))} ({rival})" if rival else ""
        lines.append(f"| {_label(task, setting)} | " + " | ".join(cells) + f" | {compared} |")
    lines += ["", "Milliseconds, median (least–most); a ratio above 1 means that rllava_jax is faster.", ""]
    if setting.name == "deep":
        lines += _goals(parts)
    if peak and "training step" in parts:
        lines += [_share(setting, parts["training step"], peak), ""]
    return lines


def _goals(parts: Mapping[str, Any]) -> list[str]:
    lines = ["| goal | measured | |", "|---|---|---|"]
    for task, rival, least in GOALS:
        if task not in parts or len(parts[task]["seconds"]) < 2:
            continue
        seconds = parts[task]["seconds"]
        name = fastest(seconds) if rival == "fastest peer" else rival
        if name not in seconds:
            continue
        found = ratio(seconds[name], seconds["rllava_jax"])
        lines.append(f"| {task}: at least {least} × {rival} | {_times(found)} | {_verdict(found.median >= least)} |")
    return [*lines, ""]


def _share(setting: Setting, part: Mapping[str, Any], peak: Mapping[str, Any]) -> str:
    rate = part["flops"] / spread(part["seconds"]["rllava_jax"]).median
    shares = ", ".join(f"{rate / best:.0%} of {library}'s" for library, best in peak["best"].items())
    own = rate / peak["best"]["jax"]
    return (
        f"The training step's {part['flops'] / 1e9:,.1f} GF of matrix products run at {rate / 1e9:,.0f} GF/s: {shares} "
        f"peak (goal: {SHARE_GOAL:.0%}; of jax's own: {_verdict(own >= SHARE_GOAL)})."
    )


def _input(part: Mapping[str, Any]) -> list[str]:
    per_core = {
        name: [part["images"] / part["machine"]["cores"] / value for value in seconds]
        for name, seconds in part["seconds"].items()
    }
    peers = [name for name in per_core if name.startswith("DataLoader")]
    best = max(peers, key=lambda name: spread(per_core[name]).median) if peers else None
    lines = [
        "### Input pipeline, SLAKE",
        "",
        "| | images a second and core | against the faster DataLoader |",
        "|---|---|---|",
    ]
    for name, values in per_core.items():
        against = _times(ratio(part["seconds"][best], part["seconds"][name])) if best and name not in peers else ""
        found = spread(values)
        lines.append(f"| {_bold(name)} | {found.median:.0f} ({found.least:.0f}–{found.most:.0f}) | {against} |")
    if best and "rllava_jax" in per_core:
        met = ratio(part["seconds"][best], part["seconds"]["rllava_jax"]).median >= INPUT_GOAL
        lines += ["", f"Goal: at least {INPUT_GOAL:.0f} times: {_verdict(met)}."]
    return lines


def _peak(part: Mapping[str, Any]) -> list[str]:
    libraries = list(part["rates"])
    lines = ["### Matrix-product peak, float32, GF/s", "", "| side | " + " | ".join(libraries) + " |"]
    lines.append("|---|" + "---|" * len(libraries))
    for side in part["rates"][libraries[0]]:
        lines.append(f"| {side} | " + " | ".join(f"{part['rates'][name][side] / 1e9:.0f}" for name in libraries) + " |")
    return lines


def _growth(part: Mapping[str, Any], peak: Mapping[str, Any] | None) -> list[str]:
    lines = [
        "### Growth of the training step",
        "",
        "| | seconds | GF | GF/s | of jax's peak | seconds a GF, against the first |",
        "|---|---|---|---|---|---|",
    ]
    if peak and peak["machine"]["cores"] != part["machine"]["cores"]:
        peak = None  # of other cores: no share of it says anything
    first: dict[str, float] = {}
    for row in part["rows"]:
        cost = row["seconds"] / row["flops"]
        rate = row["flops"] / row["seconds"]
        share = f"{rate / peak['best']['jax']:.0%}" if peak else "–"
        relative = cost / first.setdefault(row["axis"], cost)
        lines.append(
            f"| {row['axis']} {row['value']} | {row['seconds']:.2f} ({row['least']:.2f}–{row['most']:.2f}) | "
            f"{row['flops'] / 1e9:.1f} | {rate / 1e9:.0f} | {share} | {relative:.2f} |"
        )
    return [*lines, "", "![Seconds a training step against image tokens, text, regions and batch](growth.svg)"]


def _conditions(measured: Mapping[str, Any]) -> list[str]:
    lines = ["### How it was measured", ""]
    for command, seed in dict.fromkeys((part["command"], part["seed"]) for part in measured.values()):
        lines.append(f"- `{command}` (seed {seed})")
    for text in dict.fromkeys(json.dumps(part["machine"], sort_keys=True) for part in measured.values()):
        found = json.loads(text)
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        given = "".join(f"; {name}={value}" for name, value in found["environment"].items())
        count = f"{found['cores']} core{'s' if found['cores'] > 1 else ''}"
        where = f"{count} of {found['processor']}, {found['system']}"
        lines.append(f"- {where}; Python {found['python']}; {versions}{given}")
    return lines


def _label(task: str, setting: Setting) -> str:
    if task.startswith("decode"):
        return f"decode {setting.new_tokens} tokens, batch {task.split()[1]}"
    return task


def _milliseconds(found: Spread) -> str:
    return f"{found.median * 1e3:,.0f} ({found.least * 1e3:,.0f}–{found.most * 1e3:,.0f})"


def _times(found: Spread) -> str:
    return f"{found.median:.2f} × ({found.least:.2f}–{found.most:.2f})"


def _bold(name: str) -> str:
    return f"**{name}**" if name == "rllava_jax" else name


def _verdict(met: bool) -> str:
    return "met" if met else "missed"
