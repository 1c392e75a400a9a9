"""How the training step's time grows with image tokens, text, regions and batch; this project alone.

Time and analytic flops of each case, so that a case whose time grows faster than its arithmetic shows. Attention
weights are recomputed in the backward pass (remat "attention"): those of 4,096 image tokens need over 20 GiB.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rllava_jax.config import Config, RegionConfig
from rllava_jax.interop.import_checkpoint import imported_config
from rllava_jax.model.sharding import make_mesh, to_devices
from rllava_jax.model.sizes import PaliGemmaConfig, dimensions_of
from rllava_jax.training.program import initial_state, make_program
from rllava_jax.training.step import make_train_step
from speed.flops import example_flops
from speed.ours import model_batch, training_options
from speed.setting import Setting, training_batch


class Case(NamedTuple):
    """One point of one curve."""

    axis: str
    value: int
    side: int = 224
    text: int = 40
    regions: int = 0
    batch: int = 1


CASES = (
    *(Case("image tokens", (side // 14) ** 2, side=side) for side in (224, 448, 896)),
    *(Case("text tokens", text, text=text) for text in (40, 128, 512)),
    *(Case("regions", count, regions=count) for count in (0, 1, 4, 8)),
    *(Case("batch", count, batch=count) for count in (1, 2, 4, 8)),
)


def measure_growth(setting: Setting, cases: tuple[Case, ...] = CASES, *, repeats: int = 3) -> list[dict[str, Any]]:
    """A row per case: seconds (median, least, most) and flops of a training step."""
    rows, known = [], {}
    for case in cases:
        key = case[2:]
        if key not in known:
            known[key] = _measure(setting, case, repeats)
        rows.append({"axis": case.axis, "value": case.value, **known[key]})
        print(f"{case.axis} {case.value}: {known[key]['seconds']:.2f} s", flush=True)
    return rows


def _measure(setting: Setting, case: Case, repeats: int) -> dict[str, float]:
    vision = dataclasses.replace(setting.size.vision, image_size=case.side)
    size = PaliGemmaConfig(vision, setting.size.decoder)
    setting = dataclasses.replace(setting, size=size, batch=case.batch, text=case.text)
    config = _config(size, case.regions)
    mesh = make_mesh(config.mesh)
    made = make_program(config, mesh, vocab=size.decoder.vocab, steps=1000, warmup=0)
    state = initial_state(config, made, vocab=size.decoder.vocab)
    step = make_train_step(made, config, mesh)
    batch = model_batch(training_batch(setting)) | _regions(config.regions, case, vision.patch)
    seconds = []
    for turn in range(repeats + 1):
        started = time.perf_counter()
        state, metrics = step(state, to_devices(batch, mesh))
        jax.block_until_ready((state, metrics))
        if turn:
            seconds.append(time.perf_counter() - started)
    chunk = config.train.loss_chunk
    flops = example_flops(
        size,
        text=case.text - 1,
        predicted=-(-setting.answer // chunk) * chunk,
        training=True,
        regions=config.regions if case.regions else None,
    )
    return {
        "seconds": float(np.median(seconds)),
        "least": min(seconds),
        "most": max(seconds),
        "flops": float(flops * case.batch),
    }


def _config(size: PaliGemmaConfig, regions: int) -> Config:
    config = training_options(imported_config(size))
    model = dataclasses.replace(config.model, size="custom", dimensions=dimensions_of(size), remat="attention")
    encoders = ("crop",) if regions else ()
    return dataclasses.replace(
        config, model=model, regions=RegionConfig(encoders=encoders, max_regions=max(regions, 1))
    )


def _regions(config: RegionConfig, case: Case, patch: int) -> dict[str, np.ndarray]:
    if not case.regions:
        return {}
    draw = np.random.default_rng(0)
    slots, side = (case.batch, case.regions), config.crop_size
    low = draw.uniform(0, 0.5, (*slots, 2))
    return {
        "regions": np.concatenate([low, low + 0.25], axis=-1).astype(np.float32),
        "region_valid": np.ones(slots, bool),
        "region_pixels": draw.integers(0, 256, (*slots, side, side, 3), np.uint8),
        "region_crop_coverage": np.ones((*slots, side // patch, side // patch), np.float32),
    }


def plot_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel an axis: measured seconds, and what they would be if they grew as the flops do."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    with plt.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}):
        figure, panels = plt.subplots(1, len(axes_names), figsize=(2.7 * len(axes_names), 2.6), layout="constrained")
        for panel, name in zip(np.atleast_1d(panels), axes_names, strict=True):
            of = [row for row in rows if row["axis"] == name]
            x, seconds = [row["value"] for row in of], [row["seconds"] for row in of]
            scaled = [seconds[0] * row["flops"] / of[0]["flops"] for row in of]
            panel.plot(x, scaled, color="0.6", linestyle="--", label="as the flops")
            panel.plot(x, seconds, color="#1f5a96", marker="o", label="measured")
            panel.set(xlabel=name, ylim=(0, 1.1 * max(seconds + scaled)), xticks=x)
            if name == "image tokens":
                panel.set_xticks([1024, 4096])
            panel.spines[["top", "right"]].set_visible(False)
        panels = np.atleast_1d(panels)
        panels[0].set_ylabel("seconds a training step")
        panels[0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
