"""Files and folders that appear whole or not at all. All but `write_atomically` are for local ones."""

import contextlib
import fnmatch
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from data_pipelines.core.errors import ConfigError, FileExists
from data_pipelines.core.paths import is_remote
from data_pipelines.core.storage import writing


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes bytes, or text as UTF-8, beside `path` and moves it into place; in a bucket an object appears whole."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path), open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # of a mount that became read-only; what failed before says so
            partial.unlink(missing_ok=True)


def check_destination(destination: Path, *, source: Path, overwrite: bool, ours: Callable[[Path], bool]) -> None:
    """Whether something made of `source` may be written at `destination`.

    Args:
      overwrite: it may exist, if this command wrote it.
      ours: whether what stands at a path is such as this command writes, and nothing else.

    Raises:
      ConfigError: it exists and may not be replaced, or source and destination lie in one another.
    """
    target, origin = destination.resolve(), source if is_remote(source) else source.resolve()
    if target == origin or target in origin.parents or origin in target.parents:
        fault = f"and the source, {source}, lie in one another; choose another destination"
    elif destination.is_symlink():
        fault = "is a symbolic link; name the place that it points to, or another"
    elif not destination.exists():
        return
    elif not overwrite:
        raise FileExists(f"{destination}: exists; choose another destination, or replace it with --overwrite")
    elif ours(destination):
        return
    else:
        fault = "holds files that this command did not write, so --overwrite does not touch it; remove it yourself"
    raise ConfigError(f"{destination}: {fault}", code="file.conflict")


def holds_only(folder: Path, names: Collection[str], patterns: Collection[str] = (), *, mark: str) -> bool:
    """Whether `folder` has the file `mark`, and nothing at its top but these names and glob patterns."""
    if not (folder / mark).is_file():
        return False
    return all(
        path.name in names or any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
        for path in folder.iterdir()
    )


def require_room(destination: Path, size: int) -> None:
    """Raises ConfigError where the disk has less than `size` bytes free."""
    there = next(folder for folder in destination.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise ConfigError(
            f"{destination}: the disk has {free / 2**30:.1f} GiB free and what is to be written may take "
            f"{size / 2**30:.1f}; free some, or choose another disk",
            code="file.no-room",
        )


@contextlib.contextmanager
def appears_whole(destination: Path) -> Iterator[Path]:
    """A hidden folder beside `destination` to write into; its content takes that name when the block ends well.

    Yields a path that does not exist yet and may be made a file or a folder. What stood at `destination` is replaced at
    the end, and stays as it was if anything goes wrong before.
    """
    destination = destination.absolute()
    destination.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
    mask = os.umask(0)
    os.umask(mask)
    aside.chmod(0o777 & ~mask)
    try:
        yield aside / "new"
        if destination.exists():
            os.rename(destination, aside / "old")
        try:
            os.rename(aside / "new", destination)
        except OSError:
            if (aside / "old").exists():
                os.rename(aside / "old", destination)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
