"""The errors that a user can fix; each says in one line which file and field, the value, and the remedy.

Beside the line, which may be reworded at any time, an error has a code, which may not: `AREA.FAULT` in lower case,
such as `config.unknown-field` or `image.unreadable`. A fault that occurs in several places has one code in all of them,
and if it is frequent a class that has the code. Commands print the code behind the line; tests, and programs that react
to an error, read it. docs/ERRORS.md lists them.
"""

from collections.abc import Sequence
from typing import Self

from data_pipelines.core import exit_codes


class UserError(Exception):
    """What ends a command with exit code 2 and one line.

    Attributes:
      code: see above.
    """

    exit_code = exit_codes.USER_ERROR
    code = ""

    def __init__(self, message: str, *, code: str = ""):
        """Args:
        code: of this error, where its class has none.
        """
        super().__init__(message)
        self.code = code or self.code

    def within(self, where: str) -> Self:
        """The same error with its place before the line: `raise error.within("stages.align") from None`."""
        return type(self)(f"{where}: {self}", code=self.code)


class ConfigError(UserError, ValueError):
    """A setting or an option is wrong."""


class DataError(UserError, ValueError):
    """Something is wrong with the user's data."""


class ImageError(DataError):
    """One image cannot be read: the only data error that a long run may be told to skip."""


class InvalidOption(ConfigError):
    """An option of a command has a value that it cannot have."""

    code = "option.invalid-value"


class OptionConflict(ConfigError):
    """An option does not go with another one, or with what it is applied to."""

    code = "option.conflict"


class MissingOption(ConfigError):
    """An option is needed and was not given."""

    code = "option.missing"


class InvalidSetting(ConfigError):
    """A setting has a value that it cannot have."""

    code = "config.invalid-value"


class SettingConflict(ConfigError):
    """A setting contradicts another one, or what it is applied to."""

    code = "config.conflict"


class UnknownSetting(ConfigError):
    """No setting has this name."""

    code = "config.unknown-field"


class InvalidOverride(ConfigError):
    """A `--config.…` argument is malformed."""

    code = "config.invalid-override"


class MeshMismatch(ConfigError):
    """The mesh or the hosts cannot share what is to be shared."""

    code = "mesh.mismatch"


class MissingPackage(ConfigError):
    """A package is needed and not installed."""

    code = "package.missing"


class FileExists(ConfigError):
    """What would be written exists already."""

    code = "file.exists"


class UnwritableFile(ConfigError):
    """A file or folder cannot be written."""

    code = "file.unwritable"


class MissingFile(DataError):
    """A file or folder does not exist."""

    code = "file.missing"


class UnreadableFile(DataError):
    """A file exists and cannot be read."""

    code = "file.unreadable"


class MalformedFile(DataError):
    """A file is not of the format that it should be of."""

    code = "file.malformed"


class MissingData(DataError):
    """There is nothing where data should be."""

    code = "data.missing"


class MissingField(DataError):
    """An entry of a file lacks a field."""

    code = "data.missing-field"


class InvalidValue(DataError):
    """A field of an entry has a value that it cannot have."""

    code = "data.invalid-value"


class UnknownName(DataError):
    """A name is not among those that there are."""

    code = "data.unknown-name"


class DuplicateId(DataError):
    """An id stands twice where it must be unique."""

    code = "data.duplicate-id"


class DataConflict(DataError):
    """Parts of the data contradict each other."""

    code = "data.conflict"


class NoExamples(DataError):
    """No example fits what was chosen."""

    code = "data.no-examples"


class InvalidRegion(DataError):
    """A box, polygon or mask does not fit its image."""

    code = "data.invalid-region"


class InvalidPart(DataError):
    """A scan has no such frame, axis, slice or volume."""

    code = "image.invalid-part"


def invalid_field(where: str, field: str, value: object, remedy: str) -> InvalidValue:
    """The error of a field that is there and holds what it must not."""
    return InvalidValue(f"{where}: field {field!r} is {value!r}; {remedy}")


def unreadable_image(name: object, reason: object, remedy: str = "replace it") -> ImageError:
    """The error of an image that is there and cannot be decoded."""
    return ImageError(f"{name}: image cannot be read ({reason}); {remedy}", code="image.unreadable")


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a message: the first of them, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
