"""Packages that only some commands need: an optional dependency that is missing is the user's to install."""

import importlib
from typing import Any

from data_pipelines.core.errors import MissingPackage


def install(extra: str) -> str:
    """The command that installs an extra of this package, which is on no index: in its folder."""
    return f"pip install -e '.[{extra}]'"


def optional_package(name: str, need: str, *, extra: str = "data", otherwise: str = "") -> Any:
    """Imports a module of an optional dependency.

    Args:
      need: what needs it, e.g. "DICOM files".
      extra: of this package, which installs it.
      otherwise: what to do without it, e.g. "skip the filter with --skip-filter language".

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        alternative = f", or {otherwise}" if otherwise else ""
        raise MissingPackage(
            f"{need}: the package {name.split('.')[0]} is not installed; run {install(extra)} in the project's folder"
            f"{alternative}"
        ) from None
