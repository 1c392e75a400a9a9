"""The stored configuration of an earlier version, completed with the settings that were added since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields that version 0.1.0 did not have, with the values that mean what it did.
_ADDED: dict[str, Any] = {
    "data": {
        "mix": {},
        "mix_temperature": 0.0,
        "window": "auto",
        "long_examples_allowed": 0,
        "documents": {"train_images": 600, "validate_images": 60, "test_images": 120, "page_width": 256, "seed": 0},
    },
    "init": {"checkpoint": "", "step": "last"},
    "lora": {"rank": 0, "alpha": 32.0, "targets": ["q", "k", "v", "o", "gate", "up", "down"]},
    "model": {"dimensions": {}, "vocab": 0, "layers": "auto", "attention": "xla"},
    "optimizer": {
        "name": "adamw",
        "learning_rate_scale": {},
        "moment_dtype": "float32",
        "weight_decay_scale": {},
        "ema": 0.0,
    },
    "train": {
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "loss_chunk": 8,
        "on_bad_step": "stop",
        "spike_factor": 0.0,
        "max_skipped": 10,
        "data_wait_warning": 0.2,
        "stall_seconds": 300.0,
        "log_examples": False,
        "compilation_cache": "workdir",
    },
    "mesh": {"tensor": 1, "slices": 0},
    "evaluation": {"structures": []},
}


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `config_loading.to_json` of an earlier version wrote, with the fields that were added since."""
    filled = dict(values)
    for section, fields in _ADDED.items():
        present = filled.get(section, {})
        filled[section] = {**fields, **present} if isinstance(present, Mapping) else present
    model = filled["model"]
    if isinstance(model, dict) and isinstance(model.get("remat"), bool):  # it was a switch
        model["remat"] = "full" if model["remat"] else "none"
    data = filled["data"]
    if isinstance(data, dict) and isinstance(data.get("prompt"), Mapping):  # there was no such task
        data["prompt"] = {**data["prompt"], "caption": data["prompt"].get("caption", "caption {language}")}
    return filled
