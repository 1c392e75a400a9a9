"""JSON Lines that users may have written: read with the line's number, and checked by the types of a dataclass."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Strict, TypeAdapter, ValidationError

from data_pipelines.core.errors import DataError, InvalidValue, MalformedFile
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.text_files import content_of
from data_pipelines.core.values import Settled

Record = TypeVar("Record")


def _whole_characters(text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds half a surrogate pair, write the whole character: a string that UTF-8 can hold")
    return text


# JSON may escape half a surrogate pair, which UTF-8 cannot hold; a number in quotes, true and false are no numbers.
Text = Annotated[str, AfterValidator(_whole_characters)]
Number = Annotated[float, Strict()]
NumberBox = tuple[Number, Number, Number, Number]


_adapter: Any = cache(TypeAdapter)  # mypy takes a class of unknown kind for unhashable


def record_of(kind: type[Record], fields: Any, where: str) -> Record:
    """Builds a dataclass from the fields of a JSON object.

    Raises:
      DataError: not an object, or a field is unknown, missing, of another type or out of range; begins with `where`.
    """
    try:
        return _adapter(kind).validate_python(fields)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    if not isinstance(fields, dict):
        raise InvalidValue(f"{where}: is {type(fields).__name__}, expected an object")
    unknown, missing = (
        sorted(str(fault["loc"][0]) for fault in faults if fault["type"] == fault_type and len(fault["loc"]) == 1)
        for fault_type in ("unexpected_keyword_argument", "missing")
    )
    if unknown or missing:
        raise DataError(f"{where}: unknown fields {unknown}, missing fields {missing}", code="data.unknown-field")
    name = str(faults[0]["loc"][0])
    reason = faults[0].get("ctx", {}).get("error", faults[0]["msg"])
    raise InvalidValue(f"{where}: {name} is {fields[name]!r}; {reason}")


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, without a byte order mark; blank ones are passed over.

    Raises:
      DataError: the file cannot be read.
    """
    raw = content_of(path, form="JSON Lines", remedy="give a JSONL file")
    # Not splitlines(): JSON may hold U+2028 and its like unescaped.
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def parsed_lines(path: Path, *, settle: bool = False) -> Iterator[tuple[str, Any]]:
    """The values of a JSON Lines file that has to be right, each with what names its line in messages.

    NaN is null, and counted.

    Args:
      settle: the forms of numbers too are as `core/values.py` says.

    Raises:
      DataError: the file cannot be read, or a line is not JSON in UTF-8.
    """
    settled = Settled(str(path))
    for number, line in raw_lines(path):
        where = f"{path}, line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise MalformedFile(f"{where}: is not UTF-8 ({error.reason}); save it as UTF-8") from None
        value = parse_json(text, where, remedy="write one object a line", settled=settled, half_characters=True)
        yield where, settled.value(value, where) if settle else value
    settled.say()
