"""What a value of a JSON, CSV or parquet file is taken for, alike in every reader.

NaN       what pandas, numpy and R write for an empty cell, as a number or as the text `nan`: no value at all. A field
          that must be there is then missing, one that need not be is absent, and the reader says how many of which.
Infinity  is no value of any field, and refused.
3.0       is the number 3: pandas writes it so as soon as another cell of the column is empty, and JSON knows one kind
          of number. As text a number has its shortest decimal form, so equal numbers are equal texts (and ids).
"""

import functools
import logging
import math
from collections import Counter
from decimal import Decimal
from typing import Any, TypeGuard

from data_pipelines.core.errors import InvalidValue, listed

logger = logging.getLogger(__name__)

_EMPTY_CELLS = ("nan", "NaN")


def is_absent(value: object) -> bool:
    """Whether a value stands for none: null, NaN, or NaN as text."""
    if isinstance(value, str):
        return value.strip() in _EMPTY_CELLS
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number; true and false are none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def number_as_text(value: float) -> str:
    """The shortest decimal form of a finite number, without an exponent; 3 and 3.0 are "3"."""
    if isinstance(value, float) and not value.is_integer():
        return format(Decimal(repr(value)), "f")
    return str(int(value))


class Settled:
    """Takes the values of one file as this module says, and counts what was not written so, by field.

    Attributes:
      absent: field → how many of its values were NaN.
      whole: field → how many of its whole numbers were written with a fraction.
    """

    def __init__(self, path: str, *, infinite_too: bool = False):
        """Args:
        path: of the file, for messages.
        infinite_too: Infinity is absent as NaN is, where a reader refuses nothing.
        """
        self._path, self._infinite_too = path, infinite_too
        self.absent: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()

    def value(self, value: Any, where: str, field: str = "") -> Any:
        """The value, lists and objects all through.

        Args:
          where: names the entry in messages.
          field: that has the value, dotted; "" for the whole entry.

        Raises:
          DataError: a number is infinite.
          RecursionError: it is nested deeper than Python follows.
        """
        if isinstance(value, dict):
            return {name: self.value(held, where, f"{field}.{name}".lstrip(".")) for name, held in value.items()}
        if isinstance(value, list):
            # Of coordinates it does not matter how they are written.
            return [number_of(held) if is_number(held) else self.value(held, where, field) for held in value]
        infinite = isinstance(value, float) and math.isinf(value)
        if (value is not None and is_absent(value)) or (infinite and self._infinite_too):
            self.absent[field] += 1
            return None
        if infinite:
            raise not_finite(where, field, value)
        if isinstance(value, float):
            self.whole[field] += value.is_integer()
            return number_of(value)
        return value

    def cell(self, text: str, column: str) -> str:
        """A cell of a table as text, which is empty where it has no value."""
        if is_absent(text):
            self.absent[column] += 1
            return ""
        return text

    def whole_cell(self, text: str, column: str) -> str:
        """The cell of a column of whole numbers that are all written with a fraction of nought: without it."""
        self.whole[column] += bool(text)
        return text.strip().partition(".")[0]

    def say(self) -> None:
        """Warns of what was counted, once however often the file is read."""
        if self.absent:
            _warn(f"{self._path}: NaN is no value and counts as absent ({_counted(self.absent)})")
        if +self.whole:
            _warn(
                f"{self._path}: whole numbers written with a fraction are read as 3, not 3.0 ({_counted(+self.whole)})"
            )


def number_of(value: float) -> float:
    """A whole number as one, however it was written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def not_finite(where: str, field: str, value: float) -> InvalidValue:
    """The error of a number that is NaN or infinite."""
    name = f"field {field!r}" if field else "the value"
    said = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return InvalidValue(f"{where}: {name} is {said}; write a finite number, or leave the field out")


def require_finite(value: Any, where: str, field: str = "") -> Any:
    """JSON content, whose numbers are checked, however deep.

    Raises:
      DataError: one is NaN or infinite; names its place, without names that may be paths of patients' folders.
      RecursionError: as `Settled.value`.
    """
    if isinstance(value, dict):
        for place, (name, held) in enumerate(value.items()):
            said = place if "/" in name or "\\" in name else name
            require_finite(held, where, f"{field}.{said}".lstrip("."))
    elif isinstance(value, list):
        for place, held in enumerate(value):
            require_finite(held, where, f"{field}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise not_finite(where, field, value)
    return value


@functools.cache
def _warn(line: str) -> None:
    logger.warning("%s", line)


def _counted(fields: Counter[str]) -> str:
    return listed([f"{field} {count:,}" for field, count in fields.items()])
