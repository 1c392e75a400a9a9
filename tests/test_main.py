"""The main job as a user starts it: what it leaves, how it survives a kill, and what it says when it cannot work."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from data_pipelines.core.sole_writer import LOCK_FILE, sole_writer
from rllava_jax import main as entry
from rllava_jax.config.loading import load
from rllava_jax.config.stored import to_json

STEPS = 14
ROW = {"dataset", "split", "subset", "condition", "metric", "value", "n", "ci_low", "ci_high"}
TIMES = {"examples_per_second", "tokens_per_second", "step_seconds", "data_wait_fraction"}
MAYBE = {"compile_seconds"}  # of the first step of each start


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(workdir):
    """The rows of metrics.jsonl without what the clock decides."""
    return [
        {name: value for name, value in row.items() if name not in TIMES | MAYBE}
        for row in json_lines(workdir / "metrics.jsonl")
    ]


def stored_arrays(workdir, step, item):
    """Every array of a checkpoint's item by its path, as it lies on disk."""
    folder = workdir / "checkpoints" / str(step) / item
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(folder, restore_args=to_numpy)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(restored)[0]}


def snapshot(folder):
    """Every file's content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(command_line, capsys):
    """Runs main in this process (eight devices) and returns its error, the only one, which must be the last line."""

    def run(workdir, *arguments):
        command = command_line.main(workdir, *arguments)
        status = entry.main(command[command.index("rllava_jax.main") + 1 :])
        lines = capsys.readouterr().err.splitlines()
        assert status == 2
        assert [line for line in lines if line.startswith("error:")] == lines[-1:]
        assert not any("Traceback" in line for line in lines)
        return lines[-1]

    return run


def test_training_leaves_what_a_result_needs(finished_run, command_line):
    last = finished_run / "checkpoints" / str(STEPS)
    for path in (
        "params",
        "training",
        "data",
        "assets/config.json",
        "assets/tokenizer.model",
        "assets/preprocessing.json",
    ):
        assert (last / path).exists(), path
    assert (last / "assets" / "tokenizer.model").read_bytes() == (finished_run / "tokenizer.model").read_bytes()
    described = json.loads((finished_run / "config.json").read_text())
    expected = to_json(load(command_line.config, []))
    # Another of the session's workers may have trained the run, whose cache is its own.
    assert described["config"]["train"].pop("compilation_cache").endswith("/compiled")
    expected["train"].pop("compilation_cache")
    assert described["config"] == expected
    assert {"jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy"} <= described["versions"].keys()
    assert described["revision"]
    stored = json.loads((finished_run / "config.json").read_text())
    assert json.loads((last / "assets" / "config.json").read_text())["config"] == stored["config"]
    # The last two, and none of the earlier ones but the best.
    kept = {int(path.name) for path in (finished_run / "checkpoints").iterdir() if path.name.isdigit()}
    assert {12, STEPS} <= kept <= {8, 12, STEPS}


def test_training_logs_every_step(finished_run):
    rows = json_lines(finished_run / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    for row in steps:
        assert {"loss", "learning_rate", "gradient_norm", "token_accuracy"} | TIMES <= row.keys()
        assert 0 <= row["data_wait_fraction"] <= 1
    assert [row["step"] for row in rows if "loss" not in row] == [8, STEPS]
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_evaluation_has_a_row_for_every_condition_and_family(finished_run):
    folder = finished_run / "eval" / str(STEPS)
    rows = json.loads((folder / "metrics.json").read_text())
    assert all(row.keys() == ROW for row in rows)
    assert {(row["dataset"], row["split"]) for row in rows} == {("phantom", "test")}
    found = {(row["subset"], row["condition"], row["metric"]) for row in rows}
    for condition in ("right", "none", "wrong", "blank", "right-none", "none-wrong"):
        assert ("family=identify", condition, "accuracy") in found
    for condition in ("right", "none", "wrong", "blank"):
        assert ("answer_type=closed", condition, "accuracy") in found
        assert ("answer_type=open", condition, "exact_match") in found
    for row in rows:
        if row["ci_low"] is not None:
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert any(row["ci_low"] is not None for row in rows)


def test_every_question_is_asked_under_every_condition(finished_run):
    predictions = json_lines(finished_run / "eval" / str(STEPS) / "predictions.jsonl")
    asked = {
        condition: {p["id"] for p in predictions if p["condition"] == condition}
        for condition in ("right", "none", "wrong")
    }
    assert asked["right"] == asked["none"] == asked["wrong"]
    assert len(asked["right"]) == 16  # two families, eight of each
    assert len(predictions) == 4 * 16
    identify = [p for p in predictions if p["family"] == "identify"]
    for prediction in identify:
        right = prediction["boxes"] == prediction["right_boxes"]
        assert right == (prediction["condition"] in ("right", "blank"))
        assert bool(prediction["boxes"]) == (prediction["condition"] != "none")
        assert 0 <= prediction["confidence"] <= 1
        assert prediction["confidence"] == pytest.approx(np.exp(prediction["log_prob"]), rel=1e-5)
    confidence = {(p["id"], p["condition"]): p["confidence"] for p in identify}
    assert any(confidence[p["id"], "right"] != confidence[p["id"], "none"] for p in identify)


def test_report_is_one_self_contained_page(finished_run):
    page = (finished_run / "eval" / str(STEPS) / "report.html").read_text()
    assert re.search(r"data:image/(png|jpeg);base64,", page)
    assert "not a medical device" in page
    for outside in ('src="http', 'href="http', "<link"):
        assert outside not in page


def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_ends(finished_run, command_line, tmp_path):
    """Bit for bit: parameters, optimiser, data position, and every logged loss."""
    workdir = tmp_path / "killed"
    command = command_line.main(workdir)
    process = command_line.start(command)
    try:
        deadline = time.monotonic() + 240
        while not (
            (workdir / "checkpoints" / "4" / "commit_success.txt").exists()
            and (workdir / "metrics.jsonl").exists()
            and '"step": 6' in (workdir / "metrics.jsonl").read_text()
        ):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "checkpoints" / str(STEPS)).exists()
    assert not (workdir / "eval" / str(STEPS)).exists()

    status, _, err = command_line.run(command)
    assert status == 0, err
    assert "resuming after step" in err
    assert logged(workdir) == logged(finished_run)
    for item in ("params", "training"):
        expected = stored_arrays(finished_run, STEPS, item)
        resumed = stored_arrays(workdir, STEPS, item)
        assert resumed.keys() == expected.keys()
        assert len(expected) > 20
        for name, value in expected.items():
            assert resumed[name].dtype == value.dtype, name
            np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    position = f"checkpoints/{STEPS}/data/position.json"
    assert (workdir / position).read_bytes() == (finished_run / position).read_bytes()
    for file in ("metrics.json", "predictions.jsonl"):
        same = f"eval/{STEPS}/{file}"
        assert (workdir / same).read_bytes() == (finished_run / same).read_bytes()


def test_evaluating_a_finished_run_gives_the_same_numbers(finished_run, command_line, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "eval")
    with sole_writer(workdir / LOCK_FILE, what="a run that trains there"):
        status, _, err = command_line.run(command_line.main(workdir, "--mode", "evaluate"))
    assert status == 0, err
    for file in ("metrics.json", "predictions.jsonl"):
        same = f"eval/{STEPS}/{file}"
        assert (workdir / same).read_bytes() == (finished_run / same).read_bytes()
    for kept in ("checkpoints", "config.json", "metrics.jsonl", "tokenizer.model"):
        one, other = workdir / kept, finished_run / kept
        assert (snapshot(one) == snapshot(other)) if one.is_dir() else (one.read_bytes() == other.read_bytes())


def test_an_error_is_one_line_and_exit_status_2(command_line, tmp_path):
    workdir = tmp_path / "run"
    status, out, err = command_line.run(command_line.main(workdir, "--config.train.batchsize=8"))
    assert status == 2
    assert out == ""
    *restarted, last = err.splitlines()
    assert len(restarted) <= 1  # where the process starts again to keep memory, it says so in one line
    assert all("GLIBC_TUNABLES" in line for line in restarted)
    assert last.startswith("error: ")
    assert last.endswith("[config.unknown-field]")
    assert "batchsize" in last
    assert "batch_size" in last
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.trian.batch_size=8"], ["trian", "train"]),
        (["--config.train.batch_size=many"], ["train.batch_size", "many"]),
        (["--config.model.size=tinny"], ["model.size", "'tinny'", "'tiny'"]),
        (["--config.data.source=slake"], ["data.root"]),
        (["--config.data.source=slake", "--config.data.root=nowhere/slake"], ["nowhere/slake"]),
        (["--config.train.batch_size=16", "--config.mesh.data=16"], ["mesh", "data=16", "8 devices"]),
        (["--config.train.batch_size=12"], ["train.batch_size: 12 examples", "8 parts"]),
        (["--config.evaluation.batch_size=12"], ["evaluation.batch_size: 12 examples", "8 parts"]),
        (["--config.regions.crop_size=30"], ["regions.crop_size", "30", "14"]),
        (["--config.optimizer.trainable=lora"], ["optimizer.trainable", "'lora'"]),
        (["--config.optimizer.weight_decay_on=lora"], ["optimizer.weight_decay_on", "'lora'"]),
        (
            ["--config.train.evaluate_every=4 steps", "--config.train.best_metric=family=identify/right/acuracy"],
            ["train.best_metric", "acuracy", "accuracy"],
        ),
        (["--config.data.validation_split=", "--config.train.evaluate_every=4 steps"], ["data.validation_split"]),
        (["--config.init.checkpoint=nowhere/base"], ["init.checkpoint: nowhere/base: holds no checkpoint"]),
        (["--config.model.vocab=9"], ["tokenizer.model: has ", "(model.vocab) 9 rows"]),
        (["--step", "best"], ["--step best", "--mode evaluate"]),
        (["--mode", "evaluate"], ["holds no run"]),
    ],
    ids=lambda value: value[-1] if value[0].startswith("--") else "",
)
def test_bad_input_is_refused_before_anything_is_written(refused, tmp_path, arguments, said):
    workdir = tmp_path / "run"
    error = refused(workdir, *arguments)
    for part in said:
        assert part in error
    assert not workdir.exists()


def test_a_text_too_long_is_refused_with_its_length_and_writes_nothing(refused, tmp_path):
    workdir = tmp_path / "run"
    assert "data.text_length" in refused(workdir, "--config.data.text_length=8")
    assert not workdir.exists()


def test_a_missing_config_file_is_named(capsys, tmp_path):
    assert entry.main(["--config", str(tmp_path / "none.py"), "--workdir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none.py'}")


def test_a_workdir_of_another_configuration_is_refused_and_left_alone(refused, finished_run):
    before = snapshot(finished_run)
    error = refused(finished_run, "--config.train.batch_size=16", "--config.seed=3")
    assert str(finished_run / "config.json") in error
    assert "train.batch_size" in error
    assert "seed" in error
    assert snapshot(finished_run) == before


def test_a_truncated_checkpoint_is_named_by_evaluation_and_left(refused, finished_run, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    folder = truncated(workdir)
    before = snapshot(workdir / "checkpoints")
    error = refused(workdir, "--mode", "evaluate")
    assert str(folder) in error
    assert "step 12" in error
    assert snapshot(workdir / "checkpoints") == before


def test_training_goes_on_from_the_checkpoint_before_a_truncated_one(finished_run, command_line, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    folder = truncated(workdir)
    status, _, err = command_line.run(command_line.main(workdir))
    assert status == 0, err
    # One line of ours. The interpreter may add "Exception ignored in …" of a coroutine that Orbax left unfinished, when
    # the garbage collector happens to come by.
    warned = [line for line in err.splitlines() if str(folder) in line and "renamed to" in line]
    assert len(warned) == 1
    assert warned[0].endswith(f"renamed to {STEPS}.damaged, going on from step 12")
    assert (folder.parent / f"{STEPS}.damaged" / "assets").is_dir()
    assert logged(workdir) == logged(finished_run)
    sums = f"checkpoints/{STEPS}/checksums/checksums.json"
    assert (workdir / sums).read_bytes() == (finished_run / sums).read_bytes()


def truncated(workdir):
    """The newest checkpoint, whose largest file of parameters is cut in half."""
    folder = workdir / "checkpoints" / str(STEPS)
    largest = max((folder / "params").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    return folder
