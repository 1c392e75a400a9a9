"""Safetensors files with their index, written as tensors come."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes one safetensors file, which whoever may read its folder may read."""
    # transformers 4 wants to be told that the tensors are laid out as torch's.
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library's files are their owner's alone


def write_shards(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], *, shard_bytes: int) -> int:
    """Writes `model.safetensors`, or `model-00001-of-0000N.safetensors` and so on with their index.

    Args:
      tensors: name and values; at most one shard of them is held in memory.
      shard_bytes: a shard is closed before it would pass this size; one tensor larger than it has a shard of its own.

    Returns:
      Bytes of all tensors.
    """
    place: dict[str, int] = {}
    shard: dict[str, np.ndarray] = {}
    number, filled, total = 1, 0, 0

    def close() -> None:
        save_tensors(folder / f"model-{number:05d}.safetensors", shard)
        shard.clear()

    for name, value in tensors:
        if shard and filled + value.nbytes > shard_bytes:
            close()
            number, filled = number + 1, 0
        shard[name], place[name] = value, number
        filled, total = filled + value.nbytes, total + value.nbytes
    close()
    if number == 1:
        (folder / "model-00001.safetensors").rename(folder / "model.safetensors")
        return total
    names = {i: f"model-{i:05d}-of-{number:05d}.safetensors" for i in range(1, number + 1)}
    for i, file in names.items():
        (folder / f"model-{i:05d}.safetensors").rename(folder / file)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[i] for name, i in place.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return total
