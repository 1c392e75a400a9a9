"""What the log says of compilation, of input that is waited for, and of a stall."""

import json
import logging
import time

import jax.numpy as jnp
import pytest

from rllava_jax.config import TrainConfig
from rllava_jax.training.logs import TrainingLog, Watchdog

METRICS = {"loss": jnp.asarray(2.0)}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_compilation_counts_as_no_steps_time(tmp_path):
    with TrainingLog(tmp_path, TrainConfig(), first_step=0, steps=4) as log:
        with log.phase("compilation"):
            time.sleep(0.2)
        time.sleep(0.01)
        log.write(1, METRICS, examples=8, tokens=80)
        log.write(2, METRICS, examples=8, tokens=80)
    first, second = rows(tmp_path)
    assert 0.2 <= first["compile_seconds"] < 0.3
    assert 0 < first["step_seconds"] < 0.1
    assert "compile_seconds" not in second


def test_waiting_for_input_is_warned_of_with_the_remedy_and_ever_more_seldom(tmp_path, caplog):
    config = TrainConfig(data_wait_warning=0.2)
    with TrainingLog(tmp_path, config, first_step=0, steps=10) as log, caplog.at_level(logging.WARNING):
        for step in range(1, 9):
            time.sleep(0.005)
            with log.phase("input"):
                time.sleep(0.0 if step < 3 else 0.02)
            log.write(step, METRICS, examples=8, tokens=80)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3  # of steps 3 to 8: the first, second and fourth
    for word in ("waiting for input", "data.workers", "data.threads", "data.image_cache_mb"):
        assert word in said[0]


def test_what_is_not_finite_is_null_in_the_log(tmp_path):
    with TrainingLog(tmp_path, TrainConfig(), first_step=0, steps=4) as log:
        log.write(1, {"loss": jnp.asarray(jnp.nan)}, examples=8, tokens=80)
    assert rows(tmp_path)[0]["loss"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_rows_beyond_the_restored_step_are_dropped(tmp_path):
    for first, last in ((0, 5), (3, 6)):
        with TrainingLog(tmp_path, TrainConfig(log_examples=True), first_step=first, steps=6) as log:
            for step in range(first + 1, last + 1):
                log.write(step, METRICS, examples=8, tokens=80)
                log.write_examples(step, [f"{first}-{step}"])
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    written = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert [row["examples"] for row in written] == [["0-1"], ["0-2"], ["0-3"], ["3-4"], ["3-5"], ["3-6"]]


def test_a_row_without_a_step_is_dropped_and_named(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"loss": 3.0}\n[4]\n{"step": 2}\n{"step": 3')
    with caplog.at_level(logging.WARNING), TrainingLog(tmp_path, TrainConfig(), first_step=2, steps=6):
        pass
    assert rows(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2}]
    named = [record.getMessage() for record in caplog.records]
    said = f"{tmp_path}/metrics.jsonl: a row without a step is dropped: "
    assert named == [said + '{"loss": 3.0}', said + "[4]"]


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("input", "waits for input"),
        ("compilation", "compiles"),
        ("device", "waits for the device or for another host"),
        ("checkpoint", "waits for a checkpoint"),
        ("validation", "validates"),
    ],
)
def test_a_stall_is_named_and_again_when_it_has_doubled(caplog, phase, said):
    with caplog.at_level(logging.WARNING), Watchdog(0.1) as watchdog, watchdog.phase(phase):
        time.sleep(0.55)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3  # at 0.1, 0.2 and 0.4 s
    for line in lines:
        assert line.startswith("no step has finished for")
        assert said in line


def test_steps_in_time_are_no_stall(caplog):
    with caplog.at_level(logging.WARNING), Watchdog(0.3) as watchdog:
        for _ in range(5):
            time.sleep(0.1)
            watchdog.finished_step()
    assert not caplog.records
