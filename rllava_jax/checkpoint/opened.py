"""A checkpoint, opened: what it says of itself. Its arrays are not read yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import jax

from data_pipelines.core.paths import absolute
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.checkpoint.manager import Checkpoints, find_checkpoint
from rllava_jax.checkpoint.provenance import StartedFrom, config_from_assets, start_of, tokenizer_from_assets
from rllava_jax.config import Config


def workdir_of(checkpoints: Path) -> Path:
    """The workdir of a run, or the folder of an imported model, by the folder that holds its checkpoints."""
    folder = absolute(checkpoints)
    return folder.parent if folder.name == "checkpoints" else folder


@dataclass(frozen=True)
class OpenedCheckpoint:
    """One checkpoint of a run, or an imported model.

    Attributes:
      folder: of the run's checkpoints.
      config, tokenizer: those it was trained with.
      files: its assets, by name.
      shapes: of its parameters, by name.
    """

    folder: Path
    step: int
    config: Config
    tokenizer: Tokenizer
    files: Mapping[str, bytes]
    shapes: Mapping[str, jax.ShapeDtypeStruct]

    @classmethod
    def open(cls, path: Path, step: str | None = None) -> Self:
        """Opens what `manager.find_checkpoint` finds at a path.

        Args:
          step: last, best or a number; None takes what the path names.

        Raises:
          CheckpointError: there is none, or it cannot be read.
        """
        # The absolute path, so that a run opened as "." still has a name.
        folder, which = find_checkpoint(absolute(path), step)
        with Checkpoints(folder, read_only=True) as checkpoints:
            number = checkpoints.resolve(which)
            files, shapes = checkpoints.assets(number), checkpoints.shapes(number)
        where = str(folder / str(number))
        config, tokenizer = config_from_assets(files, where=where), tokenizer_from_assets(files, where=where)
        return cls(folder, number, config, tokenizer, files, shapes)

    @property
    def where(self) -> Path:
        """The checkpoint's own folder."""
        return self.folder / str(self.step)

    @property
    def workdir(self) -> Path:
        """Of its run, or the folder of the imported model."""
        return workdir_of(self.folder)

    @cached_property
    def record(self) -> StartedFrom:
        """What a run that starts from it writes down. Raises as `provenance.start_of`."""
        return start_of(self.files, name=self.workdir.name, step=self.step, where=str(self.where))
