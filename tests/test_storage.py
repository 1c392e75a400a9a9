"""A disk that takes no more ends a command with one line and exit code 74, wherever it is met; what was saved stays."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import logging
import os
import resource
from pathlib import Path

import pytest
from expected_errors import assert_refused
from test_checkpoint import abstract, arrays, assert_same, saved

from data_pipelines import prepare
from data_pipelines.core import exit_codes
from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import Parser, made_folder, run_command
from data_pipelines.core.errors import MissingFile, UnwritableFile
from data_pipelines.core.storage import SaidOnce, storage_failure
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import MeshConfig, TrainConfig
from rllava_jax.model.sharding import make_mesh
from rllava_jax.training.log_writers import JsonLines, TensorBoard
from rllava_jax.training.logs import TrainingLog

CODES = {
    errno.ENOSPC: "storage.full",
    errno.EDQUOT: "storage.full",
    errno.EFBIG: "storage.full",
    errno.EROFS: "storage.read-only",
    errno.EIO: "storage.broken",
    errno.ESTALE: "storage.broken",
}
# TensorStore tells each write that was under way to Orbax's event loop, which the first failure has closed, of some
# only after the command.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
numbers = pytest.mark.parametrize("number", CODES, ids=errno.errorcode.get)


def of_python(number):
    return OSError(number, os.strerror(number), "/runs/a/metrics.json")


def of_tensorstore(number):
    return ValueError(
        'RESOURCE_EXHAUSTED: Error writing "params/w" in OCDBT database at local file "/runs/a/metrics.json": Failed '
        f"to write 787921 bytes to file 13: {os.strerror(number)} [os_error_code='{number}']"
    )


def of_a_library(number):
    error = RuntimeError("the background thread failed")
    error.__cause__ = of_python(number)
    return error


@numbers
@pytest.mark.parametrize("made", [of_python, of_tensorstore, of_a_library])
def test_any_command_ends_with_one_line_and_74(number, made, capsys):
    def work(_: argparse.Namespace) -> None:
        raise made(number)

    assert run_command(Parser(prog="any"), work, []) == exit_codes.STORAGE == 74
    assert_refused(capsys.readouterr().err, CODES[number], "/runs/a/metrics.json", os.strerror(number), "again")


@pytest.mark.parametrize(
    "error", [ValueError("32 apples"), OSError(errno.ENOENT, "gone"), MissingFile("x"), KeyError(28)]
)
def test_what_is_no_storage_failure_is_left_as_it_is(error):
    assert storage_failure(error) is None


def test_what_may_not_be_written_is_the_users_to_settle(capsys):
    def work(_: argparse.Namespace) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/runs/a")

    assert run_command(Parser(prog="any"), work, []) == exit_codes.USER_ERROR
    assert_refused(capsys.readouterr().err, UnwritableFile.code, "/runs/a")


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 74), (errno.EIO, 74), (errno.EROFS, 2), (errno.ENOTDIR, 2)]
)
def test_a_folder_that_cannot_be_made_is_a_storage_failure_where_another_would_not_help(
    monkeypatch, tmp_path, capsys, number, status
):
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fails)
    assert run_command(Parser(prog="any"), lambda _: made_folder(tmp_path / "x") and None, []) == status
    code = CODES[number] if status == exit_codes.STORAGE else "file.unwritable"
    assert_refused(capsys.readouterr().err, code, f"--out {tmp_path / 'x'}", os.strerror(number))


@numbers
def test_libraries_threads_do_not_say_it_as_well(number):
    def logged(error):
        return logging.LogRecord("absl", logging.ERROR, "", 1, "failed", (), (type(error), error, None))

    assert not SaidOnce().filter(logged(of_tensorstore(number)))
    assert SaidOnce().filter(logged(ValueError("another")))
    assert SaidOnce().filter(logging.LogRecord("absl", logging.ERROR, "", 1, "failed", (), None))


@contextlib.contextmanager
def files_of_at_most(size):
    """A limit on the size of files, which Python, C++ and the kernel keep alike: EFBIG, as a full disk's ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_and_can_be_saved_later(tmp_path, capsys):
    assert saved(tmp_path, [4], keep_last=1) == [4]
    with files_of_at_most(8192):  # its small files fit, and its arrays do not
        assert run_command(Parser(prog="any"), lambda _: saved(tmp_path, [8], keep_last=1) and None, []) == 74
    assert_refused(capsys.readouterr().err, "storage.full", str(tmp_path / "8"))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        params = checkpoints.restore_params(4, abstract(arrays(4, make_mesh(MeshConfig(1, 8)))[0]))
    assert_same(params, arrays(4, make_mesh(MeshConfig(1, 8)))[0])
    assert saved(tmp_path, [8], keep_last=1) == [8]


@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: JsonLines(folder / "metrics.jsonl", first_step=0),
        lambda folder: TensorBoard(folder / "tensorboard", first_step=0),
    ],
    ids=["metrics.jsonl", "tensorboard"],
)
def test_a_log_that_finds_no_room_says_so_and_never_hangs(tmp_path, opened):
    writer = opened(tmp_path)

    def write():
        for step in range(1, 60):
            writer.write({"step": step, "loss": 1.0})
        writer.flush()

    with files_of_at_most(400):
        with pytest.raises(OSError, match=str(next(tmp_path.iterdir()))) as failed:
            write()
        assert storage_failure(failed.value).code == "storage.full"
        with contextlib.suppress(OSError):  # what is buffered finds no room either
            writer.close()


def test_a_run_whose_log_finds_no_room_closes_all_files(tmp_path, recwarn):
    def write():
        with TrainingLog(tmp_path, TrainConfig(log_examples=True), first_step=0, steps=4) as log:
            for step in range(1, 60):
                log.write_examples(step, ["a"])
                log.write(step, {"loss": 1.0}, examples=8, tokens=80)

    with files_of_at_most(400), pytest.raises(OSError, match=str(tmp_path)) as failed:
        write()
    assert storage_failure(failed.value).code == "storage.full"
    gc.collect()
    assert not [str(w.message) for w in recwarn if issubclass(w.category, ResourceWarning)]


@numbers
def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch, number):
    path = tmp_path / "metrics.json"
    write_atomically(path, "before")

    def fails(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=str(path)) as failed:
        write_atomically(path, "after")
    assert storage_failure(failed.value).code == CODES[number]
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@numbers
def test_prepare_names_the_folder_and_goes_on_when_there_is_room(tmp_path, monkeypatch, capsys, number):
    arguments = ["phantom", "--out", str(tmp_path / "set"), "--workers", "1", "--splits", "test"]

    held = []

    def fails(_):
        if held:  # the lock, which is written first, still found room
            raise OSError(number, os.strerror(number))
        held.append(True)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        assert prepare.main(arguments) == exit_codes.STORAGE
    assert_refused(capsys.readouterr().err, CODES[number], f"--out {tmp_path / 'set'}")
    assert not (tmp_path / "set").exists()
