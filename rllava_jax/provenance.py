"""What makes a result reproducible, written into the workdir and into every checkpoint."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from data_pipelines.preprocess import Preprocessor
from rllava_jax import __version__
from rllava_jax.atomic_files import write_atomically
from rllava_jax.checkpoint import CheckpointError
from rllava_jax.config import Config, ConfigError
from rllava_jax.config_loading import differences, from_json, to_json, upgraded

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


# Settings that change where data lies and how fast a run goes, but no number that comes out of it.
_FREE = ("data.root", "data.workers", "data.threads", "data.prefetch", "data.image_cache_mb", "train.log_every")


def check_workdir(workdir: Path, config: Config, *, evaluating: bool = False) -> bool:
    """Whether the workdir already holds a run, which must be of this very configuration.

    Args:
      evaluating: the run is only asked again: how it is asked, and on which devices, may differ too.

    Raises:
      ConfigError: it holds a run of another configuration; the differing fields are named.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir {workdir}: is a file; give a folder")
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl")):
            raise ConfigError(f"{path}: missing beside an earlier run's files; choose another --workdir")
        return False
    try:
        stored = upgraded(json.loads(path.read_text(encoding="utf-8"))["config"])
        names = differences(stored, to_json(config))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a run's configuration ({error!r}); choose another --workdir") from None
    free = (*_FREE, "evaluation", "mesh") if evaluating else _FREE
    changed = [name for name in names if not any(name == start or name.startswith(start + ".") for start in free)]
    if changed:
        listed = ", ".join(changed[:6]) + (" …" if len(changed) > 6 else "")
        raise ConfigError(
            f"{path}: this workdir holds a run with another {listed}; choose another --workdir, or remove this one"
        )
    return True


def stored_config(workdir: Path) -> dict[str, Any]:
    """The configuration in a workdir that `check_workdir` has accepted."""
    return upgraded(json.loads((workdir / "config.json").read_text(encoding="utf-8"))["config"])


def read_tokenizer(workdir: Path) -> bytes:
    """The run's tokenizer.

    Raises:
      ConfigError: it is missing, or not the one that the run began with.
    """
    path = workdir / "tokenizer.model"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; copy it from checkpoints/STEP/assets/tokenizer.model of this run"
        ) from None
    stored = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["tokenizer_sha256"]
    if hashlib.sha256(content).hexdigest() != stored:
        raise ConfigError(
            f"{path}: is not the run's own; copy checkpoints/STEP/assets/tokenizer.model of this run over it"
        )
    return content


def write_workdir(workdir: Path, config: Config, tokenizer_file: bytes) -> None:
    """Writes tokenizer.model, and then config.json: a workdir holds a run once that stands in it.

    The first host writes; the others wait for it.
    """
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "tokenizer.model").write_bytes(tokenizer_file)
        facts = describe(config) | {"tokenizer_sha256": hashlib.sha256(tokenizer_file).hexdigest()}
        write_atomically(workdir / "config.json", json.dumps(facts, indent=2) + "\n")
    barrier("workdir written")


def barrier(name: str) -> None:
    """Waits for all hosts."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


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
    """The configuration that a checkpoint was trained with.

    Raises:
      CheckpointError: a file is missing or damaged; it is named.
    """
    path = f"{where}/assets/config.json"
    missing = [name for name in ("config.json", "tokenizer.model") if name not in files]
    if missing:
        raise CheckpointError(f"{where}/assets/{missing[0]}: missing; the checkpoint is damaged, take another step")
    try:
        stored = upgraded(json.loads(files["config.json"])["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); take another step") from None
    return from_json(stored, where=path)
