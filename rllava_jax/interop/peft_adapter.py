"""LoRA adapters as a folder that `peft` loads on the exported base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rllava_jax.config import Config
from rllava_jax.interop.shards import save_tensors
from rllava_jax.interop.stored_params import StoredCheckpoint, spelled_tensors
from rllava_jax.interop.streaming import StreamedArray

PREFIX = "base_model.model."  # peft's wrappers
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"

# A projection's module inside PaliGemmaForConditionalGeneration. "q_proj" alone would name the vision tower's too; the
# tower's own path has `vision_model` in transformers 4 and not in 5.
_DECODER = r".*language_model\.layers\.\d+\.{module}"
_VISION = r".*vision_tower\.(vision_model\.)?encoder\.layers\.\d+\.{module}"
_MODULES = {
    "q": _DECODER.format(module=r"self_attn\.q_proj"),
    "k": _DECODER.format(module=r"self_attn\.k_proj"),
    "v": _DECODER.format(module=r"self_attn\.v_proj"),
    "o": _DECODER.format(module=r"self_attn\.o_proj"),
    "gate": _DECODER.format(module=r"mlp\.gate_proj"),
    "up": _DECODER.format(module=r"mlp\.up_proj"),
    "down": _DECODER.format(module=r"mlp\.down_proj"),
    "vision.q": _VISION.format(module=r"self_attn\.q_proj"),
    "vision.k": _VISION.format(module=r"self_attn\.k_proj"),
    "vision.v": _VISION.format(module=r"self_attn\.v_proj"),
    "vision.o": _VISION.format(module=r"self_attn\.out_proj"),
    "vision.fc1": _VISION.format(module=r"mlp\.fc1"),
    "vision.fc2": _VISION.format(module=r"mlp\.fc2"),
    "head": r".*multi_modal_projector\.linear",
}


def write_adapter(folder: Path, adapters: Mapping[str, StreamedArray], stored: StoredCheckpoint) -> None:
    """Writes adapter_config.json and adapter_model.safetensors.

    Args:
      adapters: `…/lora…/{a,b}` arrays; all of them are written.
    """
    folder.mkdir()
    tensors = {PREFIX + "model." + name: value for _, name, value in spelled_tensors(adapters, stored.size)}
    save_tensors(folder / ADAPTER_WEIGHTS, tensors)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(adapter_config(stored.config), indent=2) + "\n", encoding="utf-8")


def adapter_config(config: Config) -> dict[str, object]:
    """peft's settings of the run's adapters. The base is whatever model they are put on, so it is not named."""
    lora = config.lora
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "target_modules": "|".join(f"({_MODULES[target]})" for target in lora.targets),
    }
