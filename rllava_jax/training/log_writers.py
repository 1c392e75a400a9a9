"""Where the rows of a run's log go: metrics.jsonl, TensorBoard, and on request Weights & Biases."""

import hashlib
import json
import logging
import math
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.core.paths import absolute
from data_pipelines.core.storage import writing
from rllava_jax.config.stored import run_facts

logger = logging.getLogger(__name__)

_FLUSH_EVERY = 30.0  # seconds

# A step, and figures by name. One that is `bad` names the examples of a step whose update was not applied.
Row = Mapping[str, Any]


class Writer(Protocol):
    """Takes the rows of the log, in order; also what an observer of a run implements."""

    def write(self, row: Row) -> None:
        """Takes one row."""

    def flush(self) -> None:
        """Returns when the rows so far are in files; of itself where each row is written at once, or elsewhere."""
        return

    def close(self) -> None:
        """There are no more rows."""


class JsonLines(Writer):
    """A file of one JSON object a row, which a resumed run continues."""

    def __init__(self, path: Path, *, first_step: int):
        """Opens the file to append to it, without its rows after `first_step`."""
        _keep_until(path, first_step)
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Writes a row; JSON has no word for what is not finite, which becomes null."""
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        with writing(self._path):
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path):
            self._file.close()


class TensorBoard(Writer):
    """An event file of the rows' figures.

    Written in this thread: where the disk is full, tensorboardX's own dies, and the run would wait for it for ever.
    """

    def __init__(self, folder: Path, *, first_step: int):
        # Imports PyTorch where it is installed, which takes seconds: only what writes such files waits for that.
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder, self._flushed = folder, time.monotonic()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"))
        self._write(Event(file_version="brain.Event:2"))
        # Hides what a run that was killed wrote beyond its last checkpoint.
        self._write(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, row: Row) -> None:
        """Adds a scalar for every figure."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in _figures(row).items():
            # TensorBoard allows none of these in a name.
            self._write(Event(step=row["step"], summary=scalar(re.sub("[=:@]", "_", name), value)))
        if time.monotonic() - self._flushed > _FLUSH_EVERY:
            self.flush()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        with writing(self._folder):
            self._file.write(event.SerializeToString())

    def flush(self) -> None:
        """Writes what is buffered."""
        self._flushed = time.monotonic()
        with writing(self._folder):
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._folder):
            self._file.close()


class WeightsAndBiases(Writer):
    """A run of Weights & Biases, which a resumed run of the same workdir continues."""

    def __init__(self, project: str, workdir: Path, folder: Path):
        place = str(absolute(workdir))
        stored = workdir / "config.json"
        self._run = require_wandb(project).init(
            project=project,
            name=workdir.name,
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            config=run_facts(workdir) if stored.exists() else {},
        )

    def write(self, row: Row) -> None:
        """Logs the figures; those that it has from before an interruption it leaves as they are."""
        if figures := _figures(row):
            self._run.log(figures, step=row["step"])

    def close(self) -> None:
        """Waits for the upload."""
        self._run.finish()


def require_wandb(project: str) -> Any:
    """The package that `train.wandb_project` needs.

    Raises:
      ConfigError: it is not installed.
    """
    need = f"train.wandb_project: {project!r}"
    return optional_package("wandb", need, extra="wandb", otherwise="leave the setting empty")


def _figures(row: Row) -> dict[str, float]:
    if row.get("bad"):
        return {}
    return {name: value for name, value in row.items() if name != "step"}


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    lines = path.read_bytes().splitlines()
    for at, raw in enumerate(lines, start=1):
        try:
            row, line = parse_json(raw, str(path), remedy=""), raw.decode()
        except DataError:
            if at < len(lines):  # the last is one that a kill cut
                logger.warning("%s: line %d is damaged and is dropped", path, at)
            continue
        number = row.get("step") if isinstance(row, dict) else None
        if not isinstance(number, int):
            logger.warning("%s: a row without a step is dropped: %s", path, line[:200])
        elif number <= step:
            kept.append(line)
    write_atomically(path, "".join(line + "\n" for line in kept))
