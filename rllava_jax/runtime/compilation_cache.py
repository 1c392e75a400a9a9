"""Compiled programs kept on disk, so that a second start, of a run or of a prediction, need not compile."""

import dataclasses
import hashlib
import os
import platform
from pathlib import Path

import jax

from data_pipelines.core.paths import is_remote
from rllava_jax.config import Config

_FOLDER = "compilation_cache"


def keep_compiled(config: Config, workdir: Path) -> None:
    """Sets the folder of compiled programs; JAX_COMPILATION_CACHE_DIR in the environment goes before the setting."""
    folder = config.train.compilation_cache
    if not folder or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if folder == "workdir":
        folder = str(workdir / _FOLDER)
    if jax.default_backend() == "cpu":
        # Programs for a CPU use the instructions of the machine that compiled them, which JAX's key does not name.
        folder = f"{folder}/cpu-{hashlib.sha256(_cpu().encode()).hexdigest()[:8]}"
    jax.config.update("jax_compilation_cache_dir", folder)
    # Programs that compile faster are hundreds, of single operations, and reading them costs as much.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def keep_compiled_of(config: Config, workdir: Path) -> None:
    """As `keep_compiled`, for what only reads a checkpoint: nothing where a folder is set already.

    Where the run's own folder cannot be written, or is remote, the user's cache folder takes its place.

    Args:
      workdir: the checkpoint's, or the folder of an imported model.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    setting = config.train.compilation_cache
    if not _writable(workdir if setting == "workdir" else Path(setting)):
        workdir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rllava_jax"
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, compilation_cache="workdir"))
    keep_compiled(config, workdir)


def _writable(folder: Path) -> bool:
    """Whether a folder that may not be there yet can be written."""
    if is_remote(folder):
        return False
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return os.access(there, os.W_OK)


def _cpu() -> str:
    """What distinguishes this machine's CPU: its instruction sets where Linux lists them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(dict.fromkeys(named)) or f"{platform.machine()} {platform.processor()}"
