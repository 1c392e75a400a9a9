"""Interruptions and processes leave no trace in a prepared data set."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared_sets import content, in_process, make_source, prepared

from data_pipelines.images import reading
from data_pipelines.prepare import main
from data_pipelines.prepared import image_shards


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


@pytest.fixture
def many_shards(monkeypatch):
    """Small sets are cut into shards of about one image of `source`."""
    monkeypatch.setattr(image_shards, "_SMALL", 9_000)


def test_stopped_at_any_shard_and_started_again_it_is_the_same_byte_for_byte(source, tmp_path, many_shards):
    prepared(source, tmp_path / "out", run=in_process)
    undisturbed = content(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")
    assert sum("array_record" in name for name in undisturbed) == 7

    def stopped_after(count):
        def run(shards):
            for shard in shards[:count]:
                image_shards.write_shard(shard)
            Path(f"{shards[count].path}.99.partial").write_bytes(b"half a shard")
            raise KeyboardInterrupt

        return run

    for count in (0, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            prepared(source, tmp_path / "out", run=stopped_after(count))
        assert not (tmp_path / "out").exists()
    prepared(source, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


def test_finished_shards_are_not_written_again(source, tmp_path, many_shards, monkeypatch):
    def stopped(shards):
        in_process(shards[:3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "out", run=stopped)
    read = []
    decode = reading.decode
    monkeypatch.setattr(reading, "decode", lambda image, where, **of: read.append(where) or decode(image, where, **of))
    prepared(source, tmp_path / "out")
    assert read == ["images/3.png"]


def test_two_killed_processes_leave_what_is_finished_and_nothing_half_done(source, tmp_path, command_line):
    rng = np.random.default_rng(0)
    for number in range(4):  # eight MB each: several shards, which take longer to write than the first one takes to see
        Image.fromarray(rng.integers(0, 256, (1660, 1660, 3), np.uint8)).save(source / f"images/{number}.png")
    mask = np.zeros((1660, 1660), np.uint8)
    mask[10:20, 10:20] = 9
    Image.fromarray(mask).save(source / "mask.png")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_pipelines.prepare", "jsonl", "--source", str(source), "--out", str(out)]
    process = command_line.start([*command, "--workers", "2"], own_group=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out.incomplete/images/1.0.0/*.array_record*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    status, printed, err = command_line.run([*command, "--workers", "2"])
    assert (status, printed) == (0, f"train: 12 questions, 4 images, 4 boxes\nprepared jsonl in {out}\n"), err
    resumed = content(out)
    assert main([*command[3:], "--overwrite", "--workers", "1"]) == 0
    assert content(out) == resumed
