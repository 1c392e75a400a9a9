"""What is wrong with a checkpoint. See `data_pipelines/core/errors.py` for lines and codes."""

from __future__ import annotations

from data_pipelines.core.errors import UserError


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing or damaged; the message names its folder and the remedy."""
