"""Medical visual question answering that looks where a doctor points: PaliGemma with a region branch, in JAX.

    model = rllava_jax.load("runs/demo")
    answer = model.ask("scan.png", "What is the marked structure?", boxes=[(120, 88, 64, 70)])
    print(answer.text, answer.confidence)

Importing this package changes nothing and brings no JAX; what is below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllava_jax.inference.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in ("Predictor", "load"):
        raise AttributeError(f"module 'rllava_jax' has no attribute {name!r}")
    return getattr(importlib.import_module("rllava_jax.inference.predictor"), name)
