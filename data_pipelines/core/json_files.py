"""Reading the published JSON files, with errors that name the file, the entry and the field."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from data_pipelines.core.errors import DataError, UserError

# A float holds no more, and Python's own limit lies far beyond.
_DIGITS = 300
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


@contextlib.contextmanager
def parsing(path: object, fault: str, remedy: str, *, kind: type[UserError] = DataError) -> Iterator[None]:
    """Around reading one of our own JSON files: what goes wrong becomes one line, `PATH: FAULT (reason); REMEDY`.

    Raises:
      an error of that kind, with the code file.malformed.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise kind(f"{path}: {fault} ({error!r}); {remedy}", code="file.malformed") from None


def require_folder(root: str, setting: str) -> None:
    """Raises: DataError: `root`, the value of `setting`, is not a folder."""
    if not root:
        raise DataError(f"{setting} is empty; set it to the folder of the published files", code="config.missing-field")
    if not os.path.isdir(root):
        raise DataError(
            f"{setting}: no folder {root!r}; set it to the folder of the published files", code="file.missing"
        )


def read_objects(path: str) -> list[dict[str, Any]]:
    """The list of objects in a JSON file.

    Raises:
      DataError: the file is missing, is not JSON, or is not a list of objects.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(
            f"{path}: expected a list of objects, found {type(entries).__name__}; is it the published file?",
            code="file.malformed",
        )
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}: entry {number} is {type(entry).__name__}, not an object; is it the published file?",
                code="file.malformed",
            )
    return entries


def read_json(path: str, *, remedy: str = "copy it from the published data set", unique_keys: bool = False) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Args:
      remedy: of a file that is missing or cannot be read.
      unique_keys: as `parse_json`.

    Raises:
      DataError: the file is missing, or is not JSON in UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {remedy}", code="file.missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}", code="file.unreadable") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}); copy the file again", code="file.malformed") from None
    return parse_json(text, path, remedy="copy the file again", unique_keys=unique_keys)


def parse_json(text: str, where: str, *, remedy: str, unique_keys: bool = False) -> Any:
    """JSON that later stages can compute with and write: no endless nesting, no half characters, no number too long.

    Args:
      where: names the file, and the line if it is one, in messages.
      unique_keys: an object that has a key twice, of which `json` keeps the last, is an error. Published files are
        taken as they are.

    Raises:
      DataError: it is no such JSON.
    """

    def whole(digits: str) -> int:
        if len(digits) > _DIGITS:
            raise DataError(f"{where}: has a number of {len(digits)} digits; correct it", code="data.invalid-value")
        return int(digits)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
            raise DataError(
                f"{where}: field {twice!r} stands twice in one object; leave one of them", code="data.duplicate-field"
            )
        return entry

    try:
        content = json.loads(text, parse_int=whole, object_pairs_hook=once if unique_keys else None)
        if _HALF_CHARACTER.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise DataError(f"{where}: not valid JSON (nested too deeply); {remedy}", code="file.malformed") from None
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: escapes half a character (\\ud800 to \\udfff alone); write the character itself",
            code="data.invalid-value",
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}); {remedy}", code="file.malformed") from None
    return content


def text_field(entry: dict[str, Any], field: str, where: str, *, may_be_empty: bool = False) -> str:
    """A field as text with runs of blanks made single; numbers, which some answers are, become text.

    Raises:
      DataError: the field is missing, is neither text nor a number, or is empty.
    """
    value = entry.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{where}: field {field!r} is {value!r}; expected text", code="data.invalid-value")
    text = " ".join(str(value).split())
    if not text and not may_be_empty:
        raise DataError(f"{where}: field {field!r} is empty; fill it in or remove the entry", code="data.missing-field")
    return text


def inner_path(name: str, where: str, field: str) -> str:
    """A file name relative to the data set's folder, as it was given.

    Raises:
      DataError: it leaves the folder: what is stored of it would name places of the user's machine.
    """
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise DataError(
            f"{where}: field {field!r} is {name!r}; name a file below the data set's folder", code="data.invalid-value"
        )
    return name
