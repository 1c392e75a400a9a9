"""The errors that a user can fix; each says in one line which file and field, the value, and the remedy.

Beside the line, which may be reworded at any time, an error has a code, which may not: `AREA.FAULT` in lower case,
such as `config.unknown-field` or `image.unreadable`. A fault that occurs in several places has one code in all of them.
Commands print the code behind the line; tests, and programs that react to an error, read it. docs/ERRORS.md lists them.
"""

from __future__ import annotations

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
