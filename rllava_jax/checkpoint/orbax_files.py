"""The small files beside the arrays of checkpoints/STEP, where Orbax's calls do not do what is needed.

assets/                files as they are, and SHA256SUMS; Orbax has an item for one file of JSON
metrics/metrics        the validation figures; Orbax has no call to add them after the save
_CHECKPOINT_METADATA   the items that the checkpoint was written with; Orbax restores without one that is gone
"""

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_manager
from typing_extensions import TypedDict

from data_pipelines.core.json_files import parse_json
from data_pipelines.core.paths import is_remote
from data_pipelines.core.schemas import file_as
from data_pipelines.core.values import Settled
from rllava_jax.checkpoint.file_sums import SUMS, require_sums, sums_of
from rllava_jax.runtime import hosts

logger = logging.getLogger(__name__)

CALIBRATION_FILE = "calibration.json"
_NAME = checkpoint_manager.METRIC_ITEM_NAME
_CHECKSUMS = "checksums"
_ITEMS = "_CHECKPOINT_METADATA"


class AssetsHandler(ocp.JsonCheckpointHandler):
    """Stores a few small files as they are, so that a person can open them, with their checksums in one more.

    `calibration.json`, which is added later and may be removed, has its own (`file_sums.sealed`).
    """

    @classmethod
    def typestr(cls) -> str:
        """What the record of a checkpoint's items says: those that were written before the sums have no number."""
        return f"{super().typestr()}/2"

    async def async_save(
        self, directory: epath.Path, item: object = None, args: ocp.args.JsonSave | None = None
    ) -> list[ocp.future.Future]:
        """Writes the files once Orbax has made the folder."""
        files: Mapping[str, bytes] = args.item if args else {}

        async def write() -> None:
            if ocp.multihost.is_primary_host(0):
                for name, content in {**files, SUMS: sums_of(files)}.items():
                    (directory / name).write_bytes(content)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="assets")]

    def restore(self, directory: epath.Path, item: object = None, args: object = None) -> dict[str, bytes]:
        """Reads every file but Orbax's own mark that the folder is whole.

        Raises:
          ValueError: one is not as it was written.
        """
        files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "commit_success.txt"}
        if (sums := files.pop(SUMS, None)) is not None:
            require_sums(files, sums, where=directory.name, apart=[CALIBRATION_FILE])
        elif _written_items(directory.parent).get(directory.name) == self.typestr():
            raise ValueError(f"{directory.name}/{SUMS}: missing")
        else:
            _say_unsummed(directory.parent)
        return files


@functools.cache  # a checkpoint is read more than once
def _say_unsummed(checkpoint: epath.Path) -> None:
    if jax.process_index() == 0:
        said = "was written before there were checksums of its assets, or of an import; taken as it is"
        logger.warning("%s: %s", checkpoint, said)


@ocp.args.register_with_handler(AssetsHandler, for_save=True, for_restore=True)
class Assets(ocp.args.JsonSave):
    """File name → content."""


def write_figures(checkpoint: Path, figures: Mapping[str, float]) -> None:
    """Gives a checkpoint its figures, whole or not at all."""
    remote = is_remote(checkpoint)  # where a write is whole or not at all, and folders cannot be renamed
    folder = checkpoint / (_NAME if remote else f"{_NAME}.partial")
    folder.mkdir(exist_ok=True)
    (folder / _NAME).write_text(json.dumps(dict(figures)))
    if not remote:
        folder.rename(checkpoint / _NAME)


def set_unreadable_aside(checkpoints: Path) -> None:
    """Renames figures that are damaged, with a warning: Orbax would open none of the checkpoints for their sake.

    All hosts call it; the first acts.
    """
    if jax.process_index() == 0:
        for file in sorted(checkpoints.glob(f"*/{_NAME}/{_NAME}")):
            try:
                parse_json(file.read_bytes(), str(file), remedy="", settled=Settled(str(file)))
            except ValueError:
                aside = file.with_name(f"{_NAME}.damaged")
                file.rename(aside)
                logger.warning("%s: damaged; renamed to %s, that checkpoint counts as not validated", file, aside.name)
    hosts.barrier("figures looked at")


def write_checksums(checkpoint: Path, sums: Mapping[str, int]) -> None:
    """Gives a checkpoint that has just been written, and that nobody sees yet, the sums of its arrays."""
    (checkpoint / _CHECKSUMS).mkdir()
    (checkpoint / _CHECKSUMS / f"{_CHECKSUMS}.json").write_text(json.dumps(dict(sums)))
    record = parse_json((checkpoint / _ITEMS).read_bytes(), _ITEMS, remedy="")
    record["item_handlers"][_CHECKSUMS] = ocp.JsonCheckpointHandler.typestr()
    (checkpoint / _ITEMS).write_text(json.dumps(record))


def stored_checksums(checkpoint: Path) -> dict[str, int]:
    """The sums of a checkpoint's arrays; none where it was written without. Raises ValueError: they are damaged."""
    path = checkpoint / _CHECKSUMS / f"{_CHECKSUMS}.json"
    return file_as(dict[str, int], path, remedy="take another step") if path.exists() else {}


def require_items(checkpoint: epath.Path, *names: str) -> None:
    """Checks that those of the named items which were written are there; none where there is no record of it.

    Raises:
      FileNotFoundError: one is gone. ValueError: the record is damaged.
    """
    written = _written_items(checkpoint)
    for name in names:
        if name in written and not (checkpoint / name).is_dir():
            raise FileNotFoundError(f"its folder {name} is missing")


class _Items(TypedDict):
    item_handlers: dict[str, str]


def _written_items(checkpoint: epath.Path) -> dict[str, str]:
    """Item → how it was written, as Orbax recorded it; none where there is no record. Raises ValueError."""
    record = checkpoint / _ITEMS
    try:
        return file_as(_Items, record, remedy="take another step")["item_handlers"] if record.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{_ITEMS} is damaged: {error!r}") from None
