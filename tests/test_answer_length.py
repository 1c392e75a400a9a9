"""The longest answer is bounded before anything is read or compiled for it."""

from __future__ import annotations

import pytest
from expected_errors import assert_refused, refused

from rllava_jax import evaluate, main, predict
from rllava_jax.config import ConfigError
from rllava_jax.inference.predictor import Predictor


@pytest.mark.parametrize("number", ["0", "8193", str(10**9), str(10**30)])
def test_the_longest_answer_has_a_bound_wherever_it_is_said(number, command_line, tmp_path, capsys):
    """Room for every token is taken before the first is decoded."""
    config = f"--config.evaluation.max_new_tokens={number}"
    for entry, arguments in (
        (main, ["--config", str(command_line.config), "--workdir", str(tmp_path / "run"), config]),
        (predict, ["--checkpoint", str(tmp_path), "--image", "x", "--question", "y", "--max-new-tokens", number]),
        (evaluate, ["--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"), "--max-new-tokens", number]),
    ):
        assert entry.main(arguments) == 2
        assert_refused(capsys.readouterr().err, None, "max", number)
    with refused(ConfigError, "option.invalid-value", "new_tokens", number):
        Predictor.load(tmp_path, new_tokens=int(number))
