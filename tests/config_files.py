"""Configuration files written for a test, and the one line that a wrong one gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from rllava_jax.config import ConfigError
from rllava_jax.config.loading import load_config


def write(folder: Path, body: str) -> Path:
    path = folder / "mine.py"
    path.write_text(f"from rllava_jax.config import *\n{body}\n")
    return path


def error_line(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    line = str(error.value)
    assert "\n" not in line
    return line
