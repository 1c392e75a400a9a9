"""LoRA adapters as a folder that `peft` loads on the exported base."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from rllava_jax.interop.layout import model_table, projection
from rllava_jax.interop.shards import save_tensors
from rllava_jax.interop.stored_params import StoredCheckpoint, spelled_tensors
from rllava_jax.interop.streaming import StreamedArray

PREFIX = "base_model.model."  # peft's wrappers
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(folder: Path, adapters: Mapping[str, StreamedArray], stored: StoredCheckpoint) -> None:
    """Writes adapter_config.json and adapter_model.safetensors.

    Args:
      adapters: `…/lora…/{a,b}` arrays; all of them are written.
    """
    folder.mkdir()
    tensors = {PREFIX + "model." + name: value for _, name, value in spelled_tensors(adapters, stored.size)}
    save_tensors(folder / ADAPTER_WEIGHTS, tensors)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(adapter_config(stored), indent=2) + "\n", encoding="utf-8")


def _module(theirs: str) -> str:
    """A pattern for a projection's module inside PaliGemmaForConditionalGeneration.

    Its whole path: "q_proj" alone would name the vision tower's too. The tower's own path has `vision_model` in
    transformers 4 and not in 5.
    """
    pattern = re.escape(theirs.removesuffix(".weight")).replace(r"\{layer\}", r"\d+")
    return ".*" + pattern.replace(r"vision_tower\.", r"vision_tower\.(vision_model\.)?")


def adapter_config(stored: StoredCheckpoint) -> dict[str, object]:
    """peft's settings of the run's adapters. The base is whatever model they are put on, so it is not named."""
    lora, table = stored.config.lora, model_table(stored.size)
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
        "target_modules": "|".join(f"({_module(projection(table, target).theirs)})" for target in lora.targets),
    }
