"""One program at a time writes a folder; a second one is refused at once, with the name of the first.

A lock is a small file that says who writes: host, process, when that process began. It is held in two ways, since each
alone fails somewhere: by `flock`, which the kernel drops however the process ends, but which some shared file systems
do not carry from host to host and buckets do not have; and by a beat, a touch of the file every `BEAT` seconds.

What a dead process left behind is recognised, and taken over with one line:

    of this machine        at once, by the process list: nobody has that number, or somebody who began at another time
    of another host        after `SILENCE` seconds without a beat, for which the newcomer waits and says so

In a bucket two programs that begin within the same second could both believe that they are first: each reads again, a
second later, what it wrote, and the one that was overwritten gives way. A program that finds that its lock was taken
(its host was out of reach for longer than `SILENCE`) ends at once, before it writes among another's files.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from data_pipelines.core import exit_codes
from data_pipelines.core.errors import ConfigError, DataError, UnwritableFile
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.paths import is_remote

logger = logging.getLogger(__name__)

LOCK_FILE = "writer.json"
BEAT = 15.0  # seconds
SILENCE = 3 * BEAT
_SETTLES = 1.0  # seconds after which what two wrote into a bucket at once is what both read
_CHILDREN_END = 5.0  # seconds in which the children of a killed process, who share its flock, have noticed
_OLD = 3600.0  # seconds without a beat that no disagreement between clocks explains


class InUse(ConfigError, code="file.in-use"):
    """Another program writes there."""


@contextlib.contextmanager
def sole_writer(lock: Path, *, what: str) -> Iterator[None]:
    """Holds the lock file within the block. Folders that it needs are made; those that stay empty are removed again.

    Args:
      lock: its place, in or beside what is written.
      what: which option names that place, with its value, for messages.

    Raises:
      InUse: another program holds it.
      UnwritableFile: it cannot be written.
    """
    held = (_RemoteLock if is_remote(lock) else _LocalLock)(lock, what)
    made = [] if is_remote(lock) else [f for f in (lock.parent, *lock.parent.parents) if not f.exists()]
    try:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.take()
        except OSError as error:
            raise UnwritableFile(
                f"{what}: cannot be made or written ({error.strerror or error}); name a folder that you may write"
            ) from None
        ended = threading.Event()
        beating = threading.Thread(target=_beats, args=(held, ended), name="lock", daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            held.release()
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # something was written there
                folder.rmdir()


class _Lock:
    """What both kinds do: read who holds it, and judge whether that one lives."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what
        self.record: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "started": _started(os.getpid()),
            "machine": _machine(),
            "token": uuid.uuid4().hex,
        }

    def holder(self) -> dict[str, Any]:
        """What the file says; nothing where it is not there, or was cut short."""
        try:
            content = parse_json(self.path.read_bytes().decode(), str(self.path), remedy="remove it")
        except (OSError, DataError, UnicodeDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    def is_lost(self) -> bool:
        """Whether somebody else has it."""
        return self.holder().get("token", self.record["token"]) != self.record["token"]

    def require_dead(self, holder: dict[str, Any], *, flocked: bool) -> None:
        """Returns when the holder is known not to write any more, and says so.

        Args:
          flocked: this process has the flock of the file, which no process of this machine has thus.

        Raises:
          InUse: it may live.
        """
        here = self.record["machine"]
        if here and str(holder.get("machine", "")).split(" ")[0] == here.split(" ")[0] and flocked:
            why = "is not running any more"
        elif here and holder.get("machine") == here:
            if _runs(holder):
                self.refuse(holder)
            why = "is not running any more"
        else:
            self._watch(holder)
            why = "has not been heard of"
        logger.warning("%s: %s, which wrote there, %s; going on in its place", self.what, named(holder), why)

    def _watch(self, holder: dict[str, Any]) -> None:
        """Waits for a beat, and refuses when there is one."""
        since, seen = time.monotonic(), self.beat()
        if seen is None or time.time() - seen[1] > _OLD:
            return
        logger.warning(
            "%s: %s writes there, or was ended; waiting up to %.0f s for a sign of it",
            self.what,
            named(holder),
            SILENCE,
        )
        while time.monotonic() - since < SILENCE:
            time.sleep(min(BEAT / 15, 1.0))
            beat = self.beat()
            if beat is None:
                return
            if beat != seen:
                self.refuse(self.holder() or holder)

    def refuse(self, holder: dict[str, Any]) -> NoReturn:
        """Raises InUse."""
        raise InUse(
            f"{self.what}: {named(holder)} writes there (its lock is {self.path}); wait for its end, stop it, or "
            "choose another folder"
        )

    def beat(self) -> tuple[str, float] | None:
        """What differs after each beat, and when the last one was; None where the file is gone."""
        raise NotImplementedError


class _LocalLock(_Lock):
    def take(self) -> None:
        until = time.monotonic() + _CHILDREN_END
        while not self._taken():
            holder = self.holder()
            dead = self.record["machine"] == holder.get("machine") and not _runs(holder)
            if not dead or time.monotonic() > until:
                self.refuse(holder)
            time.sleep(0.1)

    def _taken(self) -> bool:
        """Takes the file, unless another process has its flock."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            flocked = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # a file system without it
                flocked = False
            if not self._is(descriptor):  # the one before removed it meanwhile
                return self._taken()
            if holder := self.holder():
                self.require_dead(holder, flocked=flocked)
            content = json.dumps(self.record).encode()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            os.fsync(descriptor)
            self._descriptor, descriptor = descriptor, -1
            return True
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _is(self, descriptor: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        return False

    def touch(self) -> None:
        os.utime(self._descriptor)  # takes no room on a disk that is full

    def beat(self) -> tuple[str, float] | None:
        try:
            with open(self.path, "rb") as file:  # opening makes a network's file system ask its server
                stat = os.fstat(file.fileno())
                return f"{stat.st_ino} {stat.st_mtime_ns}", stat.st_mtime
        except OSError:
            return None

    def release(self) -> None:
        if self._is(self._descriptor):
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)


class _RemoteLock(_Lock):
    def take(self) -> None:
        if holder := self.holder():
            self.require_dead(holder, flocked=False)
        self.touch()
        time.sleep(_SETTLES)
        if self.is_lost():
            self.refuse(self.holder())

    def touch(self) -> None:
        self.path.write_bytes(json.dumps({**self.record, "beat": time.time()}).encode())

    def beat(self) -> tuple[str, float] | None:
        holder = self.holder()
        when = holder.get("beat")
        return (f"{holder.get('token')} {when}", when) if isinstance(when, int | float) else None

    def release(self) -> None:
        if not self.is_lost():
            with contextlib.suppress(Exception):  # gcsfs raises its own; the next program takes it over
                self.path.unlink()


def _beats(lock: Any, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        if lock.is_lost():
            line = f"error: {lock.what}: {named(lock.holder())} took over while this process was not heard of"
            print(f"{line}; ending at once [file.in-use]", file=sys.stderr, flush=True)
            os._exit(exit_codes.USER_ERROR)
        # A bucket or disk that is out of reach for a moment; gcsfs raises its own.
        with contextlib.suppress(Exception):
            lock.touch()


def named(holder: dict[str, Any]) -> str:
    """A holder for a person."""
    if not holder:
        return "another process"
    return f"process {holder.get('process')} of host {holder.get('host')}, since {holder.get('since')},"


def _started(process: object) -> str:
    """When a process of this machine began, in ticks since that did; "" where it does not run, or nobody knows."""
    try:
        # Its name, in brackets, may hold anything.
        state, *numbers = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else numbers[18]
    except (OSError, ValueError, IndexError):
        return ""


def _runs(holder: dict[str, Any]) -> bool:
    """Whether a holder of this machine runs: its number may be another's by now."""
    started = _started(holder.get("process"))
    return bool(started) and started == holder.get("started")


def _machine() -> str:
    """This start of this machine's kernel, and the process list that is seen here; "" where that is not known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
