"""How much memory a program's process takes: of a GPU, what is planned with; on a CPU, what XLA frees is kept.

XLA for CPU allocates a program's temporaries in one piece when the program runs, and frees it when it ends. glibc maps
a piece of that size anew each time and unmaps it at once, so that the kernel fills every page with zeros at its first
touch, on one core, in every step: without that a training step of a small model takes a fifth to a quarter less time
(docs/PERFORMANCE.md). glibc reads these settings when a process starts, so a program that has none starts itself again.
"""

import importlib.util
import os
import platform
import signal
import sys
from collections.abc import Mapping
from importlib import metadata

from data_pipelines.core import exit_codes
from data_pipelines.core.signals import end_at_once

# The program that trains, and so runs many steps: the only one that starts itself again.
TRAINING = "rllava_jax.main"
# Others that run a model on many batches, with the same share of a GPU.
_EVALUATING = ("rllava_jax.evaluate", "rllava_jax.trust", "rllava_jax.calibrate")

# Of a GPU's memory; `planning/chips.py` counts with it. JAX would take three quarters; the CUDA context, cuBLAS and
# NCCL live in the rest.
GPU_SHARE = 0.92

# One heap for all threads, which grows and is never cut back, instead of a mapping for each large piece; in huge pages.
TUNABLES = (
    f"glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**62}:glibc.malloc.hugetlb=1"
)
_CHOSEN = ("GLIBC_TUNABLES", "LD_PRELOAD")  # where a user has set either, or MALLOC_…, memory is the user's affair


def start(program: str) -> None:
    """The first step of a process that runs the module `program`, before JAX is imported.

    From here on Ctrl-C ends it in one line, also while it imports.
    Conversion needs no accelerator, and must not claim one that a training run beside it uses: it runs on the CPU.
    Of programs that run many batches: sets the share of a GPU. Of training: on a CPU starts the process again, with the
    same number and arguments, where that keeps freed memory.
    """
    if program == TRAINING:
        said = "interrupted; run the same command again to resume"
        end_at_once(signal.SIGINT, signal.SIGTERM, line=said, code=exit_codes.INTERRUPTED)
    else:
        end_at_once(signal.SIGINT)
    if program == "rllava_jax.convert":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if program in (TRAINING, *_EVALUATING):
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(GPU_SHARE))
    if program == TRAINING and not is_chosen(os.environ) and platform.libc_ver()[0] == "glibc" and on_cpu_alone():
        print("starting again with GLIBC_TUNABLES set, so that freed memory is kept", file=sys.stderr, flush=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "GLIBC_TUNABLES": TUNABLES})


def is_chosen(environment: Mapping[str, str]) -> bool:
    """Whether the environment says how memory is allocated; an empty GLIBC_TUNABLES says: as ever."""
    return any(name in _CHOSEN or name.startswith("MALLOC_") for name in environment)


def on_cpu_alone() -> bool:
    """Whether JAX can only run on the CPU here: it is told so, or finds no plugin for anything else."""
    if told := os.environ.get("JAX_PLATFORMS"):
        return told == "cpu"
    plugins = metadata.entry_points(group="jax_plugins")
    return not plugins and not any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
