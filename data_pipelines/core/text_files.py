"""Text and CSV files that users name or data sets publish, with errors that say what to do about the file."""

import contextlib
import csv
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from data_pipelines.core.errors import MalformedFile, MissingField, MissingFile, UnreadableFile
from data_pipelines.core.values import Settled, is_absent

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


def read_rows(
    path: str, columns: Sequence[str], *, either: Sequence[str] = (), delimiters: str = ",", remedy: str = PUBLISHED
) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, as column → text; a missing last field is "", one too many is dropped.

    A cell of NaN is empty. Where all cells of a column are whole numbers with a fraction of nought and one is empty,
    which is how pandas writes whole numbers then, the fractions are left out. Both are counted and said.

    Args:
      path: where no such file lies, its twin with or without ".gz" is read.
      columns: that the header must have; it may have others.
      either: of which it must have one.
      delimiters: the one that the header has most of stands between the columns.
      remedy: of a file that is missing, cannot be read, or lacks a column.

    Raises:
      DataError: the file is missing, is not CSV in UTF-8, or lacks a column.
    """
    if not os.path.isfile(path):
        twin = path.removesuffix(".gz") if path.endswith(".gz") else f"{path}.gz"
        path = twin if os.path.isfile(twin) else path
    opener: Callable[..., IO[Any]] = gzip.open if path.endswith(".gz") else open
    damage = (csv.Error, EOFError, zlib.error, gzip.BadGzipFile)
    with reading(path, form="CSV", opener=opener, damage=damage, remedy=remedy) as file:
        delimiter = max(delimiters, key=file.readline().count)

        def table() -> "csv.DictReader[str]":
            file.seek(0)
            return csv.DictReader(file, restkey="", restval="", strict=True, delimiter=delimiter)

        reader = table()
        found = list(reader.fieldnames or ())
        lacking = [name for name in columns if name not in found]
        if either and not set(either) & set(found):
            lacking.append(" or ".join(either))
        if lacking:
            raise MissingField(f"{path}: no column {', '.join(lacking)} among {found}; {remedy}")
        whole = _whole_columns(reader)
        settled = Settled(path)
        for row in table():
            yield {name: _cell(held, name, name in whole, settled) for name, held in row.items()}
        settled.say()


_WHOLE = re.compile(r"\s*-?\d+\.0+\s*")


def _whole_columns(rows: "csv.DictReader[str]") -> set[str]:
    """The columns of whole numbers that are written with a fraction for the sake of an empty cell."""
    candidates, empty = set(rows.fieldnames or ()), set()
    for row in rows:
        for name in [*candidates]:
            if not row[name] or is_absent(row[name]):
                empty.add(name)
            elif not _WHOLE.fullmatch(row[name]):
                candidates.discard(name)
        if not candidates:
            break
    return candidates & empty


def _cell(held: Any, column: str, whole: bool, settled: Settled) -> Any:
    text = settled.cell(held, column) if isinstance(held, str) else held  # one cell too many stands in a list
    return settled.whole_cell(text, column) if whole and text else text
