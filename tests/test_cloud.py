"""gs:// paths: a run that lives in a bucket ends as a local one does, and what is no such path is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from expected_errors import refused
from fake_gcs import serve

from data_pipelines.core import append_log
from data_pipelines.core import paths as paths_module
from data_pipelines.core.append_log import AppendLogs
from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.paths import absolute, is_remote, local_path, path_of, require_bucket
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import Region
from rllava_jax import convert, predict
from rllava_jax import main as entry
from rllava_jax.checkpoint.manager import Checkpoints, find_checkpoint
from rllava_jax.checkpoint.opened import workdir_of
from rllava_jax.config import ConfigError
from rllava_jax.config.loading import load
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.inference.predictor import Predictor
from rllava_jax.model.params import abstract
from rllava_jax.training.initialisation import initial_parameters, origins, resolve

STEPS = 14
CLOCK = {"examples_per_second", "tokens_per_second", "step_seconds", "data_wait_fraction", "compile_seconds"}


@pytest.fixture(scope="module")
def cloud():
    """Google Cloud Storage with one empty bucket, for this process and those that it starts."""
    with serve("bucket") as fake, pytest.MonkeyPatch.context() as patch:
        for name, value in fake.environment.items():
            patch.setenv(name, value)
        yield fake


@pytest.fixture(scope="module")
def copied_run(finished_run, cloud):
    """A local run, copied into the bucket as `gcloud storage cp -r` does."""
    for path in finished_run.rglob("*"):
        if path.is_file():
            cloud.write(f"copied/{path.relative_to(finished_run).as_posix()}", path.read_bytes())
    return "gs://bucket/copied"


def rows_without_times(text):
    """The rows of a metrics.jsonl, without what the clock decides."""
    rows = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


# Names


def test_a_local_path_is_pathlibs():
    for name in ("runs/slake", "/runs/slake", ".", "~/runs", "runs//slake/", Path("runs"), "2024:runs", "C:runs"):
        path = path_of(name)
        assert type(path) is type(Path())
        assert path == Path(name)
        assert absolute(path) == Path(name).absolute()
        assert not is_remote(path)
        require_bucket(path)  # of which it has none


def test_a_remote_path_keeps_its_two_slashes(cloud):
    path = path_of("gs://bucket/runs/slake/")
    forms = (
        (path, "gs://bucket/runs/slake"),
        (path / "metrics.jsonl", "gs://bucket/runs/slake/metrics.jsonl"),
        (path.parent, "gs://bucket/runs"),
        (absolute(path), "gs://bucket/runs/slake"),
        (path_of(path), "gs://bucket/runs/slake"),
    )
    for form, expected in forms:
        assert str(form) == os.fspath(form) == expected
        assert is_remote(form)
    assert path.name == "slake"
    assert workdir_of(path / "checkpoints").name == workdir_of(path).name == "slake"


@pytest.mark.parametrize(
    "name", ["gs:/bucket/run", "s3://bucket/run", "gs://", "gs:///run", "file:///runs", "GS://b/r"]
)
def test_what_is_neither_local_nor_in_a_bucket_is_refused(name, cloud):
    with refused(ConfigError, "file.invalid-path", "gs://BUCKET/FOLDER"):
        path_of(name)


def test_without_gcsfs_the_remedy_is_named(monkeypatch):
    paths_module._prepare_remote.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(ConfigError, "package.missing", "pip install -e '.[gcs]'"):
        path_of("gs://bucket/run")
    assert local_path("run", what="--workdir") == Path("run")


def test_every_path_of_every_command_line_arrives_as_it_was_written(monkeypatch, command_line, cloud, capsys, tmp_path):
    seen = []

    class Stop(Exception):
        pass

    def note(*arguments, **options):
        seen.extend(str(value) for value in (*arguments, *options.values()) if is_path(value))
        raise Stop

    def is_path(value):
        return isinstance(value, Path | epath.Path)

    monkeypatch.setattr(entry, "run", note)
    monkeypatch.setattr(Predictor, "load", note)
    monkeypatch.setattr(convert, "export_checkpoint", note)
    image = tmp_path / "scan.png"
    image.touch()
    run = "gs://bucket/run"
    for command, arguments in (
        (entry.main, ["--config", str(command_line.config), "--workdir", run]),
        (predict.main, ["--checkpoint", run, "--image", str(image), "--question", "what?"]),
        (convert.main, ["export", run, "exported"]),
    ):
        seen.clear()
        with pytest.raises(Stop):
            command(arguments)
        assert seen[0] == run
        assert not any("gs:/b" in name for name in seen)
    for command, arguments, named in (
        (entry.main, ["--config", run, "--workdir", "w"], "--config"),
        (
            entry.main,
            ["--config", str(command_line.config), "--workdir", "w", f"--config.data.root={run}"],
            "data.root",
        ),
        (predict.main, ["--checkpoint", "r", "--image", run, "--question", "what?"], "--image"),
        (convert.main, ["export", "r", run], "DESTINATION"),
        (convert.main, ["import", run, "d"], "SOURCE"),
        (convert.main, ["import", "s", run], "DESTINATION"),
        (convert.main, ["import", "s", "d", "--tokenizer", run], "--tokenizer"),
    ):
        assert command(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert named in error
        assert run in error
        assert "local" in error


def test_a_bucket_that_is_not_there_is_an_error_not_an_empty_folder(command_line, cloud, capsys):
    for arguments in (
        ["--workdir", "gs://nowhere/run"],
        ["--workdir", "w", "--config.init.checkpoint=gs://nowhere/run"],
    ):
        assert entry.main(["--config", str(command_line.config), *arguments]) == 2
        error = capsys.readouterr().err.splitlines()
        assert [
            line for line in error if line.startswith("error: gs://nowhere/run: the bucket nowhere cannot")
        ] == error


# Files


def test_a_small_file_is_one_object_written_once(cloud):
    last = cloud.write("small-before", b"").generation
    write_atomically(path_of("gs://bucket/small/config.json"), "ä\n")
    assert cloud.read("small/config.json") == "ä\n".encode()
    assert cloud.names("small/") == ["small/config.json"]
    assert cloud.objects["bucket", "small/config.json"].generation == last + 1


def test_what_another_host_writes_is_seen_at_once(cloud):
    folder = path_of("gs://bucket/shared")
    cloud.write("shared/first", b"1")
    assert [path.name for path in folder.iterdir()] == ["first"]
    cloud.write("shared/second", b"2")
    assert (folder / "second").is_file()
    assert (folder / "second").read_bytes() == b"2"
    assert {path.name for path in folder.iterdir()} == {"first", "second"}


def test_a_folder_in_a_bucket_can_be_set_aside(cloud):
    for name in ("4/params/a", "4/commit_success.txt", "40/params/a"):
        cloud.write(f"aside/{name}", name.encode())
    path_of("gs://bucket/aside/4").rename(path_of("gs://bucket/aside/4.damaged"))
    assert cloud.names("aside/") == [
        "aside/4.damaged/commit_success.txt",
        "aside/4.damaged/params/a",
        "aside/40/params/a",
    ]
    assert cloud.read("aside/4.damaged/params/a") == b"4/params/a"


def test_growing_files_in_a_local_folder_are_written_in_place(tmp_path):
    files = AppendLogs(tmp_path, continued=("metrics.jsonl",))
    assert files.local == tmp_path
    files.grew()
    assert files.sync()
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_growing_files_are_uploaded_now_and_then_and_at_the_end(cloud, monkeypatch):
    cloud.write("grown/metrics.jsonl", b"1\n")
    files = AppendLogs(path_of("gs://bucket/grown"), continued=("metrics.jsonl", "absent"))
    rows, board = files.local / "metrics.jsonl", files.local / "tensorboard" / "events"
    assert rows.read_bytes() == b"1\n"
    board.parent.mkdir()
    board.write_bytes(b"e")
    rows.write_bytes(b"1\n2\n")
    files.grew()  # too soon
    assert cloud.names("grown/") == ["grown/metrics.jsonl"]
    assert files.sync()
    assert cloud.read("grown/metrics.jsonl") == b"1\n2\n"
    assert cloud.read("grown/tensorboard/events") == b"e"

    monkeypatch.setattr(append_log, "UPLOAD_EVERY", 0.0)
    rows.write_bytes(b"1\n2\n3\n")
    cloud.requests.clear()
    files.grew()
    deadline = time.monotonic() + 10
    while cloud.read("grown/metrics.jsonl") != b"1\n2\n3\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    rows.write_bytes(b"1\n2\n3\n4\n")
    files.close()
    assert cloud.read("grown/metrics.jsonl") == b"1\n2\n3\n4\n"
    assert not any("events" in path for _, path in cloud.requests)  # which had not grown
    assert not files.local.exists()


def test_rows_that_cannot_be_uploaded_stay_on_this_machine(cloud, caplog):
    files = AppendLogs(path_of("gs://nowhere/run"))
    (files.local / "metrics.jsonl").write_text("1\n")
    assert not files.sync()
    files.close()
    assert (files.local / "metrics.jsonl").read_text() == "1\n"
    assert f"gs://nowhere/run: its newest rows are only in {files.local}" in caplog.messages
    shutil.rmtree(files.local)


# Runs


def test_a_run_in_a_bucket_that_is_killed_goes_on_and_ends_as_a_local_one(finished_run, command_line, cloud):
    """The losses of every step, and every answer of the evaluation, bit for bit."""
    workdir = "gs://bucket/runs/killed"
    command = command_line.main(workdir)
    process = command_line.start(command)
    try:
        deadline = time.monotonic() + 240
        while "runs/killed/checkpoints/4/commit_success.txt" not in cloud.names("runs/killed/checkpoints/4/"):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    # Not a row of what the checkpoint holds is lost.
    steps = [row["step"] for row in rows_without_times(cloud.read("runs/killed/metrics.jsonl").decode())]
    assert steps[:4] == [1, 2, 3, 4]

    status, _, err = command_line.run(command)
    assert status == 0, err
    assert "resuming after step" in err
    assert f"report: {workdir}/eval/{STEPS}/report.html" in err
    mine, local = cloud.read("runs/killed/metrics.jsonl").decode(), (finished_run / "metrics.jsonl").read_text()
    assert rows_without_times(mine) == rows_without_times(local)
    for name in ("metrics.json", "predictions.jsonl"):
        same = f"eval/{STEPS}/{name}"
        assert cloud.read(f"runs/killed/{same}") == (finished_run / same).read_bytes(), name
    boards = cloud.names("runs/killed/tensorboard/")
    assert len(boards) == 2  # one of each start
    assert all(cloud.read(name) for name in boards)
    kept = {name.split("/")[3] for name in cloud.names("runs/killed/checkpoints/")}
    assert {"12", str(STEPS)} <= kept <= {"8", "12", str(STEPS)}
    assert not (Path(entry.__file__).parents[1] / "gs:").exists()


def test_evaluating_a_run_in_a_bucket_gives_the_same_numbers(copied_run, finished_run, command_line, cloud):
    for name in cloud.names("copied/eval/"):
        del cloud.objects["bucket", name]
    status, _, err = command_line.run(command_line.main(copied_run, "--mode", "evaluate"))
    assert status == 0, err
    for name in ("metrics.json", "predictions.jsonl"):
        same = f"eval/{STEPS}/{name}"
        assert cloud.read(f"copied/{same}") == (finished_run / same).read_bytes(), name
    rescored = read_predictions(f"{copied_run}/eval/{STEPS}/predictions.jsonl")
    assert rescored == read_predictions(finished_run / "eval" / str(STEPS) / "predictions.jsonl")


def test_prediction_reads_a_checkpoint_in_a_bucket(copied_run, finished_run, command_line):
    config = load(command_line.config, [])
    examples = load_examples(config.data, "test", seed=config.seed, max_regions=config.regions.max_regions)
    prediction = next(
        p for p in read_predictions(finished_run / "eval" / str(STEPS) / "predictions.jsonl") if p.condition == "right"
    )
    example = next(example for example in examples if example.id == prediction.id)
    predictor = Predictor.load(path_of(copied_run))
    answer = predictor.answer(
        example.image, example.question, [Region(box) for box in prediction.boxes], task=example.task
    )
    assert answer.text == prediction.prediction
    assert answer.confidence == pytest.approx(prediction.confidence, rel=1e-5)


def test_a_checkpoint_that_was_not_finished_is_none(copied_run, cloud):
    cloud.write("copied/checkpoints/99/params/d/part", b"?")
    with Checkpoints(path_of(copied_run) / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.resolve("last") == STEPS
    assert find_checkpoint(path_of(f"{copied_run}/checkpoints/{STEPS}"))[1] == str(STEPS)


def test_a_run_starts_from_a_checkpoint_in_a_bucket(copied_run, finished_run, command_line, tmp_path):
    def parameters(checkpoint):
        config = load(command_line.config, [f"--config.init.checkpoint={checkpoint}"])
        config, start = resolve(config, tmp_path / "new")
        vocab = start.tokenizer.vocab_size
        _, shapes = abstract(config, vocab=vocab)
        assert set(origins(config, shapes, start).values()) == {"loaded"}
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return initial_parameters(config, shapes, dict.fromkeys(shapes, here), start, vocab=vocab)

    remote, local = parameters(copied_run), parameters(finished_run)
    assert remote.keys() == local.keys()
    for name, value in local.items():
        np.testing.assert_array_equal(remote[name], value, err_msg=name)


def test_export_reads_a_bucket(copied_run, finished_run, tmp_path):
    for source, name in ((copied_run, "remote"), (str(finished_run), "local")):
        assert convert.main(["export", source, str(tmp_path / name), "--step", str(STEPS)]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("remote", "local")]
    assert weights[0] == weights[1]


CACHED = """
import sys
import jax
import jax.numpy as jnp

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(events.count("/jax/compilation_cache/cache_hits"), events.count("/jax/compilation_cache/cache_misses"))
"""


def test_compiled_programs_are_kept_in_a_bucket(cloud):
    def start():
        command = [sys.executable, "-c", CACHED, "gs://bucket/compilation_cache"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        hits, misses = ended.stdout.split()
        return int(hits), int(misses)

    hits, compiled = start()
    assert hits == 0
    assert compiled > 0
    assert cloud.names("compilation_cache/")
    assert start() == (compiled, 0)
