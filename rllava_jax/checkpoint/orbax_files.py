"""Orbax's own small files beside the arrays of checkpoints/STEP, where its calls do not do what is needed.

metrics/metrics        the validation figures; Orbax has no call to add them after the save
_CHECKPOINT_METADATA   the items that the checkpoint was written with; Orbax restores without one that is gone
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
from etils import epath
from orbax.checkpoint import checkpoint_manager

from data_pipelines.core.paths import is_remote
from rllava_jax.runtime import hosts

logger = logging.getLogger(__name__)

_NAME = checkpoint_manager.METRIC_ITEM_NAME
_ITEMS = "_CHECKPOINT_METADATA"


def write_figures(checkpoint: Path, figures: Mapping[str, float]) -> None:
    """Gives a checkpoint its figures, whole or not at all."""
    folder, content = checkpoint / _NAME, json.dumps(dict(figures))
    if is_remote(checkpoint):  # where a write is whole or not at all, and folders cannot be renamed
        folder.mkdir(exist_ok=True)
        (folder / _NAME).write_text(content)
        return
    partial = checkpoint / f"{_NAME}.partial"
    partial.mkdir(exist_ok=True)
    (partial / _NAME).write_text(content)
    partial.rename(folder)


def set_unreadable_aside(checkpoints: Path) -> None:
    """Renames figures that are damaged, with a warning: Orbax would open none of the checkpoints for their sake.

    All hosts call it; the first acts.
    """
    if jax.process_index() == 0:
        for file in sorted(checkpoints.glob(f"*/{_NAME}/{_NAME}")):
            try:
                json.loads(file.read_text())
            except ValueError:
                aside = file.with_name(f"{_NAME}.damaged")
                file.rename(aside)
                logger.warning("%s: damaged; renamed to %s, that checkpoint counts as not validated", file, aside.name)
    hosts.barrier("figures looked at")


def written_items(checkpoint: epath.Path) -> frozenset[str]:
    """The names of the items; none where there is no record.

    Raises:
      ValueError: the record is damaged.
    """
    path = checkpoint / _ITEMS
    if not path.exists():
        return frozenset()
    try:
        return frozenset(json.loads(path.read_text())["item_handlers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{_ITEMS} is damaged: {error!r}") from None


def require_items(checkpoint: epath.Path, *names: str) -> None:
    """Checks that those of the named items which were written are there.

    Raises:
      FileNotFoundError: one is gone. ValueError: the record is damaged.
    """
    for name in sorted(written_items(checkpoint) & frozenset(names)):
        if not (checkpoint / name).is_dir():
            raise FileNotFoundError(f"its folder {name} is missing")
