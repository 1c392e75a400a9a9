"""Text and CSV files that users name or data sets publish, with errors that say what to do about the file."""

import contextlib
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from data_pipelines.core.errors import MalformedFile, MissingField, MissingFile, UnreadableFile
from data_pipelines.core.first_bytes import GZIP, HEAD, disguised_text, encoding_of
from data_pipelines.core.values import Settled, is_absent

PUBLISHED = "copy it from the published data set"


# A compressed text takes a tenth or so of its room; what takes less than this share is made to fill memory.
_LEAST_SHARE, _ALWAYS_ALLOWED = 0.01, 64 * 2**20


class _Unpacked(gzip.GzipFile):
    """A gzip file that ends in an error where it unpacks to unreasonably much."""

    def __init__(self, path: Any, size: int):
        super().__init__(fileobj=path, mode="rb")
        self._most = max(_ALWAYS_ALLOWED, int(size / _LEAST_SHARE))

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(self._most + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _checked(self, content: bytes) -> bytes:
        if self.tell() > self._most:
            raise gzip.BadGzipFile(f"it unpacks to more than {self._most >> 20:,} MiB, a hundred times its size")
        return content


# Nothing of these says what it is of: a file that ends early, or is no gzip within.
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


def _binary(path: Any) -> IO[bytes]:
    """The file's bytes, unpacked where they are compressed with gzip."""
    file: IO[bytes] = open(path, "rb") if isinstance(path, str) else path.open("rb")  # noqa: SIM115
    try:
        if file.read(2) != GZIP:
            file.seek(0)
            return file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return io.BufferedReader(_Unpacked(file, size))
    except BaseException:
        file.close()
        raise


@contextlib.contextmanager
def _read_errors(path: Any, form: str, remedy: str, damage: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file; {remedy}") from None
    except (UnicodeError, *_DAMAGE, *damage) as error:  # type: ignore[misc]
        raise MalformedFile(f"{path}: not {form} in UTF-8 ({error}); copy the file again") from None
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None


@contextlib.contextmanager
def reading(
    path: str, *, form: str = "text", remedy: str = PUBLISHED, damage: tuple[type[Exception], ...] = ()
) -> Iterator[IO[str]]:
    """A text file; line ends are as they are in the file.

    It is in UTF-8, with or without a byte order mark, or in UTF-16 with one, and may be compressed with gzip, whatever
    its name says.

    Args:
      form: what the file should be, e.g. "CSV".
      remedy: of a file that is missing or cannot be read.
      damage: what else is raised in the block when the file is not of this form.

    Raises:
      DataError: the file is missing, cannot be read, is of another kind, which is named, or is not UTF-8.
    """
    with _read_errors(path, form, remedy, damage), _binary(path) as file:
        head = file.read(HEAD)
        _check_head(path, head, form)
        file.seek(0)
        with io.TextIOWrapper(file, encoding=encoding_of(head), newline="") as text:
            yield text


def content_of(path: str | Path, *, form: str, remedy: str = PUBLISHED) -> bytes:
    """A text file's bytes as UTF-8 without a byte order mark, for readers that look at each line by itself.

    Raises:
      DataError: as `reading`, but for bytes that are not UTF-8.
    """
    with _read_errors(path, form, remedy), _binary(path) as file:
        content = file.read()
        _check_head(path, content[:HEAD], form)
        encoding = encoding_of(content)
        return content.removeprefix(_MARK) if encoding == "utf-8-sig" else content.decode(encoding).encode()


_MARK = b"\xef\xbb\xbf"


def _check_head(path: object, head: bytes, form: str) -> None:
    if what := disguised_text(head, form):
        raise MalformedFile(f"{path}: is {what}")


def lines_of(path: str, *, form: str = "text", remedy: str = PUBLISHED) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines without their ends; blank lines are passed over. Raises as `reading`."""
    with reading(path, form=form, remedy=remedy) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def numbered_rows(path: str, columns: Sequence[str], **options: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file as `read_rows` gives them, each after what names it in messages; the header is row 1."""
    for number, row in enumerate(read_rows(path, columns, **options), start=2):
        yield f"{path}: row {number}", row


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
    with reading(path, form="CSV", damage=(csv.Error,), remedy=remedy) as file:
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
