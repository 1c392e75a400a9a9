"""What imports and exports refuse. See `data_pipelines/core/errors.py` for lines and codes."""

from data_pipelines.core.errors import ConfigError
from rllava_jax.checkpoint.errors import CheckpointError


class UnsupportedImport(CheckpointError, code="import.unsupported"):
    """A published checkpoint has what this project cannot read."""


class MalformedImport(CheckpointError, code="file.malformed"):
    """A file of a published checkpoint is damaged, or not of the kind that its name says."""


class MissingImport(CheckpointError, code="file.missing"):
    """A published checkpoint, or a file of one, is not there."""


class TwoModels(CheckpointError, code="import.two-models"):
    """A folder holds files of two published checkpoints."""


class UnsupportedExport(ConfigError, code="export.unsupported"):
    """A run has what the asked format cannot hold."""
