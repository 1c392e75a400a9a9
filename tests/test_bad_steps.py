"""A batch whose loss is not finite: the run stops before it, or goes on without it, and names the examples."""

import logging
import shutil
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from resumed_runs import LIGHT, STEPS, checkpoints, examples, losses, rows

from data_pipelines.core import exit_codes
from rllava_jax.config import TrainConfig
from rllava_jax.training.bad_steps import BadStep, Outcomes
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.state import Metrics

# In the real preprocessing, of one example, which the environment names.
POISON = """
import os
import numpy as np
from data_pipelines.loading.preprocess import Preprocessor

whole = Preprocessor.training

def poisoned(self, example, rng, **options):
    arrays = whole(self, example, rng, **options)
    if example.id == os.environ["POISONED"]:
        arrays["regions"] = np.full_like(arrays["regions"], np.nan)
        arrays["region_valid"] = np.ones_like(arrays["region_valid"])
    return arrays

Preprocessor.training = poisoned
"""


@pytest.fixture(scope="module")
def poisoned(command_line, finished_run, tmp_path_factory):
    """An example that the tiny run sees once, the step that sees it, and how to run it with that example poisoned."""
    config = tmp_path_factory.mktemp("poisoned") / "config.py"
    config.write_text(command_line.config.read_text() + POISON)
    batches = examples(finished_run)
    times = Counter(name for batch in batches for name in batch)
    seen = [(step, name) for step, batch in enumerate(batches, 1) for name in batch if times[name] == 1]
    # Not right after a step that is saved anyway, and not the last.
    step, example = max((step, name) for step, name in seen if (step - 1) % 4 and step < STEPS)

    def run(workdir, *arguments):
        command = command_line.main(workdir, *LIGHT, *arguments)
        command[command.index("--config") + 1] = str(config)
        return command_line.run(command, POISONED=example)

    return example, step, run


@pytest.fixture(scope="module")
def stopped(poisoned, tmp_path_factory):
    """The run that stops at it."""
    workdir = tmp_path_factory.mktemp("runs") / "stopped"
    status, _, err = poisoned[2](workdir)
    return workdir, status, err


def test_stop_saves_the_state_of_before_the_bad_step_and_exits_with_3(stopped, poisoned):
    (workdir, status, err), (example, step, _) = stopped, poisoned
    assert status == exit_codes.BAD_STEP == 3, err
    last = err.splitlines()[-1]
    assert last.startswith(f"error: step {step} is bad: loss nan, gradient norm nan, examples {example};")
    assert "Traceback" not in err
    assert checkpoints(workdir)[-1] == step - 1 > 4
    bad = rows(workdir)[-1]
    assert bad == {"step": step, "bad": True, "loss": None, "gradient_norm": None, "examples": [example]}


def test_from_the_saved_state_the_mended_run_ends_as_if_nothing_had_happened(
    stopped, finished_run, command_line, tmp_path
):
    """Bit for bit: neither the bad step nor the one queued behind it has moved anything."""
    workdir = tmp_path / "run"
    shutil.copytree(stopped[0], workdir)
    status, _, err = command_line.run(command_line.main(workdir, *LIGHT))
    assert status == 0, err
    np.testing.assert_array_equal(losses(workdir), losses(finished_run))
    sums = f"checkpoints/{STEPS}/checksums/checksums.json"
    assert (workdir / sums).read_bytes() == (finished_run / sums).read_bytes()


def test_skip_goes_on_without_the_batch(stopped, poisoned, tmp_path):
    example, step, run = poisoned
    workdir = tmp_path / "run"
    shutil.copytree(stopped[0], workdir)
    status, _, err = run(workdir, "--config.train.on_bad_step=skip")
    assert status == 0, err
    warned = [line for line in err.splitlines() if "is bad" in line]
    what = f"step {step} is bad: loss nan, gradient norm nan, examples {example}"
    assert warned == [f"{what}; skipped, the parameters stay"]
    assert [row["step"] for row in rows(workdir) if row.get("bad")] == [step]
    logged = [row for row in rows(workdir) if row["step"] == STEPS and "loss" in row]
    assert np.isfinite(logged[0]["loss"])


@pytest.mark.slow
def test_more_bad_steps_in_a_row_than_allowed_stop_the_run(tmp_path):
    log, outcomes = outcomes_of(tmp_path, max_skipped=1)
    with log:
        for step, bad in enumerate([True, False, True, True], start=1):
            outcomes.put(step, metrics(bad=bad), jnp.arange(2))
        with pytest.raises(BadStep, match=r"step 4 is bad.*2 in a row, train.max_skipped allows 1") as caught:
            outcomes.settle()
    assert caught.value.step == 4
    assert not caught.value.held


def metrics(*, bad, example_loss=(1.0, 9.0)):
    scalars = {"bad": jnp.asarray(bad), "loss": jnp.asarray(5.0), "gradient_norm": jnp.asarray(1.0)}
    return Metrics(scalars, {"example_loss": jnp.asarray(example_loss)})


def outcomes_of(tmp_path, **settings):
    config = TrainConfig(on_bad_step="skip", **settings)
    log = TrainingLog(tmp_path, config, first_step=0, steps=10)
    return log, Outcomes(config, log, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("losses_of", "named"),
    [((1.0, np.nan, np.inf), "examples b, c"), ((1.0, 9.0, 1.0), "examples b"), ((1.0, 1.0, 1.1), "examples c")],
    ids=["not finite", "far above", "the highest"],
)
@pytest.mark.slow
def test_the_offending_examples_are_named(tmp_path, caplog, losses_of, named):
    log, outcomes = outcomes_of(tmp_path)
    with log, caplog.at_level(logging.WARNING):
        outcomes.put(1, metrics(bad=True, example_loss=losses_of), jnp.arange(3))
        outcomes.settle()
    assert f"{named}; skipped" in caplog.text


def test_an_outcome_is_looked_at_when_the_next_step_is_queued(tmp_path, caplog):
    """So that the device always has a step to do."""
    log, outcomes = outcomes_of(tmp_path)
    with log, caplog.at_level(logging.WARNING):
        outcomes.put(1, metrics(bad=True), jnp.arange(2))
        assert not caplog.records
        outcomes.put(2, metrics(bad=False), jnp.arange(2))
        assert "step 1 is bad" in caplog.text
