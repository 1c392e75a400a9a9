"""What modules export, found by a short name and imported only when it is asked for."""

import difflib
import importlib
from collections.abc import Collection, Mapping
from typing import Any

from data_pipelines.core.errors import UnknownName


def nearest(name: str, known: Collection[str], *, listed: str = "") -> str:
    """The remedy for a name that is not among the known ones: the one that was probably meant, or all of them.

    Args:
      listed: says in short what there is, where the known names are too many.
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {listed or ', '.join(known)}"


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
        raise UnknownName(f"{setting}: no {what} {name!r}; {nearest(name, exports)}")
    module, _, exported = exports[name].partition(":")
    return getattr(importlib.import_module(module), exported or usual)
