"""What imports and exports refuse. See `data_pipelines/core/errors.py` for lines and codes."""

from __future__ import annotations

from data_pipelines.core.errors import ConfigError
from rllava_jax.checkpoint.errors import CheckpointError


class UnsupportedImport(CheckpointError):
    """A published checkpoint has what this project cannot read."""

    code = "import.unsupported"


class UnsupportedExport(ConfigError):
    """A run has what the asked format cannot hold."""

    code = "export.unsupported"
