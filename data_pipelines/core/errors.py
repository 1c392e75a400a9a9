"""The errors that a user can fix; each says in one line which file and field, the value, and the remedy.

Beside the line, which may be reworded at any time, an error has a code, which may not: `AREA.FAULT` in lower case,
such as `config.unknown-field` or `image.unreadable`. A fault that occurs in several places has one code in all of them.
Commands print the code behind the line; tests, and programs that react to an error, read it. docs/ERRORS.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from data_pipelines.core import exit_codes


class UserError(Exception):
    """What ends a command with exit code 2 and one line.

    Attributes:
      code: see above.
    """

    exit_code = exit_codes.USER_ERROR

    def __init__(self, message: str, *, code: str = ""):
        super().__init__(message)
        self.code = code

    def within(self, where: str) -> Self:
        """The same error with its place before the line: `raise error.within("stages.align") from None`."""
        return type(self)(f"{where}: {self}", code=self.code)


class ConfigError(UserError, ValueError):
    """A setting or an option is wrong."""


class DataError(UserError, ValueError):
    """Something is wrong with the user's data."""


class ImageError(DataError):
    """One image cannot be read: the only data error that a long run may be told to skip."""


def invalid_field(where: str, field: str, value: object, remedy: str) -> DataError:
    """The error of a field that is there and holds what it must not."""
    return DataError(f"{where}: field {field!r} is {value!r}; {remedy}", code="data.invalid-value")


def unreadable_image(name: object, reason: object, remedy: str = "replace it") -> ImageError:
    """The error of an image that is there and cannot be decoded."""
    return ImageError(f"{name}: image cannot be read ({reason}); {remedy}", code="image.unreadable")


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a message: the first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
