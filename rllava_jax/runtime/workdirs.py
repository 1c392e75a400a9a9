"""Where a run lives."""

from pathlib import Path

from data_pipelines.core.paths import absolute


def workdir_of(checkpoints: Path) -> Path:
    """The workdir of a run, or the folder of an imported model, by the folder that holds its checkpoints."""
    folder = absolute(checkpoints)
    return folder.parent if folder.name == "checkpoints" else folder
