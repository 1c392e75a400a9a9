"""Validation figures beside a checkpoint, in the file in which Orbax keeps them: checkpoints/STEP/metrics/metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
from orbax.checkpoint import checkpoint_manager

from data_pipelines.core.paths import is_remote
from rllava_jax.runtime import hosts

logger = logging.getLogger(__name__)

_NAME = checkpoint_manager.METRIC_ITEM_NAME


def write_figures(checkpoint: Path, figures: Mapping[str, float]) -> None:
    """Gives a checkpoint its figures, whole or not at all. Orbax has no call for it after the save."""
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
