"""What imports and exports refuse. See `data_pipelines/core/errors.py` for lines and codes."""

from data_pipelines.core.errors import ConfigError
from rllava_jax.checkpoint.errors import CheckpointError


class UnsupportedImport(CheckpointError):
    """A published checkpoint has what this project cannot read."""

    code = "import.unsupported"


class MalformedImport(CheckpointError):
    """A file of a published checkpoint is damaged, or not of the kind that its name says."""

    code = "file.malformed"


class MissingImport(CheckpointError):
    """A published checkpoint, or a file of one, is not there."""

    code = "file.missing"


class TwoModels(CheckpointError):
    """A folder holds files of two published checkpoints."""

    code = "import.two-models"


class UnsupportedExport(ConfigError):
    """A run has what the asked format cannot hold."""

    code = "export.unsupported"
