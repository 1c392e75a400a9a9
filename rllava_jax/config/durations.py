"""Durations that say their unit: "1500 steps", "10 epochs", "64000 examples", "5 percent" (of the run), "never".

After big_vision's `steps` helper, with the unit in the value rather than in the name of the setting.
"""

import re
from fractions import Fraction

from data_pipelines.core.errors import InvalidSetting, SettingConflict

UNITS = ("steps", "epochs", "examples", "percent")
_PATTERN = re.compile(r"(\d+(?:\.\d+)?) (?:(step|epoch|example)s?|(percent))")


def amount_and_unit(text: str) -> tuple[Fraction, str]:
    """Reads "AMOUNT UNIT"; "never" is 0 and no unit. The amount is exact: "0.1 percent" of 1000 steps is 1 step.

    Raises:
      ValueError: `text` is not a duration; says what to write instead.
    """
    if text == "never":
        return Fraction(0), ""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"write a number and a unit ({', '.join(UNITS)}), e.g. " + '"10 epochs", or "never"')
    amount, unit = Fraction(match[1]), match[3] or f"{match[2]}s"
    if unit in ("steps", "examples") and amount.denominator != 1:
        raise ValueError(f"write a whole number of {unit}")
    if unit == "percent" and amount > 100:
        raise ValueError("write at most 100 percent, which is the whole run")
    return amount, unit


def parse_duration(
    text: str,
    *,
    batch_size: int,
    examples_per_epoch: int | None = None,
    total_steps: int | None = None,
    field: str = "duration",
) -> int | None:
    """Reads a duration as the nearest number of optimiser steps, at least 1 unless the amount is 0 (big_vision's rule).

    Args:
      text: "1500 steps", "10 epochs", "64000 examples", "5 percent" or "never", which is None.
      batch_size: examples per optimiser step, over all hosts.
      examples_per_epoch, total_steps: needed for epochs and for percent.
      field: the setting's dotted name, for the error.

    Raises:
      ConfigError: `text` is not a duration, or is relative to something that was not given.
    """
    try:
        amount, unit = amount_and_unit(text)
    except ValueError as error:
        raise InvalidSetting(f"{field}: {text!r} is not possible; {error}") from None
    if not unit:
        return None
    if unit == "epochs" and examples_per_epoch is None:
        raise SettingConflict(f"{field}: no epoch is defined here; write it in steps or examples")
    if unit == "percent" and total_steps is None:
        raise SettingConflict(f"{field}: a percentage needs the length of the run; write it in another unit")
    steps_of_one = {
        "steps": Fraction(1),
        "examples": Fraction(1, batch_size),
        "epochs": Fraction(examples_per_epoch or 0, batch_size),
        "percent": Fraction(total_steps or 0, 100),
    }
    exact = amount * steps_of_one[unit]
    # Halves up: round() would send them to the even neighbour.
    return max(1, int(exact + Fraction(1, 2))) if exact else 0
