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
      fault: what is wrong, without places and values: what rows with the same fault are counted by.
    """

    exit_code = exit_codes.USER_ERROR
    code = ""
    fault = ""

    def __init_subclass__(cls, *, code: str = "", fault: str = "") -> None:
        """Args:
        code, fault: of all errors of the class.
        """
        cls.code = code or cls.code
        cls.fault = fault or cls.fault

    def __init__(self, message: str, *, code: str = "", fault: str = ""):
        """Args:
        code, fault: of this error, where its class has none, or a less exact one.
        """
        super().__init__(message)
        self.code = code or self.code
        self.fault = fault or self.fault or self.code

    def within(self, where: str) -> Self:
        """The same error with its place before the line: `raise error.within("stages.align") from None`."""
        return type(self)(f"{where}: {self}", code=self.code, fault=self.fault)


class ConfigError(UserError, ValueError):
    """A setting or an option is wrong."""


class DataError(UserError, ValueError):
    """Something is wrong with the user's data."""


class ImageError(DataError):
    """One image cannot be read: the only data error that a long run may be told to skip."""


class InvalidOption(ConfigError, code="option.invalid-value"):
    """An option of a command has a value that it cannot have."""


class OptionConflict(ConfigError, code="option.conflict"):
    """An option does not go with another one, or with what it is applied to."""


class MissingOption(ConfigError, code="option.missing"):
    """An option is needed and was not given."""


class InvalidSetting(ConfigError, code="config.invalid-value"):
    """A setting has a value that it cannot have."""


class SettingConflict(ConfigError, code="config.conflict"):
    """A setting contradicts another one, or what it is applied to."""


class UnknownSetting(ConfigError, code="config.unknown-field"):
    """No setting has this name."""


class InvalidOverride(ConfigError, code="config.invalid-override"):
    """A `--config.…` argument is malformed."""


class MeshMismatch(ConfigError, code="mesh.mismatch"):
    """The mesh or the hosts cannot share what is to be shared."""


class MissingPackage(ConfigError, code="package.missing"):
    """A package is needed and not installed."""


class FileExists(ConfigError, code="file.exists"):
    """What would be written exists already."""


class UnwritableFile(ConfigError, code="file.unwritable"):
    """A file or folder cannot be written."""


class MissingFile(DataError, code="file.missing", fault="a file is missing"):
    """A file or folder does not exist."""


class UnreadableFile(DataError, code="file.unreadable", fault="a file cannot be read"):
    """A file exists and cannot be read."""


class MalformedFile(DataError, code="file.malformed", fault="it cannot be parsed"):
    """A file is not of the format that it should be of."""


class MissingData(DataError, code="data.missing"):
    """There is nothing where data should be."""


class MissingField(DataError, code="data.missing-field", fault="a field is missing"):
    """An entry of a file lacks a field."""


class InvalidValue(DataError, code="data.invalid-value", fault="a field has a value that it cannot have"):
    """A field of an entry has a value that it cannot have."""


class UnknownName(DataError, code="data.unknown-name", fault="a name is not among those that there are"):
    """A name is not among those that there are."""


class DuplicateId(DataError, code="data.duplicate-id", fault="an id stands twice"):
    """An id stands twice where it must be unique."""


class DataConflict(DataError, code="data.conflict", fault="it contradicts its image or another row"):
    """Parts of the data contradict each other."""


class NoExamples(DataError, code="data.no-examples"):
    """No example fits what was chosen."""


class InvalidRegion(DataError, code="data.invalid-region", fault="a region does not fit its image"):
    """A box, polygon or mask does not fit its image."""


class UnclearBoxes(DataError, code="data.unclear-boxes"):
    """Boxes may be meant in two ways, and one of them is wrong; an option settles it."""


class InvalidPart(DataError, code="image.invalid-part", fault="a scan has no such part"):
    """A scan has no such frame, axis, slice or volume."""


def invalid_field(where: str, field: str, value: object, remedy: str) -> InvalidValue:
    """The error of a field that is there and holds what it must not."""
    return InvalidValue(f"{where}: field {field!r} is {shortened(value)}; {remedy}", fault=f"field {field!r}: {remedy}")


def unreadable_image(name: object, reason: object, remedy: str = "replace it") -> ImageError:
    """The error of an image that is there and cannot be decoded."""
    return ImageError(f"{name}: image cannot be read ({reason_of(reason)}); {remedy}", code="image.unreadable")


def reason_of(error: object, most: int = 200) -> str:
    """What an error of another library says, in one line; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def shortened(value: object, most: int = 200) -> str:
    """A value for a message, as Python writes it, or its beginning."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a message: the first of them, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
