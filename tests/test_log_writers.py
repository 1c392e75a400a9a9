"""Writers of a run's log: Weights & Biases by a stand-in, and observers."""

import sys
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from expected_errors import refused

from rllava_jax.config import ConfigError, TrainConfig
from rllava_jax.training.log_writers import require_wandb
from rllava_jax.training.logs import TrainingLog


class Recorded:
    """Keeps the rows that it is given; an observer."""

    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, row):
        self.rows.append(dict(row))

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def wandb(monkeypatch):
    """A package `wandb` that remembers what it was told."""
    told = SimpleNamespace(started=[], logged=[], finished=0)

    def finish():
        told.finished += 1

    def init(**settings):
        told.started.append(settings)
        return SimpleNamespace(log=lambda values, step: told.logged.append((step, values)), finish=finish)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return told


def logged(workdir, observer, **settings):
    config = TrainConfig(**settings)
    with TrainingLog(workdir, config, first_step=0, steps=4, observers=[observer]) as log:
        log.write(1, {"loss": jnp.asarray(2.0)}, examples=8, tokens=80)
        log.write_bad_step(2, loss=9.0, gradient_norm=1.0, examples=["a"])
        log.write_evaluation(2, {"all/right/accuracy": 0.5})


@pytest.mark.slow
def test_weights_and_biases_gets_the_figures_of_every_row(wandb, tmp_path):
    (tmp_path / "config.json").write_text('{"config": {"seed": 3}}')
    for _ in range(2):
        logged(tmp_path, Recorded(), wandb_project="lungs")
    first, second = wandb.started
    assert first == second  # the run is resumed, and not begun anew
    assert (first["project"], first["name"], first["resume"]) == ("lungs", tmp_path.name, "allow")
    assert first["config"] == {"config": {"seed": 3}}
    assert [step for step, _ in wandb.logged] == [1, 2] * 2
    assert wandb.logged[0][1]["loss"] == 2.0
    assert wandb.logged[1][1] == {"validation/all/right/accuracy": 0.5}
    assert wandb.finished == 2


@pytest.mark.slow
def test_without_the_setting_the_package_is_not_asked_for(wandb, tmp_path):
    logged(tmp_path, Recorded())
    assert not wandb.started


def test_without_the_package_the_setting_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refused(ConfigError, "package.missing", "train.wandb_project", "lungs", ".[wandb]"):
        require_wandb("lungs")


def test_an_observer_gets_the_rows_of_the_files(tmp_path):
    observer = Recorded()
    logged(tmp_path, observer)
    assert [row["step"] for row in observer.rows] == [1, 2, 2]
    assert observer.rows[1] == {"step": 2, "bad": True, "loss": 9.0, "gradient_norm": 1.0, "examples": ["a"]}
    assert observer.closed
