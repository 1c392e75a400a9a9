"""What makes a result reproducible, written into the workdir and into every checkpoint."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from data_pipelines.preprocess import Preprocessor
from rllava_jax import __version__
from rllava_jax.atomic_files import write_atomically
from rllava_jax.config import Config, ConfigError
from rllava_jax.config_loading import differences, from_json, to_json

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "numpy", "pillow")


def revision() -> str:
    """The code's git revision, "+changes" where the tree differs from it, or "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def describe(config: Config) -> dict[str, Any]:
    """The resolved configuration, code revision and versions."""
    return {
        "config": to_json(config),
        "rllava_jax": __version__,
        "revision": revision(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def check_workdir(workdir: Path, config: Config, *, ignore: tuple[str, ...] = ()) -> bool:
    """Whether the workdir already holds a run, which must be of this very configuration.

    Args:
      ignore: sections that may differ ("evaluation", when a finished run is only asked again).

    Raises:
      ConfigError: it holds a run of another configuration; the differing fields are named.
    """
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl")):
            raise ConfigError(f"{path}: missing beside an earlier run's files; choose another --workdir")
        return False
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a run's configuration ({error}); choose another --workdir") from None
    changed = [name for name in differences(stored, to_json(config)) if name.split(".")[0] not in ignore]
    if changed:
        listed = ", ".join(changed[:6]) + (" …" if len(changed) > 6 else "")
        raise ConfigError(f"{path}: this workdir holds a run with another {listed}; choose another --workdir")
    return True


def write_workdir(workdir: Path, config: Config, tokenizer_file: bytes) -> None:
    """Writes tokenizer.model, and then config.json: a workdir holds a run once that stands in it."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "tokenizer.model").write_bytes(tokenizer_file)
    write_atomically(workdir / "config.json", json.dumps(describe(config), indent=2) + "\n")


def assets(config: Config, preprocessor: Preprocessor, tokenizer_file: bytes) -> dict[str, bytes]:
    """The files that travel inside each checkpoint: all that prediction needs besides the weights."""
    preprocessing = {
        "image_size": preprocessor.image_size,
        "patch_size": preprocessor.patch_size,
        "resize": "bilinear with antialiasing, aspect ratio ignored, truncated to uint8",
        "pixel_range": "x / 127.5 - 1",
        "prompt": config.data.prompt,
        "tokenizer_sha256": preprocessor.tokenizer.sha256,
    }
    return {
        "config.json": json.dumps(describe(config), indent=2).encode(),
        "preprocessing.json": json.dumps(preprocessing, indent=2).encode(),
        "tokenizer.model": tokenizer_file,
    }


def config_from_assets(files: dict[str, bytes], *, where: str) -> Config:
    """The configuration that a checkpoint was trained with."""
    return from_json(json.loads(files["config.json"])["config"], where=f"{where}/config.json")
