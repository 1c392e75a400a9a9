"""Two programs never write one folder: the second is refused, and what a dead one left is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from expected_errors import assert_refused, refused

from data_pipelines import prepare
from data_pipelines.core import sole_writer as module
from data_pipelines.core.sole_writer import LOCK_FILE, InUse, UnwritableFile, sole_writer
from rllava_jax import main as training
from rllava_jax import trust


def holding(folder, **others):
    """The lock in a folder, whose record says what a holder's does and `others`."""
    with sole_writer(folder / LOCK_FILE, what="--out"):
        record = json.loads((folder / LOCK_FILE).read_text())
    (folder / LOCK_FILE).write_text(json.dumps(record | others))
    return folder / LOCK_FILE


@pytest.fixture
def impatient(monkeypatch):
    """Beats and silences of fractions of a second."""
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "SILENCE", 0.3)


@pytest.fixture
def no_flock(monkeypatch):
    """A shared file system that has no such locks."""

    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", flock)


@pytest.fixture
def remote(monkeypatch):
    """Takes every folder for one in a bucket."""
    monkeypatch.setattr(module, "is_remote", lambda path: True)
    monkeypatch.setattr(module, "_SETTLES", 0.0)


def test_the_second_is_refused_at_once_and_told_who_is_the_first(tmp_path):
    lock = tmp_path / "run" / LOCK_FILE
    with sole_writer(lock, what="--workdir run"):
        record, began = lock.read_bytes(), time.monotonic()
        with (
            refused(InUse, "file.in-use", "--workdir run", str(lock), f"process {os.getpid()}", os.uname().nodename),
            sole_writer(lock, what="--workdir run"),
        ):
            pass
        assert time.monotonic() - began < 1
        assert lock.read_bytes() == record
    assert not lock.parent.exists()  # it was made for the lock alone
    with sole_writer(lock, what="--workdir run"):
        (lock.parent / "result").touch()
    assert [path.name for path in lock.parent.iterdir()] == ["result"]


@pytest.mark.parametrize(
    "command",
    [
        (training, "--config", "CONFIG", "--workdir", "FOLDER"),
        (prepare, "phantom", "--out", "FOLDER"),
        (trust, "run", "--adapter", "builtins:print", "--boxes", "docs/trust/slake_test_boxes.jsonl.gz",
         "--root", ".", "--out", "FOLDER"),
    ],
    ids=lambda command: command[0].__name__,
)  # fmt: skip
def test_every_command_that_goes_on_where_it_stopped_refuses_a_folder_in_use(command, command_line, tmp_path, capsys):
    entry, *arguments = command
    folder = tmp_path / "folder"
    lock = folder.with_name("folder.lock") if entry is prepare else folder / LOCK_FILE
    with sole_writer(lock, what="the first"):
        before = sorted(tmp_path.rglob("*"))
        status = entry.main([{"CONFIG": str(command_line.config), "FOLDER": str(folder)}.get(a, a) for a in arguments])
        assert status == 2
        assert_refused(capsys.readouterr().err, "file.in-use", str(folder), f"process {os.getpid()}")
        assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_process_left_is_taken_over_at_once_with_one_line(tmp_path, caplog):
    holds = (
        "import sys, pathlib, time\nfrom data_pipelines.core.sole_writer import sole_writer\n"
        "with sole_writer(pathlib.Path(sys.argv[1]), what='it'): print('holds', flush=True); time.sleep(60)"
    )
    lock = tmp_path / LOCK_FILE
    process = subprocess.Popen([sys.executable, "-c", holds, str(lock)], stdout=-1, text=True)
    assert process.stdout.readline() == "holds\n"
    with refused(InUse, "file.in-use", f"process {process.pid}"), sole_writer(lock, what="it"):
        pass
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number is still taken
    with sole_writer(lock, what="it"):
        assert json.loads(lock.read_text())["process"] == os.getpid()
    process.communicate()
    assert len(caplog.messages) == 1
    assert f"process {process.pid}" in caplog.messages[0]


@pytest.mark.parametrize(
    ("changed", "alive"),
    [
        ({}, True),
        ({"started": "1"}, False),  # the number is another's by now
        ({"process": 2**22 + 1}, False),
        ({"process": "?", "started": None}, False),
    ],
)
def test_without_flock_the_process_list_decides(tmp_path, no_flock, changed, alive):
    lock = holding(tmp_path, **changed)
    if alive:
        with refused(InUse, "file.in-use"), sole_writer(lock, what="it"):
            pass
        return
    with sole_writer(lock, what="it"):
        assert json.loads(lock.read_text())["started"] == module._started(os.getpid())


@pytest.mark.parametrize("kind", ["no_flock", "remote"])
@pytest.mark.parametrize("alive", [True, False])
def test_another_hosts_lock_stands_as_long_as_it_beats(tmp_path, request, impatient, caplog, kind, alive):
    request.getfixturevalue(kind)
    lock = holding(tmp_path, host="elsewhere", machine="another", token="theirs", beat=time.time())
    theirs = module._RemoteLock(lock, "it") if kind == "remote" else None
    ended = threading.Event()

    def beats():
        while not ended.wait(0.05):
            if theirs:
                theirs.record |= {"host": "elsewhere", "token": "theirs"}
                theirs.touch()
            else:
                os.utime(lock)

    beating = threading.Thread(target=beats)
    if alive:
        beating.start()
    try:
        if alive:
            with refused(InUse, "file.in-use", "elsewhere"), sole_writer(lock, what="it"):
                pass
        else:
            with sole_writer(lock, what="it"):
                assert json.loads(lock.read_text())["host"] == os.uname().nodename
            assert "has not been heard of" in caplog.messages[-1]
    finally:
        ended.set()
        if alive:
            beating.join()


def test_what_is_hours_old_is_not_waited_for(tmp_path, no_flock):
    lock = holding(tmp_path, host="elsewhere", machine="another")
    os.utime(lock, (1, 1))
    began = time.monotonic()
    with sole_writer(lock, what="it"):
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"process": [1], "machine": {}}'])
def test_a_lock_that_was_cut_short_or_is_none_stops_nobody(tmp_path, impatient, content):
    (tmp_path / LOCK_FILE).write_bytes(content)
    with sole_writer(tmp_path / LOCK_FILE, what="it"):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()


def test_of_two_that_begin_at_once_in_a_bucket_the_one_overwritten_gives_way(tmp_path, remote, monkeypatch):
    lock = tmp_path / LOCK_FILE
    other = json.dumps({"host": "elsewhere", "token": "theirs"})
    monkeypatch.setattr(module.time, "sleep", lambda _: lock.write_text(other))
    with refused(InUse, "file.in-use", "elsewhere"), sole_writer(lock, what="it"):
        pass
    assert lock.read_text() == other


@pytest.mark.parametrize("kind", ["impatient", "remote"])
def test_the_holder_beats_and_ends_when_its_lock_was_taken(tmp_path, request, impatient, monkeypatch, capsys, kind):
    request.getfixturevalue(kind)
    ends, lock = [], tmp_path / LOCK_FILE
    monkeypatch.setattr(module.os, "_exit", ends.append)
    with sole_writer(lock, what="--workdir run"):
        first = lock.stat().st_mtime_ns
        time.sleep(0.3)
        assert lock.stat().st_mtime_ns > first
        assert not ends
        lock.write_text(json.dumps({"host": "elsewhere", "token": "theirs"}))
        time.sleep(0.3)
        assert ends
    assert "elsewhere" in capsys.readouterr().err
    assert set(ends) == {2}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        refused(UnwritableFile, "file.unwritable", "--out x", "Not a directory"),
        sole_writer(tmp_path / "file" / "x" / LOCK_FILE, what="--out x"),
    ):
        pass
