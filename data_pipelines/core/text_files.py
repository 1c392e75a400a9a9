"""Opening text files that users name or data sets publish, with errors that say what to do about the file."""

import contextlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from data_pipelines.core.errors import MalformedFile, MissingFile, UnreadableFile

PUBLISHED = "copy it from the published data set"


@contextlib.contextmanager
def reading(
    path: str,
    *,
    form: str = "text",
    remedy: str = PUBLISHED,
    opener: Callable[..., IO[Any]] = open,
    damage: tuple[type[Exception], ...] = (),
) -> Iterator[IO[str]]:
    """A text file in UTF-8, with or without a byte order mark; line ends are as they are in the file.

    Args:
      form: what the file should be, e.g. "CSV".
      remedy: of a file that is missing or cannot be read.
      opener: as `open`; `gzip.open`.
      damage: what else is raised in the block when the file is not of this form.

    Raises:
      DataError: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file; {remedy}") from None
    except (UnicodeDecodeError, *damage) as error:  # type: ignore[misc]
        raise MalformedFile(f"{path}: not {form} in UTF-8 ({error}); copy the file again") from None
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error.strerror}); {remedy}") from None


def lines_of(path: str, *, form: str = "text", remedy: str = PUBLISHED) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines without their ends; blank lines are passed over. Raises as `reading`."""
    with reading(path, form=form, remedy=remedy) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")
