"""Weights of other libraries in a form that cannot be imported, named for what they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.core.errors import DataError
from data_pipelines.core.first_bytes import disguise_of
from data_pipelines.core.json_files import raw_json

_ADAPTER = "adapter_config.json"
_ORIGINAL = "give the original's safetensors in float32, float16 or bfloat16"
_PICKLES = (".bin", ".pt", ".pth")


def unusable_weights(path: Path) -> str:
    """What a file or folder of weights is, with the remedy, as a predicate; "" where nothing of the kind is known.

    That is adapters without their base, quantised weights, pointers of Git LFS and failed downloads, PyTorch's pickles.
    """
    if path.is_file():
        return "" if path.suffix == ".npz" and _begins(path, b"PK") else _disguise(path)
    if not path.is_dir():
        return ""
    named = {child.name: child for child in sorted(path.iterdir()) if child.is_file()}
    for name, child in named.items():
        if child.suffix in (".safetensors", ".gguf") and (said := _disguise(child)):
            return f"holds {name}, which {said}"
    settings = _json(path / "config.json").get("quantization_config") or next(
        (_json(named[name]) for name in ("quantize_config.json", "quant_config.json") if name in named), None
    )
    if isinstance(settings, Mapping):
        method = str(settings.get("quant_method") or ", ".join(map(str, settings)))[:40]
        return f"holds quantised weights (quantization_config: {method}); {_ORIGINAL}"
    whole = any(name.startswith("model") and name.endswith((".safetensors", ".json")) for name in named)
    if not whole and any(name == _ADAPTER or name.startswith("adapter_model") for name in named):
        base = _json(path / _ADAPTER).get("base_model_name_or_path")
        of = f" of {base}" if isinstance(base, str) and base else ""
        return f"holds adapters alone, without the model{of}; merge them into it (peft: merge_and_unload) and save that"
    pickles = [name for name, child in named.items() if child.suffix in _PICKLES]
    if pickles and not any(name.endswith(".safetensors") for name in named):
        return f"holds PyTorch's pickles ({pickles[0]}), which are never opened; save the model as safetensors"
    return ""


def _disguise(path: Path) -> str:
    return f"is {said}" if (said := disguise_of(path)) else ""


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing: what is wrong with the file its reader says."""
    try:
        values = raw_json(str(path)) if path.is_file() else {}
    except DataError:
        return {}
    return values if isinstance(values, dict) else {}
