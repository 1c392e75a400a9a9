"""Reading the published JSON files, with errors that name the file, the entry and the field."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import Any, NoReturn

from data_pipelines.core.errors import DataError, InvalidValue, MalformedFile, MissingField, MissingFile, invalid_field
from data_pipelines.core.text_files import PUBLISHED, lines_of, reading
from data_pipelines.core.values import Settled, is_absent, is_number, number_as_text, require_finite

# A float holds no more, and Python's own limit lies far beyond.
_DIGITS = 300
_LARGE_EXPONENT = re.compile(r"[eE]\+?\d{3}")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def require_folder(root: str, setting: str = "data.root") -> None:
    """Raises: DataError: `root`, the value of `setting`, is not a folder."""
    if not root:
        raise DataError(f"{setting} is empty; set it to the folder of the published files", code="config.missing-field")
    if not os.path.isdir(root):
        raise MissingFile(f"{setting}: no folder {root!r}; set it to the folder of the published files")


def read_objects(path: str) -> list[tuple[str, dict[str, Any]]]:
    """The list of objects in a JSON file, each with what names it in messages; values as `core/values.py` says.

    Raises:
      DataError: the file is missing, is not JSON, or is not a list of objects.
    """
    settled = Settled(path)
    entries = []
    for number, entry in enumerate(list_of_objects(read_json(path), path)):
        where = f"{path}: entry {number}"
        entries.append((where, settled.value(entry, where)))
    settled.say()
    return entries


def read_list(path: str) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON file that is a list, as `settled_rows`.

    Raises:
      DataError: the file is missing, is not JSON, or is not a list.
    """
    entries = raw_json(path)
    if not isinstance(entries, list):
        raise MalformedFile(
            f"{path}: expected a list of objects, found {type(entries).__name__}; is it the published file?"
        )
    return settled_rows(entries, path)


def settled_rows(entries: list[Any], path: str, name: str = "entry") -> Iterator[tuple[str, Any]]:
    """Each entry of a list, of any type, after what names it in messages; values as `core/values.py` says.

    An entry with a value that is refused is the error that says so, in its place.

    Args:
      path: of the file, for messages.
      name: of the entries, for messages.
    """
    settled = Settled(path)
    for number, entry in enumerate(entries):
        where = f"{path}: {name} {number}"
        row: Any
        try:
            row = settled.value(entry, where)
        except DataError as error:
            row = error
        except RecursionError:
            row = MalformedFile(f"{where}: not valid JSON (nested too deeply); copy the file again")
        yield where, row
    settled.say()


def raw_json(path: str) -> Any:
    """As `read_json`, but what its numbers are is left to the reader."""
    with reading(path, form="valid JSON") as file:
        text = file.read()
    return parse_json(text, path, remedy="copy the file again", numbers=False)


def list_of_objects(entries: Any, where: str, *, remedy: str = "is it the published file?") -> list[dict[str, Any]]:
    """Raises: DataError: `entries` is not a list of objects."""
    wrong = [type(entries).__name__]
    if isinstance(entries, list):
        wrong = [f"entry {n} of type {type(e).__name__}" for n, e in enumerate(entries) if not isinstance(e, dict)]
    if wrong:
        raise MalformedFile(f"{where}: expected a list of objects, found {wrong[0]}; {remedy}")
    return list(entries)


def read_json(path: str, *, remedy: str = PUBLISHED, unique_keys: bool = False, absent: bool = True) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark. Of its numbers none is NaN or infinite.

    Args:
      absent: NaN is null, and counted; else it is refused.
      remedy: of a file that is missing or cannot be read.
      unique_keys: as `parse_json`.

    Raises:
      DataError: the file is missing, or is not JSON in UTF-8.
    """
    with reading(path, form="valid JSON", remedy=remedy) as file:
        text = file.read()
    settled = Settled(path)
    remedy, given = "copy the file again", settled if absent else None
    content = parse_json(text, path, remedy=remedy, unique_keys=unique_keys, settled=given)
    settled.say()
    return content


def json_lines(
    path: str, *, remedy: str = PUBLISHED, unique_keys: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with what names its line in messages; values as `core/values.py` says.

    Blank lines are passed over.

    Args:
      remedy, unique_keys: as `read_json`.

    Raises:
      DataError: the file cannot be read, is not UTF-8, or has a line that is not an object.
    """
    for where, entry in row_lines(path, remedy=remedy, unique_keys=unique_keys):
        if isinstance(entry, DataError):
            raise entry
        yield where, entry


def row_lines(
    path: str, *, remedy: str = PUBLISHED, unique_keys: bool = False
) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
    """As `json_lines`, but a line that is no such object is the error that says so, in its place."""
    settled = Settled(path)
    for number, line in lines_of(path, form="JSON Lines", remedy=remedy):
        where = f"{path}: line {number}"
        row: dict[str, Any] | DataError
        try:
            entry = parse_json(line, where, remedy="write one object a line", unique_keys=unique_keys, settled=settled)
            if not isinstance(entry, dict):
                raise MalformedFile(f"{where}: is {type(entry).__name__}; write one object a line")
            row = settled.value(entry, where)
        except DataError as error:
            row = error
        except RecursionError:
            row = MalformedFile(f"{where}: not valid JSON (nested too deeply); write one object a line")
        yield where, row
    settled.say()


def parse_json(
    text: str | bytes,
    where: str,
    *,
    remedy: str,
    unique_keys: bool = False,
    settled: Settled | None = None,
    numbers: bool = True,
    half_characters: bool = False,
) -> Any:
    """JSON that later stages can compute with and write.

    It has no endless nesting, no half characters, no number that is too long, NaN or infinite.

    Args:
      where: names the file, and the line if it is one, in messages.
      settled: counts NaN, which is then null; without it NaN is refused as Infinity is.
      numbers: are checked; else the reader sees to them.
      half_characters: may be in it; the reader sees to them.
      unique_keys: an object that has a key twice, of which `json` keeps the last, is an error. Published files are
        taken as they are.

    Raises:
      DataError: it is no such JSON.
    """

    def whole(digits: str) -> int:
        if len(digits) > _DIGITS:
            raise InvalidValue(f"{where}: has a number of {len(digits)} digits; correct it")
        return int(digits)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
            raise DataError(
                f"{where}: field {twice!r} stands twice in one object; leave one of them", code="data.duplicate-field"
            )
        return entry

    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    hook = once if unique_keys else None
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(text, parse_int=whole, parse_constant=constant, object_pairs_hook=hook)
        if numbers and (constants or _LARGE_EXPONENT.search(text)):
            content = settled.value(content, where) if settled else require_finite(content, where)
        if not half_characters and _HALF_CHARACTER.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise MalformedFile(f"{where}: not JSON in UTF-8 ({error}); {remedy}") from None
    except UnicodeEncodeError:
        raise InvalidValue(
            f"{where}: escapes half a character (\\ud800 to \\udfff alone); write the character itself"
        ) from None
    except (RecursionError, json.JSONDecodeError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise MalformedFile(f"{where}: not valid JSON ({reason}); {remedy}") from None
    return content


def first_object(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at a place in a text, and where it ends.

    Raises:
      ValueError: none begins there, or it holds NaN, Infinity or endless nesting.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        return json.JSONDecoder(parse_constant=refuse).raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def digest_of(content: Any) -> str:
    """SHA-256 of JSON content, hexadecimal; the order of an object's fields does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def text_field(entry: dict[str, Any], field: str, where: str, *, may_be_empty: bool = False) -> str:
    """A field as text with runs of blanks made single; numbers, which some answers are, become text.

    Raises:
      DataError: the field is missing, is neither text nor a number, or is empty.
    """
    value = entry.get(field)
    if is_absent(value):
        raise MissingField(
            f"{where}: field {field!r} is {'null or NaN' if field in entry else 'missing'}; expected text",
            fault=f"field {field!r} is missing",
        )
    if is_number(value):
        return number_as_text(value)
    if not isinstance(value, str):
        raise invalid_field(where, field, value, "expected text")
    text = single_blanks(value)
    if not text and not may_be_empty:
        raise MissingField(
            f"{where}: field {field!r} is empty; fill it in or remove the entry", fault=f"field {field!r} is empty"
        )
    return text


def id_of(value: Any) -> str | None:
    """An id as text, None for what is none: ids are compared by value, so that 7, 7.0 and "7" are one."""
    if is_number(value):
        return number_as_text(value)
    return None if is_absent(value) or not isinstance(value, str) else single_blanks(value) or None


def single_blanks(text: str) -> str:
    """The text without blanks at its ends, and with runs of any blanks made single."""
    return " ".join(text.split())


def finite_numbers(values: Any, count: int | None, where: str, field: str) -> list[float]:
    """The value of a field that is a list of `count` finite numbers; None for any number of them.

    Raises:
      DataError: it is not.
    """
    good = isinstance(values, list) and count in (None, len(values))
    if not good or not all(map(is_number, values)):
        raise invalid_field(where, field, values, f"write {count or 'a list of'} numbers in pixels")
    return list(values)


def inner_path(name: str, where: str, field: str) -> str:
    """A file name relative to the data set's folder, as it was given.

    Raises:
      DataError: it leaves the folder: what is stored of it would name places of the user's machine.
    """
    absolute = name.startswith(("/", "\\")) or PureWindowsPath(name).is_absolute()
    if absolute or os.pardir in re.split(r"[/\\]", name):
        raise invalid_field(where, field, name, "name a file below the data set's folder")
    return name
