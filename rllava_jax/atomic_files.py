"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rllava_jax.config import ConfigError


def write_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 text beside `path` and moves it into place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_destination(destination: Path, *, overwrite: bool, mark: str) -> None:
    """Whether something may be written at `destination`.

    Args:
      overwrite: it may exist, if this project wrote it.
      mark: the file by which a folder of this project's is known.

    Raises:
      ConfigError: it exists and may not be replaced, or there is no folder to put it in.
    """
    if not destination.absolute().parent.is_dir():
        raise ConfigError(f"{destination}: its folder {destination.absolute().parent} does not exist; make it first")
    if not (destination.exists() or destination.is_symlink()):
        return
    if not overwrite:
        raise ConfigError(f"{destination}: exists; choose another destination, or replace it with --overwrite")
    ours = (destination / mark).is_file() if destination.is_dir() else destination.suffix == ".npz"
    if not ours or destination.is_symlink():
        raise ConfigError(
            f"{destination}: was not written by this command (it holds no {mark}), so --overwrite does not touch it; "
            "choose another destination, or remove it yourself"
        )


@contextlib.contextmanager
def appears_whole(destination: Path) -> Iterator[Path]:
    """A hidden folder beside `destination` to write into; its content takes that name when the block ends well.

    Yields a path that does not exist yet and may be made a file or a folder. What stood at `destination` is replaced at
    the end, and stays as it was if anything goes wrong before.
    """
    destination = destination.absolute()
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
    aside.chmod(0o777 & ~_umask())
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
