"""Reading the published CSV files, gzipped or not, row by row, with errors that name the file and the column."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence

from data_pipelines.core.errors import DataError


def read_rows(path: str, columns: Sequence[str], *, either: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, as column → text; a missing last field is "", one too many is dropped.

    Args:
      path: where no such file lies, its twin with or without ".gz" is read.
      columns: that the header must have; it may have others.
      either: of which it must have one.

    Raises:
      DataError: the file is missing, is not CSV in UTF-8, or lacks a column.
    """
    if not os.path.isfile(path):
        twin = path.removesuffix(".gz") if path.endswith(".gz") else f"{path}.gz"
        path = twin if os.path.isfile(twin) else path
    try:
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            found = list(reader.fieldnames or ())
            lacking = [name for name in columns if name not in found]
            if either and not set(either) & set(found):
                lacking.append(" or ".join(either))
            if lacking:
                raise DataError(
                    f"{path}: no column {', '.join(lacking)} among {found}; is it the published file?",
                    code="data.missing-field",
                )
            yield from reader
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy it from the published data set", code="file.missing") from None
    except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not CSV in UTF-8 ({error}); copy the file again", code="file.malformed") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); copy it from the published data set", code="file.unreadable"
        ) from None
