"""Programs on a CPU start with memory that is kept, and XLA's temporaries are then not mapped anew."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rllava_jax.planning.chips import CHIPS
from rllava_jax.runtime.process_memory import GPU_SHARE, TUNABLES, is_chosen, on_cpu_alone

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
    return done.stderr.splitlines()[-1].removeprefix("seen=")


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


def seen_by_import(code: str) -> dict[str, object]:
    """What a fresh interpreter says of itself after some imports."""
    say = "import json, os, sys; print(json.dumps([os.getpid(), dict(os.environ), sys.argv, sorted(sys.modules)]))"
    command = [sys.executable, "-X", "importtime", "-c", f"{code}\n{say}", "--mode", "compile"]
    with subprocess.Popen(
        command, env=environment(JAX_PLATFORMS="cpu"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        out, _ = process.communicate(timeout=60)
    pid, seen, argv, modules = json.loads(out)
    assert pid == process.pid
    return {"environment": seen, "argv": argv, "modules": set(modules)}


def test_importing_the_package_changes_nothing_and_brings_no_jax():
    without, with_it = seen_by_import("pass"), seen_by_import("import rllava_jax, rllava_jax.__main__")
    assert with_it["environment"] == without["environment"]
    assert with_it["argv"] == without["argv"]
    assert not {"jax", "numpy", "PIL", "orbax"} & with_it["modules"]


def test_importing_a_command_starts_nothing():
    """Only `python -m` and `rllava` do, in their first line."""
    without, with_it = seen_by_import("pass"), seen_by_import("import rllava_jax.main, rllava_jax.evaluate")
    of_jax, of_tensorboard = {"TPU_LIBRARY_PATH", "TPU_SKIP_MDS_QUERY", "TF_CPP_MIN_LOG_LEVEL"}, {"CRC32C_SW_MODE"}
    assert with_it["environment"].keys() - without["environment"].keys() <= of_jax | of_tensorboard
    assert with_it["argv"] == without["argv"]
    assert "GLIBC_TUNABLES" not in with_it["environment"]


@GLIBC
def test_the_command_of_all_commands_starts_programs_alike(tmp_path):
    path = tmp_path / "say.py"
    path.write_text('import os, sys\nsys.exit("seen=" + os.environ.get("GLIBC_TUNABLES", "unset"))\n')
    command = [sys.executable, "-m", "rllava_jax", "train", "--config", str(path), "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment(JAX_PLATFORMS="cpu"), capture_output=True, text=True, check=False)
    notice, seen = done.stderr.splitlines()
    assert "GLIBC_TUNABLES" in notice
    assert seen == f"seen={TUNABLES}"


def test_a_program_that_does_not_train_starts_once():
    command = [sys.executable, "-m", "rllava_jax.evaluate", "--list"]
    done = subprocess.run(command, env=environment(JAX_PLATFORMS="cpu"), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_memory_that_is_replaced_is_left_alone():
    assert is_chosen({"LD_PRELOAD": "libtcmalloc.so"})
    assert is_chosen({"MALLOC_ARENA_MAX": "2"})
    assert not is_chosen({"PATH": "/bin"})


def test_the_platform_that_jax_is_told_decides(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert on_cpu_alone()
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    assert not on_cpu_alone()
