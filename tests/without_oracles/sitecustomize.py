"""Hides the frameworks that only tests install, as in a user's environment; tensorboardX would import PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_HIDDEN = {"torch", "transformers", "peft"}


class _Hidden:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name in _HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _Hidden)  # type: ignore[arg-type]
