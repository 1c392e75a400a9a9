"""Which items a checkpoint was written with, by Orbax's own record of it: checkpoints/STEP/_CHECKPOINT_METADATA."""

from __future__ import annotations

import json

from etils import epath

_RECORD = "_CHECKPOINT_METADATA"


def written_items(checkpoint: epath.Path) -> frozenset[str]:
    """The names of the items; none where there is no record.

    Raises:
      ValueError: the record is damaged.
    """
    path = checkpoint / _RECORD
    if not path.exists():
        return frozenset()
    try:
        return frozenset(json.loads(path.read_text())["item_handlers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{_RECORD} is damaged: {error!r}") from None


def require_items(checkpoint: epath.Path, *names: str) -> None:
    """Checks that those of the named items which were written are there.

    Raises:
      FileNotFoundError: one is gone. ValueError: the record is damaged.
    """
    for name in sorted(written_items(checkpoint) & frozenset(names)):
        if not (checkpoint / name).is_dir():
            raise FileNotFoundError(f"its folder {name} is missing")
