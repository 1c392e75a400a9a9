"""Stages: trained in order, resumed in the right one bit for bit, each an ordinary run."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from resumed_runs import checkpoints, rows, wait_for_step

from data_pipelines.core import exit_codes


def logged(workdir: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(workdir)]


def sums(workdir: Path) -> bytes:
    return (workdir / "checkpoints" / str(checkpoints(workdir)[-1]) / "checksums" / "checksums.json").read_bytes()


def test_each_stage_is_a_run_of_its_own_and_the_last_one_is_evaluated(finished_stages):
    assert [checkpoints(finished_stages / name)[-1] for name in ("align", "task")] == [6, 9]
    assert json.loads((finished_stages / "curriculum.json").read_text()) == {"align": {"step": 6}, "task": {"step": 9}}
    assert not (finished_stages / "align" / "eval").exists()
    assert (finished_stages / "task" / "eval" / "9" / "report.html").exists()
    tokenizers = [(finished_stages / name / "tokenizer.model").read_bytes() for name in ("align", "task")]
    assert tokenizers[0] == tokenizers[1]
    begun = json.loads((finished_stages / "task" / "config.json").read_text())["started_from"]
    assert (begun["name"], begun["step"]) == ("align", 6)
    assert begun["trained"]["trainable"] == ["img/head/.*", "roi/.*"]


def test_the_log_holds_each_sources_share_which_grows_as_it_is_annealed(finished_stages):
    shares = [(row["data_share/asked"], row["data_share/marked"]) for row in rows(finished_stages / "task")]
    assert all(sum(pair) == pytest.approx(1) for pair in shares)
    assert [marked for _, marked in shares[:4]] == [0.0] * 4
    assert shares[-1][1] > shares[5][1] > 0
    assert not any("data_share" in name for row in rows(finished_stages / "align") for name in row)
    drawn = [row["examples"] for row in rows(finished_stages / "task", "examples.jsonl")]
    assert [sum("identify" in name for name in batch) / 8 for batch in drawn] == [marked for _, marked in shares]


def test_sigterm_in_the_second_stage_resumes_there_and_ends_as_undisturbed(stages, finished_stages, tmp_path):
    workdir = tmp_path / "run"
    process = stages.start(stages.main(workdir))
    wait_for_step(process, workdir / "task", 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == exit_codes.INTERRUPTED, err
    stopped = checkpoints(workdir / "task")[-1]
    assert 3 <= stopped < 9
    position = json.loads((workdir / "task" / "checkpoints" / str(stopped) / "data" / "position.json").read_text())
    assert position["parts"]["asked"].keys() == {"epoch", "example"}
    align = {path: os.stat(path).st_mtime_ns for path in (workdir / "align").rglob("*")}
    status, _, err = stages.run(stages.main(workdir))
    assert status == 0, err
    assert "stage 1 of 2, align: done, step 6" in err
    assert f"resuming after step {stopped} of 9" in err
    assert {path: os.stat(path).st_mtime_ns for path in (workdir / "align").rglob("*")} == align
    for name in ("align", "task"):
        np.testing.assert_array_equal(logged(workdir / name), logged(finished_stages / name))
        assert sums(workdir / name) == sums(finished_stages / name)
        both = [(folder / name / "examples.jsonl").read_bytes() for folder in (workdir, finished_stages)]
        assert both[0] == both[1]
    for file in ("metrics.json", "predictions.jsonl"):
        assert (workdir / "task/eval/9" / file).read_bytes() == (finished_stages / "task/eval/9" / file).read_bytes()


def test_sigterm_in_the_first_stage_goes_on_with_it_and_starts_no_second(stages, tmp_path):
    workdir = tmp_path / "run"
    process = stages.start(stages.main(workdir))
    wait_for_step(process, workdir / "align", 2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == exit_codes.INTERRUPTED, err
    assert not (workdir / "task").exists()
    assert not (workdir / "curriculum.json").exists()


def test_a_finished_curriculum_is_left_as_it_is(said, finished_stages):
    before = {path: os.stat(path).st_mtime_ns for path in finished_stages.rglob("*")}
    assert said(finished_stages) == (0, "stage 2 of 2, task: done, step 9")
    assert said(os.path.relpath(finished_stages)) == (0, "stage 2 of 2, task: done, step 9")
    assert {path: os.stat(path).st_mtime_ns for path in finished_stages.rglob("*")} == before


def test_a_stage_that_was_not_evaluated_can_be(stages, finished_stages, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_stages, workdir)
    status, _, err = stages.run(stages.main(workdir, "--mode", "evaluate", "--stage", "align"))
    assert status == 0, err
    assert (workdir / "align" / "eval" / "6" / "report.html").exists()


def test_the_last_stage_is_the_one_that_is_evaluated_also_where_the_folder_was_moved_to(
    stages, finished_stages, tmp_path
):
    workdir = tmp_path / "moved"
    shutil.copytree(finished_stages, workdir)
    shutil.rmtree(workdir / "task" / "eval")
    status, _, err = stages.run(stages.main(workdir, "--mode", "evaluate"))
    assert status == 0, err
    for file in ("metrics.json", "predictions.jsonl"):
        assert (workdir / "task/eval/9" / file).read_bytes() == (finished_stages / "task/eval/9" / file).read_bytes()


def test_a_finished_stage_is_evaluated_once_that_is_asked_for(stages, finished_stages, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_stages, workdir)
    command = stages.main(workdir, "--config.stages.align.evaluate=true")
    status, _, err = stages.run(command)
    assert status == 0, err
    report = workdir / "align" / "eval" / "6" / "report.html"
    written = report.stat().st_mtime_ns
    status, _, err = stages.run(command)
    assert status == 0, err
    assert report.stat().st_mtime_ns == written


def test_stages_that_are_moved_before_a_stages_first_checkpoint_go_on(stages, finished_stages, tmp_path):
    workdir = tmp_path / "moved"
    shutil.copytree(finished_stages, workdir)
    for name in ("checkpoints", "eval"):
        shutil.rmtree(workdir / "task" / name)
    (workdir / "task" / "metrics.jsonl").unlink()
    (workdir / "curriculum.json").write_text('{"align": {"step": 6}}')
    path = workdir / "task" / "config.json"
    path.write_text(path.read_text().replace(str(finished_stages), str(tmp_path / "gone")))
    status, _, err = stages.run(stages.main(workdir))
    assert status == 0, err
    assert "begins anew where the stages are now" in err
    assert sums(workdir / "task") == sums(finished_stages / "task")
