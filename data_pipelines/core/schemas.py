"""JSON files of this project's own, and of others whose fields are read one by one: checked against a type when read.

The type is anything that pydantic knows (a dataclass, a TypedDict, `dict[str, int]`), taken strictly. What is wrong is
one line, `FILE: FIELD is VALUE; what was expected; REMEDY`, with the code file.malformed.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from data_pipelines.core.errors import DataError, UserError, shortened
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.text_files import content_of

Kind = TypeVar("Kind")
_adapter: Any = cache(TypeAdapter)  # mypy takes a class of unknown kind for unhashable


def file_as(kind: type[Kind], path: Path, *, remedy: str, error: type[UserError] = DataError) -> Kind:
    """The content of a JSON file. Raises as `read_as`, and an error of that kind where it cannot be read."""
    try:
        content = content_of(path, form="JSON", remedy=remedy)
    except UserError as reason:
        raise error(str(reason), code=reason.code) from None
    return read_as(kind, content, str(path), remedy=remedy, error=error)


def lines_as(kind: type[Kind], path: Path, *, remedy: str, error: type[UserError] = DataError) -> list[Kind]:
    """The lines of a JSON Lines file. Raises as `file_as`."""
    content = content_of(path, form="JSON Lines", remedy=remedy)
    lines = enumerate(content.split(b"\n"), start=1)
    return [read_as(kind, line, f"{path}: line {n}", remedy=remedy, error=error) for n, line in lines if line.strip()]


def read_as(
    kind: type[Kind], content: str | bytes, where: str, *, remedy: str, error: type[UserError] = DataError
) -> Kind:
    """JSON as that type says; fields that it has besides are passed over, or kept where the type is a TypedDict for it.

    Raises:
      an error of that kind: it is not JSON, or a field is missing or of another type; begins with `where`.
    """
    try:
        value = parse_json(content, where, remedy=remedy)
    except DataError as reason:
        raise error(str(reason), code="file.malformed") from None
    try:
        # JSON's own mode is what lets a strict check accept a list for a tuple: JSON has no tuples.
        checked: Kind = _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as found:
        fault = found.errors(include_url=False)[0]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        said = f"is {shortened(fault['input'], 80)}; {fault['msg'][:1].lower()}{fault['msg'][1:]}"
        said = "is missing" if fault["type"] == "missing" else said
        raise error(f"{where}: {field or 'it'} {said}; {remedy}", code="file.malformed") from None
    return checked
