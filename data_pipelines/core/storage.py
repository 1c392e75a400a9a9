"""A disk that is full, a quota, a mount that became read-only, a disk that fails: one line and an exit code of its own.

Such an error may come up anywhere, also in threads of libraries that write, and in C++, which gives it in words. So it
is not caught where it comes up: whatever ends a command is asked here (`run_command`, `hosts.shared_failures`), and
what libraries' threads print of it is left out, because it ends the command anyway.
"""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator

from data_pipelines.core import exit_codes
from data_pipelines.core.errors import UnwritableFile, UserError
from data_pipelines.core.signals import unraisable_taken

_AGAIN = "run the same command again: what was saved before is whole"


class StorageFailure(UserError):
    """Nothing can be written where a command writes; nothing else is wrong with it."""

    exit_code = exit_codes.STORAGE


class StorageFull(StorageFailure, code="storage.full"):
    """The disk, a quota or a limit on the size of files is used up."""


class StorageReadOnly(StorageFailure, code="storage.read-only"):
    """The mount can be read, and no longer written."""


class StorageBroken(StorageFailure, code="storage.broken"):
    """The disk, or the server behind it, fails."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EIO, errno.ESTALE, errno.EREMOTEIO)
_DENIED = (errno.EACCES, errno.EPERM)
_KNOWN = frozenset((*_FULL, errno.EROFS, *_BROKEN, *_DENIED))
# TensorStore's words, and Python's where another library handed on the text alone.
_NUMBER = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")
_PLACE = re.compile(r'"(/[^"\s]+)"|\'(/[^\'\s]+)\'')


def storage_failure(error: BaseException, place: str = "") -> UserError | None:
    """What an error, or the one that it came from, says of the disk; None where it is of another kind.

    Args:
      place: named in place of the file, whose name may be a patient's.
    """
    if isinstance(error, UserError):
        before = (
            error.__context__
        )  # a place that cannot be made is told to be another one; of a full disk is more to say
        full = isinstance(error, UnwritableFile) and isinstance(before, OSError) and before.errno in (*_FULL, *_BROKEN)
        return storage_failure(before, place or str(error).partition(": ")[0]) if before and full else None
    number, file = _of(error)
    if number is None:
        return storage_failure(error.__cause__, place) if error.__cause__ is not None else None
    where, reason = place or file or "a file", os.strerror(number)
    if number in _DENIED:
        return UnwritableFile(f"{where}: {reason}; let this user read and write it, or name another place")
    if number in _FULL:
        return StorageFull(f"{where}: cannot be written ({reason}); make room there, then {_AGAIN}")
    if number in _BROKEN:
        return StorageBroken(
            f"{where}: cannot be read or written ({reason}); look at the disk, or at the server that it is mounted "
            f"from, then {_AGAIN}"
        )
    return StorageReadOnly(f"{where}: cannot be written ({reason}); mount it to be written, then {_AGAIN}")


def _of(error: BaseException) -> tuple[int | None, str]:
    if isinstance(error, OSError):
        return (error.errno if error.errno in _KNOWN else None), _text(error.filename)
    text = str(error)
    found = _NUMBER.search(text)
    number = int(found[1] or found[2]) if found else errno.ENOSPC if os.strerror(errno.ENOSPC) in text else None
    if number not in _KNOWN:
        return None, ""
    place = _PLACE.search(text)
    return number, (place[1] or place[2]) if place else ""


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around writes to an open file, whose errors do not say which it is, or to one beside it that will be it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # else its text is all that it has, which a file's name would hide
            error.filename = os.fspath(path)
        raise


def without_leftovers() -> contextlib.AbstractContextManager[None]:
    """Within it nothing is printed of writes that were under way when another one failed, which is raised.

    TensorStore tells each of them to Orbax's event loop, which the first failure has closed.
    """
    return unraisable_taken(
        lambda found: isinstance(found.exc_value, RuntimeError) and "loop is closed" in str(found.exc_value)
    )


class SaidOnce(logging.Filter):
    """Leaves out what a library's thread logs of a storage failure."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is of another kind."""
        error = record.exc_info[1] if record.exc_info else None
        return error is None or storage_failure(error) is None
