"""Reading the published CSV files, gzipped or not, row by row, with errors that name the file and the column."""

import csv
import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from data_pipelines.core.errors import MissingField
from data_pipelines.core.text_files import PUBLISHED, reading


def read_rows(
    path: str, columns: Sequence[str], *, either: Sequence[str] = (), delimiters: str = ",", remedy: str = PUBLISHED
) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, as column → text; a missing last field is "", one too many is dropped.

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
        file.seek(0)
        reader = csv.DictReader(file, restkey="", restval="", strict=True, delimiter=delimiter)
        found = list(reader.fieldnames or ())
        lacking = [name for name in columns if name not in found]
        if either and not set(either) & set(found):
            lacking.append(" or ".join(either))
        if lacking:
            raise MissingField(f"{path}: no column {', '.join(lacking)} among {found}; {remedy}")
        yield from reader
