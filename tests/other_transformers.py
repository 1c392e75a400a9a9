"""Runs code under transformers 4.57, which cannot be imported beside the version that the tests themselves use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_FOLDER = Path(os.environ.get("RLLAVA_TRANSFORMERS_457", _ROOT / ".venv" / "transformers-4.57"))
_REMEDY = "run `make test`, which installs it, or name its folder in RLLAVA_TRANSFORMERS_457"

# Another transformers that shadows this one would make every test here pass for nothing.
_PROLOGUE = """
import transformers
found = f"transformers {transformers.__version__} from {transformers.__file__}"
assert transformers.__version__.startswith("4.57."), found
"""


def run_with_transformers_457(code_or_script: str, *args: str | os.PathLike[str]) -> str:
    """What the code prints when run by this Python with transformers 4.57 in front, offline and without a GPU.

    Args:
      code_or_script: Python code, or the path of a .py file.
      *args: its sys.argv[1:].

    Raises:
      AssertionError: transformers 4.57 is not there, or the code failed; a test that could not run has not passed.
    """
    if not (_FOLDER / "transformers").is_dir():
        raise AssertionError(f"{_FOLDER}: no transformers 4.57 there; {_REMEDY}")
    code = Path(code_or_script).read_text(encoding="utf-8") if code_or_script.endswith(".py") else code_or_script
    environment = os.environ | {
        "PYTHONPATH": str(_FOLDER),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROLOGUE + code, *map(os.fspath, args)],
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
            f"under transformers 4.57 from {_FOLDER}, exit code {done.returncode}"
            f"{f'; {_REMEDY}' if wrong_version else ''}:\n{done.stderr[-4000:]}"
        )
    return done.stdout
