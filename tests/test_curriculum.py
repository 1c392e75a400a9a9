"""Stages: trained in order, resumed in the right one bit for bit, each an ordinary run; and what is refused."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_RUN, CommandLine
from resumed_runs import checkpoints, rows, wait_for_step

from rllava_jax import exit_codes
from rllava_jax import main as entry
from rllava_jax.config import Config, ConfigError, Curriculum
from rllava_jax.config_loading import load, load_config
from rllava_jax.curriculum import stage_configs
from rllava_jax.planning.plan import load_config_for_planning

STAGES = """
from dataclasses import replace

base = replace(
    config,
    train=replace(config.train, duration="6 steps", evaluate_every="never"),
    evaluation=replace(config.evaluation, conditions=("right",), max_examples=4),
)
mix = {
    "asked": MixPart(families={"vqa": 1.0}, policy=PolicyConfig(shown=0.0)),
    "marked": MixPart(families={"identify": 1.0}, anneal=((0.5, 0.0), (1.0, 1.0))),
}
config = Curriculum({
    "align": Stage(replace(base, optimizer=OptimizerConfig(learning_rate=2e-3, trainable=("img/head/.*", "roi/.*")))),
    "task": Stage(replace(base, data=replace(base.data, mix=mix), train=replace(base.train, duration="9 steps"))),
})
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> CommandLine:
    folder = tmp_path_factory.mktemp("stages")
    file = folder / "two_stages.py"
    file.write_text(TINY_RUN.replace("COMPILED", repr(str(folder / "compiled"))) + STAGES)
    return CommandLine(file)


@pytest.fixture(scope="module")
def finished(stages, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    status, _, err = stages.run(stages.main(workdir))
    assert status == 0, err
    return workdir


def logged(workdir: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(workdir)]


def sums(workdir: Path) -> bytes:
    return (workdir / "checkpoints" / str(checkpoints(workdir)[-1]) / "checksums" / "checksums.json").read_bytes()


def test_each_stage_is_a_run_of_its_own_and_the_last_one_is_evaluated(finished):
    assert [checkpoints(finished / name)[-1] for name in ("align", "task")] == [6, 9]
    assert json.loads((finished / "curriculum.json").read_text()) == {"align": {"step": 6}, "task": {"step": 9}}
    assert not (finished / "align" / "eval").exists()
    assert (finished / "task" / "eval" / "9" / "report.html").exists()
    tokenizers = [(finished / name / "tokenizer.model").read_bytes() for name in ("align", "task")]
    assert tokenizers[0] == tokenizers[1]
    begun = json.loads((finished / "task" / "config.json").read_text())["started_from"]
    assert (begun["name"], begun["step"]) == ("align", 6)
    assert begun["trained"]["trainable"] == ["img/head/.*", "roi/.*"]


def test_the_log_holds_each_sources_share_which_grows_as_it_is_annealed(finished):
    shares = [(row["data_share/asked"], row["data_share/marked"]) for row in rows(finished / "task")]
    assert all(sum(pair) == pytest.approx(1) for pair in shares)
    assert [marked for _, marked in shares[:4]] == [0.0] * 4
    assert shares[-1][1] > shares[5][1] > 0
    assert not any("data_share" in name for row in rows(finished / "align") for name in row)
    drawn = [row["examples"] for row in rows(finished / "task", "examples.jsonl")]
    assert [sum("identify" in name for name in batch) / 8 for batch in drawn] == [marked for _, marked in shares]


def test_sigterm_in_the_second_stage_resumes_there_and_ends_as_undisturbed(stages, finished, tmp_path):
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
        np.testing.assert_array_equal(logged(workdir / name), logged(finished / name))
        assert sums(workdir / name) == sums(finished / name)
        both = [(folder / name / "examples.jsonl").read_bytes() for folder in (workdir, finished)]
        assert both[0] == both[1]
    for file in ("metrics.json", "predictions.jsonl"):
        assert (workdir / "task/eval/9" / file).read_bytes() == (finished / "task/eval/9" / file).read_bytes()


def test_sigterm_in_the_first_stage_goes_on_with_it_and_starts_no_second(stages, tmp_path):
    workdir = tmp_path / "run"
    process = stages.start(stages.main(workdir))
    wait_for_step(process, workdir / "align", 2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == exit_codes.INTERRUPTED, err
    assert not (workdir / "task").exists()
    assert not (workdir / "curriculum.json").exists()


@pytest.fixture
def said(stages, capsys):
    """Runs main in this process and returns its status and what it said last."""

    def run(workdir, *arguments):
        command = stages.main(workdir, *arguments)
        status = entry.main(command[command.index("rllava_jax.main") + 1 :])
        return status, capsys.readouterr().err.splitlines()[-1]

    return run


def test_a_finished_curriculum_is_left_as_it_is(said, finished):
    before = {path: os.stat(path).st_mtime_ns for path in finished.rglob("*")}
    assert said(finished) == (0, "stage 2 of 2, task: done, step 9")
    assert said(os.path.relpath(finished)) == (0, "stage 2 of 2, task: done, step 9")
    assert {path: os.stat(path).st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.stages.align.optimizer.learning_rate=1"], ["align/config.json", "optimizer.learning_rate"]),
        (["--config.stages.tsak.seed=1"], ["unknown stage 'tsak'", "did you mean 'task'?"]),
        (["--config.stages.task.trian.batch_size=1"], ["--config.stages.task.trian", "did you mean 'train'?"]),
        (["--config.trian.batch_size=1"], ["did you mean 'train'?"]),
        (["--config.stages.task.starts_from=tsak"], ["stages.task.starts_from: 'tsak'", "an earlier stage (align)"]),
        (["--config.stages.align.starts_from=task"], ["stages.align.starts_from: 'task'", "it is the first stage"]),
        (["--config.stages.task.evaluate=perhaps"], ["--config.stages.task.evaluate=perhaps"]),
        (["--config.stages.task.data.mix.asked.weight=-1"], ["stages.task: data.mix.asked.weight: -1.0"]),
        (["--config.stages.task"], ["an override is written"]),
        (["--stage", "task"], ["--stage task", "--mode evaluate"]),
        (["--mode", "evaluate", "--stage", "instruct"], ["--stage instruct", "has align, task"]),
    ],
    ids=lambda value: value[-1] if value[0].startswith("--") else "",
)
def test_bad_input_is_refused_in_one_line(said, finished, arguments, expected):
    status, line = said(finished, *arguments)
    assert status == 2
    assert line.startswith("error: ")
    assert all(part in line for part in expected), line


def test_a_stage_that_was_taken_away_is_missed(said, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "align")
    status, line = said(workdir)
    assert status == 2
    assert f"{workdir / 'align'}: holds no run, but curriculum.json" in line
    (workdir / "curriculum.json").write_text("[1]")
    status, line = said(workdir)
    assert (status, "curriculum.json: damaged" in line) == (2, True)


def test_a_workdir_of_a_single_run_is_refused(said, finished):
    status, line = said(finished / "task")
    assert status == 2
    assert "holds a single run" in line


def test_a_single_run_has_no_stages(command_line, capsys, tmp_path):
    command = command_line.main(tmp_path, "--mode", "evaluate", "--stage", "task")
    assert entry.main(command[command.index("rllava_jax.main") + 1 :]) == 2
    assert "has no stages" in capsys.readouterr().err


def test_a_stage_that_was_not_evaluated_can_be(stages, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    status, _, err = stages.run(stages.main(workdir, "--mode", "evaluate", "--stage", "align"))
    assert status == 0, err
    assert (workdir / "align" / "eval" / "6" / "report.html").exists()


def test_the_last_stage_is_the_one_that_is_evaluated_also_where_the_folder_was_moved_to(stages, finished, tmp_path):
    workdir = tmp_path / "moved"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "task" / "eval")
    status, _, err = stages.run(stages.main(workdir, "--mode", "evaluate"))
    assert status == 0, err
    for file in ("metrics.json", "predictions.jsonl"):
        assert (workdir / "task/eval/9" / file).read_bytes() == (finished / "task/eval/9" / file).read_bytes()


# The configuration alone


def written(tmp_path, stages: str) -> Path:
    path = tmp_path / "mine.py"
    head = "from dataclasses import replace\nfrom rllava_jax.config import *\n"
    path.write_text(f"{head}base = Config()\nconfig = Curriculum({{{stages}}})\n")
    return path


def test_overrides_hold_for_all_stages_or_for_one(stages):
    curriculum = load(
        stages.config,
        [
            "--config.stages.task.train.batch_size=4",
            "--config.train.batch_size=2",
            "--config.stages.task.data.mix.marked.epochs=30",
            "--config.stages.align.evaluate=true",
        ],
    )
    assert isinstance(curriculum, Curriculum)
    align, task = curriculum.stages.values()
    assert (align.config.train.batch_size, task.config.train.batch_size) == (2, 4)
    assert (align.config.data.mix, task.config.data.mix["marked"].epochs) == ({}, 30.0)
    assert (align.evaluate, task.evaluate) == (True, False)


def test_a_stage_starts_from_the_one_before_a_named_one_or_its_own_init(tmp_path):
    own = 'replace(base, init=InitConfig("models/base"))'
    path = written(
        tmp_path,
        f'"a": Stage({own}), "b": Stage({own}, step="best"), "c": Stage({own}, "a"), "d": Stage({own}, "init")',
    )
    configs = stage_configs(load(path), Path("runs/mine"))
    starts = {name: (config.init.checkpoint, config.init.step) for name, config in configs.items()}
    assert starts == {
        "a": ("models/base", "last"),
        "b": ("runs/mine/a", "best"),
        "c": ("runs/mine/a", "last"),
        "d": ("models/base", "last"),
    }


@pytest.mark.parametrize(
    ("defined", "expected"),
    [
        ("", "there are none"),
        ('"init": Stage(base)', "'init' is no name of a stage"),
        ('"a/b": Stage(base)', "'a/b' is no name of a stage"),
        ('"a": base', "stages.a: Config("),
        ('"a": Stage(base, step="third")', "stages.a.step: 'third' is not one of 'last', 'best'"),
        ('"a": Stage(base, evalute=True)', "Stage has no field 'evalute'; did you mean 'evaluate'?"),
    ],
)
def test_stages_that_make_no_sense_are_refused(tmp_path, defined, expected):
    with pytest.raises(ConfigError) as error:
        load(written(tmp_path, defined))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_where_one_run_is_wanted_stages_are_refused(stages):
    with pytest.raises(ConfigError, match=r"defines stages \(align, task\); one run is wanted"):
        load_config(stages.config)


def test_a_stage_is_planned_by_its_name(stages, tmp_path):
    config, rows = load_config_for_planning(
        stages.config, ["--config.model.vocab=2176"], tmp_path / "task", stage="task"
    )
    assert isinstance(config, Config)
    assert config.init.checkpoint == str(tmp_path / "align")
    assert config.train.duration == "9 steps"
    assert rows == 2176


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("llava_med", ["align", "instruct", "task"]),
        ("medm", ["slake", "roco"]),
        ("rllava", ["align", "instruct", "task"]),
    ],
)
@pytest.mark.parametrize("size", ["3b", "tiny"])
def test_the_ready_curricula_load_given_their_data_and_weights(name, stages, size):
    path = Path(__file__).parents[1] / "configs" / f"{name}_{size}.py"
    overrides = ["--config.data.root=DIR"]
    if size == "3b":
        with pytest.raises(ConfigError, match=r"write --config\.init\.checkpoint=DIR"):
            load(path, overrides)
        overrides.append("--config.init.checkpoint=DIR")
    curriculum = load(path, overrides)
    assert isinstance(curriculum, Curriculum)
    assert size == "tiny" or list(curriculum.stages) == stages
    assert len(curriculum.stages) == len(stages)
