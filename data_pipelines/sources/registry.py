"""The data sets by name, each in a module of its own that exports `SOURCE` and is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib

from data_pipelines.cards import Source
from data_pipelines.records import DataError

# Name on the command line and in `data.source` → module. To add a data set, write its module and a line here.
MODULES = {
    "slake": "data_pipelines.sources.slake",
    "vqa_rad": "data_pipelines.sources.vqa_rad",
    "phantom": "data_pipelines.sources.phantom",
    "jsonl": "data_pipelines.sources.jsonl",
    "coco": "data_pipelines.sources.coco",
}


def source(name: str, *, setting: str) -> Source:
    """The data set of that name.

    Args:
      setting: what names it, for the message.

    Raises:
      DataError: there is none; names the nearest.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(MODULES)}"
        raise DataError(f"{setting}: no data set {name!r}; {remedy}")
    return importlib.import_module(MODULES[name]).SOURCE
