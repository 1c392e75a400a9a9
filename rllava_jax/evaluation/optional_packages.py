"""Packages of the extra `evaluation`, imported only where their scores are asked for."""

from __future__ import annotations

import importlib
from typing import Any

from data_pipelines.core.errors import DataError


def optional(module: str, *, package: str) -> Any:
    """The module of an optional package.

    Raises:
      DataError: it is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f"the package {package} is not installed; install it with pip install 'rllava-jax[evaluation]'",
            code="package.missing",
        ) from None
