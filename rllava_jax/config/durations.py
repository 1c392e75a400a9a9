"""Durations that say their unit: "1500 steps", "10 epochs", "64000 examples", "5 percent" (of the run), "never".

After big_vision's `steps` helper, with the unit in the value rather than in the name of the setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from data_pipelines.core.errors import InvalidSetting, SettingConflict

Unit = Literal["steps", "epochs", "examples", "percent"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_PATTERN = re.compile(r"(\d+(?:\.\d+)?) (step|epoch|example|percent)s?")


@dataclass(frozen=True)
class Duration:
    """An amount and its unit. The amount is exact, so that "0.1 percent" of 1000 steps is 1 step."""

    amount: Fraction
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration | None:
        """Reads "AMOUNT UNIT", or None for "never".

        Raises:
          ValueError: `text` is not a duration; says what to write instead.
        """
        if text == "never":
            return None
        match = _PATTERN.fullmatch(text)
        if match is None or text.endswith("percents"):
            raise ValueError(f"write a number and a unit ({', '.join(UNITS)}), e.g. " + '"10 epochs", or "never"')
        amount = Fraction(match[1])
        unit = next(unit for unit in UNITS if unit.startswith(match[2]))
        if unit in ("steps", "examples") and amount.denominator != 1:
            raise ValueError(f"write a whole number of {unit}")
        if unit == "percent" and amount > 100:
            raise ValueError("write at most 100 percent, which is the whole run")
        return cls(amount, unit)

    def steps(
        self,
        *,
        batch_size: int,
        examples_per_epoch: int | None = None,
        total_steps: int | None = None,
        field: str = "duration",
    ) -> int:
        """Returns the nearest number of optimiser steps, and at least 1 unless the amount is 0 (big_vision's rule).

        Raises:
          ConfigError: the unit is relative to an epoch or to the run, and `examples_per_epoch` or `total_steps`,
            which would say how long that is, is None.
        """
        if self.unit == "epochs" and examples_per_epoch is None:
            raise SettingConflict(f"{field}: no epoch is defined here; write it in steps or examples")
        if self.unit == "percent" and total_steps is None:
            raise SettingConflict(f"{field}: a percentage needs the length of the run; write it in another unit")
        steps_of_one = {
            "steps": Fraction(1),
            "examples": Fraction(1, batch_size),
            "epochs": Fraction(examples_per_epoch or 0, batch_size),
            "percent": Fraction(total_steps or 0, 100),
        }
        exact = self.amount * steps_of_one[self.unit]
        # Halves up: round() would send them to the even neighbour.
        return max(1, int(exact + Fraction(1, 2))) if exact else 0


def parse_duration(text: str, *, field: str = "duration", batch_size: int, **lengths: int | None) -> int | None:
    """Reads a duration as a number of optimiser steps; None is "never".

    Args:
      text: "1500 steps", "10 epochs", "64000 examples", "5 percent" or "never".
      field: the setting's dotted name, for the error.
      batch_size: examples per optimiser step, over all hosts.
      lengths: `examples_per_epoch`, needed for epochs, and `total_steps`, needed for percent.

    Raises:
      ConfigError: `text` is not a duration, or is relative to something that was not given.
    """
    try:
        duration = Duration.parse(text)
    except ValueError as error:
        raise InvalidSetting(f"{field}: {text!r} is not possible; {error}") from None
    return None if duration is None else duration.steps(field=field, batch_size=batch_size, **lengths)
