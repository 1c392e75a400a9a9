"""An interrupted run goes on exactly: the same losses, parameters and examples, here and on other devices."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from expected_errors import assert_refused
from resumed_runs import BATCH, LIGHT, STEPS, checkpoints, examples, losses, rows, wait_for_step

from data_pipelines.core import exit_codes
from data_pipelines.loading.examples import load_examples
from rllava_jax.checkpoint.provenance import check_workdir
from rllava_jax.config import ConfigError
from rllava_jax.config.loading import load

OWN_CACHE = {"JAX_COMPILATION_CACHE_DIR": ""}  # the run's, in place of the one that tests share


def compiled(config):
    """The training steps in the run's own compilation cache."""
    return {path.name for path in (config.parent / "compiled").rglob("jit_step*-cache")}


@pytest.fixture(scope="module")
def interrupted_run(command_line, finished_run, tmp_path_factory):
    """The tiny run, stopped by SIGTERM, and what it said.

    The signal goes to the whole group, with the process that reads the images in it.
    """
    workdir = tmp_path_factory.mktemp("runs") / "interrupted"
    process = command_line.start(
        command_line.main(workdir, *LIGHT, "--config.data.workers=1"), own_group=True, **OWN_CACHE
    )
    wait_for_step(process, workdir, 5)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    return workdir, process.returncode, err


def test_sigterm_saves_the_step_and_exits_with_75(interrupted_run):
    workdir, status, err = interrupted_run
    assert status == exit_codes.INTERRUPTED == 75, err
    last = checkpoints(workdir)[-1]
    assert 5 <= last < STEPS
    assert last == rows(workdir)[-1]["step"]
    assert f"interrupted after step {last} of {STEPS}, which is saved" in err
    assert "Traceback" not in err
    # Behind it Python may tell of the worker's shared memory, which it frees.
    assert "interrupted; run the same command again to resume" in err.splitlines()


def test_on_the_same_devices_the_resumed_run_is_the_same_bit_for_bit_also_after_a_full_disk(
    interrupted_run, finished_run, command_line, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(interrupted_run[0], workdir)
    before, saved = compiled(command_line.config), checkpoints(workdir)
    full = command_line.start(command_line.main(workdir, *LIGHT), **OWN_CACHE)
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))  # no room for a checkpoint
    _, err = full.communicate(timeout=240)
    assert full.returncode == exit_codes.STORAGE, err
    assert_refused(err, "storage.full", f"{workdir}/checkpoints/")
    assert "Traceback" not in err
    assert checkpoints(workdir) == saved
    status, _, err = command_line.run(command_line.main(workdir, *LIGHT), **OWN_CACHE)
    assert status == 0, err
    np.testing.assert_array_equal(losses(workdir), losses(finished_run))
    assert examples(workdir) == examples(finished_run)
    last = f"checkpoints/{STEPS}/checksums/checksums.json"
    assert (workdir / last).read_bytes() == (finished_run / last).read_bytes()
    # The second start found the compiled training step.
    assert before
    assert compiled(command_line.config) == before


def test_on_eight_devices_of_three_axes_the_losses_are_within_1e_5(
    interrupted_run, finished_run, command_line, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(interrupted_run[0], workdir)
    first = rows(workdir)[-1]["step"]
    mesh = [f"--config.mesh.{size}" for size in ("data=2", "fsdp=2", "tensor=2")]
    status, _, err = command_line.run(command_line.main(workdir, *LIGHT, *mesh), devices=8)
    assert status == 0, err
    assert f"resuming after step {first} of {STEPS}" in err
    np.testing.assert_allclose(losses(workdir), losses(finished_run), rtol=1e-5, atol=0)
    assert examples(workdir) == examples(finished_run)


def test_every_example_is_seen_once_in_each_epoch_of_its_family(interrupted_run, finished_run, command_line):
    """By the ids that were logged; the interrupted run's are the same as far as it came."""
    config = load(str(command_line.config), [])
    training = load_examples(config.data, "train", seed=config.seed, max_regions=1)
    seen = [name for batch in examples(finished_run) for name in batch]
    assert len(seen) == STEPS * BATCH
    for family in config.data.families:
        group = {example.id for example in training if example.family == family}
        drawn = Counter(name for name in seen if name in group)
        assert sum(drawn.values()) > len(group)  # more than an epoch, less than two
        assert drawn.keys() == group
        assert max(drawn.values()) == 2
        # The second epoch begins only when the first is through: what comes twice is not there twice before.
        batches = [{name for name in batch if name in group} for batch in examples(finished_run)]
        met: set[str] = set()
        for batch in batches:
            assert met | batch == group or not met & batch
            met |= batch
    sofar = [sorted(row["examples"]) for row in rows(interrupted_run[0], "examples.jsonl")]
    assert sofar == examples(finished_run)[: len(sofar)]


def test_a_validation_that_was_interrupted_is_made_up_for(finished_run, command_line, tmp_path):
    """The step was saved before it, without figures."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    figures = workdir / "checkpoints" / str(STEPS) / "metrics" / "metrics"
    content = figures.read_text()
    shutil.rmtree(figures.parent)
    whole = rows(workdir)
    kept = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)[:-1]
    (workdir / "metrics.jsonl").write_text("".join(kept))
    status, _, err = command_line.run(command_line.main(workdir))
    assert status == 0, err
    assert figures.read_text() == content
    assert rows(workdir) == whole


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"mesh": {"fsdp": 2}, "data": {"workers": 4}, "model": {"remat": "full"}}, ""),
        ({"train": {"accumulate": 2, "keep_last": 9, "checkpoint_every": "1 steps", "on_bad_step": "skip"}}, ""),
        ({"train": {"duration": "20 steps"}}, "train.duration"),
        ({"train": {"spike_factor": 3.0}}, "train.spike_factor"),
        ({"optimizer": {"learning_rate": 1.0}}, "optimizer.learning_rate"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else value,
)
def test_a_resumed_run_may_change_what_changes_no_result(finished_run, command_line, changed, refused):
    config = load(str(command_line.config), [])
    for section, fields in changed.items():
        config = replace(config, **{section: replace(getattr(config, section), **fields)})
    if not refused:
        assert check_workdir(finished_run, config)
        return
    with pytest.raises(ConfigError, match=refused):
        check_workdir(finished_run, config)


def test_sigint_during_set_up_ends_at_once_with_75(command_line, tmp_path):
    workdir = tmp_path / "run"
    process = command_line.start(command_line.main(workdir))
    deadline = time.monotonic() + 120
    while not (workdir / "config.json").exists():  # before the first step is compiled
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED, err
    assert not (workdir / "metrics.jsonl").exists() or not rows(workdir)
    assert "Traceback" not in err


def test_a_second_signal_ends_a_process_that_hangs():
    """In C code that never returns to Python, where Python's own handlers cannot run."""
    hangs = (
        "import ctypes, logging; logging.basicConfig(format='%(message)s')\n"
        "from rllava_jax.runtime.interruption import Interruption\n"
        "mutex = ctypes.create_string_buffer(128)\n"
        "with Interruption():\n"
        "    print('hangs', flush=True)\n"
        "    for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", hangs], stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout.readline() == "hangs\n"
        time.sleep(0.5)  # it hangs a moment later
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "SIGTERM: stopping; once more ends at once\n"
        process.send_signal(signal.SIGTERM)  # the same one, sent to the group as well
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
