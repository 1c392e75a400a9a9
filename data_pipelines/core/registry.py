"""What modules export, found by a short name and imported only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from data_pipelines.core.errors import DataError


def named_export(exports: Mapping[str, str], name: str, *, what: str, setting: str, usual: str = "") -> Any:
    """The export of that name.

    Args:
      exports: name → module, and after a colon what it exports where that is not `usual`.
      what: a name is of, e.g. "data set", and
      setting: what gave it, e.g. "--data", both for the message.

    Raises:
      DataError: there is none; names the nearest.
    """
    if name not in exports:
        near = difflib.get_close_matches(name, exports, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(exports)}"
        raise DataError(f"{setting}: no {what} {name!r}; {remedy}")
    module, _, exported = exports[name].partition(":")
    return getattr(importlib.import_module(module), exported or usual)
