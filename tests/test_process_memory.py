"""Programs on a CPU start with memory that is kept, and XLA's temporaries are then not mapped anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rllava_jax.planning.chips import CHIPS
from rllava_jax.runtime.process_memory import GPU_SHARE, TUNABLES, is_chosen, is_program, on_cpu_alone

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# Prints how many pages the last of some runs of a program with large temporaries touched for the first time.
TOUCHED = """
import resource, jax, jax.numpy as jnp
step = jax.jit(lambda x: (x @ x.T) @ x)
x = jnp.ones((4000, 8))
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def environment(**changes: str) -> dict[str, str]:
    unset = {"XLA_PYTHON_CLIENT_MEM_FRACTION", "GLIBC_TUNABLES", "LD_PRELOAD", "JAX_PLATFORMS"}
    kept = {name: value for name, value in os.environ.items() if name not in unset and not name.startswith("MALLOC_")}
    return {**kept, **changes}


def seen(name: str, folder: Path, *options: str, **changes: str) -> str:
    """What a configuration file sees of an environment variable when a program loads it."""
    path = folder / "say.py"
    path.write_text(f'import os, sys\nsys.exit("seen=" + os.environ.get("{name}", "unset"))\n')
    command = [
        sys.executable,
        *options,
        "-m",
        "rllava_jax.main",
        "--config",
        str(path),
        "--workdir",
        str(folder / "run"),
    ]
    done = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, check=False)
    return done.stderr.strip().removeprefix("seen=")


@GLIBC
def test_a_program_on_a_cpu_starts_with_memory_that_is_kept(tmp_path):
    assert seen("GLIBC_TUNABLES", tmp_path, "-X", "faulthandler", JAX_PLATFORMS="cpu") == TUNABLES


@GLIBC
def test_what_the_environment_says_of_memory_stands(tmp_path):
    assert seen("GLIBC_TUNABLES", tmp_path, JAX_PLATFORMS="cpu", GLIBC_TUNABLES="") == ""


def test_a_program_on_an_accelerator_starts_once(tmp_path):
    assert seen("GLIBC_TUNABLES", tmp_path, JAX_PLATFORMS="cuda") == "unset"


def test_a_program_takes_the_share_of_a_gpu_that_is_planned_with(tmp_path):
    assert seen("XLA_PYTHON_CLIENT_MEM_FRACTION", tmp_path, JAX_PLATFORMS="cuda") == str(GPU_SHARE)
    assert CHIPS["h100"].usable == GPU_SHARE * CHIPS["h100"].memory


@GLIBC
@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_xla_maps_its_temporaries_anew_in_each_step_unless_memory_is_kept():
    def touched(**changes: str) -> int:
        command = [sys.executable, "-c", TOUCHED]
        return int(subprocess.run(command, env=environment(**changes), capture_output=True, check=True).stdout)

    pages = 4000 * 4000 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert touched(JAX_PLATFORMS="cpu") >= pages
    assert touched(JAX_PLATFORMS="cpu", GLIBC_TUNABLES=TUNABLES) < pages // 10


@pytest.mark.parametrize(
    ("command", "arguments", "restarted"),
    [
        ("python -m rllava_jax.main --config x.py", "-m --config x.py", True),
        ("python -W ignore -m rllava_jax.evaluate", "-m", True),
        ("python -m rllava_jax.predict", "-m", False),
        ("python -m pytest -m rllava_jax.main", "pytest -m rllava_jax.main", False),
        ("python tool.py -m rllava_jax.main", "tool.py -m rllava_jax.main", False),
        ("python", "", False),
    ],
)
def test_only_programs_that_run_many_steps_start_again(command, arguments, restarted):
    assert is_program(command.split(), arguments.split()) is restarted


def test_memory_that_is_replaced_is_left_alone():
    assert is_chosen({"LD_PRELOAD": "libtcmalloc.so"})
    assert is_chosen({"MALLOC_ARENA_MAX": "2"})
    assert not is_chosen({"PATH": "/bin"})


def test_the_platform_that_jax_is_told_decides(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert on_cpu_alone()
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert not on_cpu_alone()
