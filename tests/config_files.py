"""Configuration files written for a test, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

from expected_errors import refused

from data_pipelines.core.errors import UserError
from rllava_jax.config.loading import load


def write(folder: Path, body: str) -> Path:
    path = folder / "mine.py"
    path.write_text(f"from rllava_jax.config import *\n{body}\n")
    return path


def assert_refused(path: Path, code: str, *named: str, overrides: tuple[str, ...] = ()) -> None:
    """Loading is refused with this code, in one line that names everything in `named`."""
    with refused(UserError, code, *named):
        load(path, overrides)
