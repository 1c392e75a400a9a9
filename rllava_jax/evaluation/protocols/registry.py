"""The protocols by name; each module exports its `Protocol` under the name after the colon."""

from __future__ import annotations

import difflib
import importlib

from data_pipelines.records import DataError
from rllava_jax.evaluation.protocols.protocol import Protocol

_HERE = "rllava_jax.evaluation.protocols"
# To add a protocol, write its module and a line here.
MODULES = {
    "strict": f"{_HERE}.strict:STRICT",
    "slake": f"{_HERE}.published:SLAKE",
    "vqa_rad": f"{_HERE}.published:VQA_RAD",
    "pathvqa": f"{_HERE}.published:PATH_VQA",
    "llava_med_legacy": f"{_HERE}.llava_med_legacy:LLAVA_MED_LEGACY",
}


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
      DataError: there is none; names the nearest.
    """
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(MODULES)}"
        raise DataError(f"--protocol: no protocol {name!r}; {remedy}")
    module, _, exported = MODULES[name].partition(":")
    found: Protocol = getattr(importlib.import_module(module), exported)
    return found
