"""Compiled programs kept on disk, so that a second start of a run need not compile."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax

from rllava_jax.config import Config


def keep_compiled(config: Config, workdir: Path) -> None:
    """Sets the folder of compiled programs; JAX_COMPILATION_CACHE_DIR in the environment goes before the setting."""
    folder = config.train.compilation_cache
    if not folder or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if folder == "workdir":
        folder = str(workdir / "compilation_cache")
    if jax.default_backend() == "cpu":
        # Programs for a CPU use the instructions of the machine that compiled them, which JAX's key does not name.
        folder = f"{folder}/cpu-{hashlib.sha256(_cpu().encode()).hexdigest()[:8]}"
    jax.config.update("jax_compilation_cache_dir", folder)
    # Programs that compile faster are hundreds, of single operations, and reading them costs as much.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _cpu() -> str:
    """What distinguishes this machine's CPU: its instruction sets where Linux lists them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(dict.fromkeys(named)) or f"{platform.machine()} {platform.processor()}"
