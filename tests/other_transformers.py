"""Runs code under other versions of transformers, none of which can be imported beside the tests' own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

# Another transformers that shadows this one would make every test here pass for nothing.
_PROLOGUE = """
import transformers
found = f"transformers {transformers.__version__} from {transformers.__file__}"
assert transformers.__version__.startswith("VERSION."), found
"""


def run_with_transformers(version: str, code_or_script: str, *args: str | os.PathLike[str]) -> str:
    """What the code prints when run by this Python with that transformers in front, offline and without a GPU.

    A FutureWarning fails: exported code is to be ahead of what transformers takes away.

    Args:
      version: 4.57, or 5.24, without which a test is skipped.
      code_or_script: Python code, or the path of a .py file.
      *args: its sys.argv[1:].

    Raises:
      AssertionError: transformers 4.57 is not there, or the code failed; a test that could not run has not passed.
    """
    variable = f"RLLAVA_TRANSFORMERS_{version.replace('.', '')}"
    folder = Path(os.environ.get(variable, _ROOT / ".venv" / f"transformers-{version}"))
    remedy = f"run `make test`, which installs it, or name its folder in {variable}"
    if not (folder / "transformers").is_dir():
        message = f"{folder}: no transformers {version} there; {remedy}"
        if version != "4.57":
            pytest.skip(message)
        raise AssertionError(message)
    code = Path(code_or_script).read_text(encoding="utf-8") if code_or_script.endswith(".py") else code_or_script
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    prologue = _PROLOGUE.replace("VERSION", version)
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", prologue + code, *map(os.fspath, args)],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        wrong_version = "AssertionError: transformers " in done.stderr
        raise AssertionError(
            f"under transformers {version} from {folder}, exit code {done.returncode}"
            f"{f'; {remedy}' if wrong_version else ''}:\n{done.stderr[-4000:]}"
        )
    return done.stdout


run_with_transformers_457 = functools.partial(run_with_transformers, "4.57")
