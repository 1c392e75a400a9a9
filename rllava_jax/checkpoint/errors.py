"""What is wrong with a checkpoint. See `data_pipelines/core/errors.py` for lines and codes."""

from collections.abc import Sequence

from data_pipelines.core.errors import UserError, listed


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing or damaged; the message names its folder and the remedy."""


class MissingCheckpoint(CheckpointError, code="checkpoint.missing"):
    """There is no checkpoint where one should be."""


class DamagedCheckpoint(CheckpointError, code="checkpoint.damaged"):
    """A checkpoint is incomplete, or its content is not what was written."""


class CheckpointMismatch(CheckpointError, code="checkpoint.mismatch"):
    """A checkpoint is of another run, model or mesh than the one that reads it."""


def mismatches(*, missing: Sequence[str], unexpected: Sequence[str], ill_shaped: Sequence[str], most: int) -> str:
    """The names that do not fit a model, counted by what is wrong, the first `most` of each named; "" for none."""
    kinds = {"missing": missing, "unexpected": unexpected, "ill-shaped": ill_shaped}
    return "; ".join(f"{len(names)} {kind} ({listed(names, most)})" for kind, names in kinds.items() if names)
