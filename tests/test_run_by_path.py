"""Commands also start by the path of their file, and in the folder of their package, whose names Python has too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("arguments", "folder", "said"),
    [
        (["data_pipelines/prepare.py", "--card", "slake"], ROOT, "SLAKE 1.0"),
        (["data_pipelines/inspect.py", "--help"], ROOT, "--near-bits"),
        (["-m", "data_pipelines.prepare", "--card", "slake"], ROOT / "data_pipelines", "SLAKE 1.0"),
        (["-c", "import inspect; print(inspect.signature(len))"], ROOT / "data_pipelines", "(obj, /)"),
    ],
)
@pytest.mark.slow
def test_pythons_own_inspect_is_found_beside_ours(arguments, folder, said):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert said in ended.stdout
