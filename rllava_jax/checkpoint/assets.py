"""The small files of a checkpoint, as an item of Orbax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import orbax.checkpoint as ocp
from etils import epath


class AssetsHandler(ocp.AsyncCheckpointHandler):
    """Stores a few small files as they are, so that a person can open them."""

    async def async_save(self, directory: epath.Path, args: AssetsSave) -> list[ocp.future.Future]:
        """Writes the files once Orbax has made the folder."""

        async def write() -> None:
            if ocp.multihost.is_primary_host(0):
                self.save(directory, args)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="assets")]

    def save(self, directory: epath.Path, args: AssetsSave) -> None:
        """Writes the files now."""
        for name, content in args.files.items():
            (directory / name).write_bytes(content)

    def restore(self, directory: epath.Path, args: AssetsRestore | None = None) -> dict[str, bytes]:
        """Reads every file but Orbax's own mark that the folder is whole."""
        return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "commit_success.txt"}

    def finalize(self, directory: epath.Path) -> None:
        """Nothing is left to do."""


@ocp.args.register_with_handler(AssetsHandler, for_save=True)
@dataclasses.dataclass
class AssetsSave(ocp.args.CheckpointArgs):
    """File name → content."""

    files: Mapping[str, bytes]


@ocp.args.register_with_handler(AssetsHandler, for_restore=True)
@dataclasses.dataclass
class AssetsRestore(ocp.args.CheckpointArgs):
    """Reads all files."""
