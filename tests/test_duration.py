"""Durations: every unit, the rounding, and the one line that a wrong one gives."""

from __future__ import annotations

import pytest
from expected_errors import refused

from rllava_jax.config import ConfigError
from rllava_jax.config.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1500 steps", 1500),
        ("1 step", 1),
        ("0 steps", 0),
        ("10 epochs", 313),  # 10 * 1000 / 32 = 312.5, halves up
        ("0.5 epochs", 16),  # 15.625
        ("1 epoch", 31),  # 31.25
        ("64000 examples", 2000),
        ("1 example", 1),  # at least one step
        ("0 examples", 0),
        ("5 percent", 20),
        ("0.01 percent", 1),
        ("100 percent", 400),
    ],
)
def test_each_unit_gives_the_nearest_number_of_steps(text: str, steps: int) -> None:
    assert parse_duration(text, batch_size=32, examples_per_epoch=1000, total_steps=400) == steps


def test_never_is_none_and_not_zero() -> None:
    assert parse_duration("never", batch_size=32) is None


def test_percent_is_exact() -> None:
    # In binary floating point 0.7 / 100 * 500 is 3.4999999999999996, which rounds to 3.
    assert parse_duration("0.7 percent", batch_size=1, total_steps=500) == 4


@pytest.mark.parametrize(
    "text",
    ["", "10", "10epochs", "ten epochs", "-1 steps", "10 hours", "5 percents", "10 epochs ", "10 epochs\n", "Never"],
)
def test_text_without_amount_and_unit_is_refused_with_an_example(text: str) -> None:
    with refused(ConfigError, "config.invalid-value", f"train.duration: {text!r}", '"10 epochs"'):
        parse_duration(text, batch_size=32, examples_per_epoch=1000, total_steps=400, field="train.duration")


@pytest.mark.parametrize("text", ["1.5 steps", "0.5 examples"])
def test_half_a_step_or_example_is_refused(text: str) -> None:
    with refused(ConfigError, "config.invalid-value", repr(text)):
        parse_duration(text, batch_size=32)


def test_more_than_the_whole_run_is_refused() -> None:
    with refused(ConfigError, "config.invalid-value", "'101 percent'"):
        parse_duration("101 percent", batch_size=32, total_steps=400)


def test_percent_of_an_unknown_run_is_refused_by_name() -> None:
    with refused(ConfigError, "config.conflict", "train.duration: "):
        parse_duration("5 percent", batch_size=32, examples_per_epoch=1000, field="train.duration")


def test_epochs_without_a_data_set_are_refused_by_name() -> None:
    with refused(ConfigError, "config.conflict", "train.duration: "):
        parse_duration("1 epoch", batch_size=32, field="train.duration")
