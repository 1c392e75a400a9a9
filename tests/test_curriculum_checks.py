"""What is refused of stages, and when: before anything trains."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import STAGES, TINY_RUN
from expected_errors import refused

from rllava_jax import main as entry
from rllava_jax.config import Config, ConfigError, Curriculum
from rllava_jax.config.curriculum import follow_move, stage_configs
from rllava_jax.config.loading import load
from rllava_jax.planning.plan import load_config_for_planning


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.stages.align.optimizer.learning_rate=1"], ["align/config.json", "optimizer.learning_rate"]),
        (["--config.stages.tsak.seed=1"], ["unknown key 'tsak'", "did you mean 'task'?"]),
        (["--config.stages.task.trian.batch_size=1"], ["--config.stages.task.trian", "did you mean 'train'?"]),
        (["--config.trian.batch_size=1"], ["did you mean 'train'?"]),
        (["--config.stages.task.starts_from=tsak"], ["stages.task.starts_from: 'tsak'", "an earlier stage (align)"]),
        (["--config.stages.align.starts_from=task"], ["stages.align.starts_from: 'task'", "it is the first stage"]),
        (["--config.stages.task.evaluate=perhaps"], ["--config.stages.task.evaluate=perhaps"]),
        (
            ["--config.stages.task.data.mix.asked.weight=-1"],
            ["--config.stages.task.data.mix.asked.weight=-1", "greater than or equal to 0"],
        ),
        (["--config.stages.task"], ["an override is written"]),
        (["--config.stages=1"], ["'stages' is a mapping of sections; set a field of one of them (align, task)"]),
        (["--stage", "task"], ["--stage task", "--mode evaluate"]),
        (["--mode", "evaluate", "--stage", "instruct"], ["--stage instruct", "has align, task"]),
    ],
    ids=lambda value: value[-1] if value[0].startswith("--") else "",
)
def test_bad_input_is_refused_in_one_line(said, finished_stages, arguments, expected):
    status, line = said(finished_stages, *arguments)
    assert status == 2
    assert line.startswith("error: ")
    assert all(part in line for part in expected), line


def test_a_stage_that_was_taken_away_is_missed(said, finished_stages, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_stages, workdir)
    shutil.rmtree(workdir / "align")
    status, line = said(workdir)
    assert status == 2
    assert f"{workdir / 'align'}: holds no run, but curriculum.json" in line
    (workdir / "curriculum.json").write_text("[1]")
    status, line = said(workdir)
    assert (status, "curriculum.json: it is [1]" in line) == (2, True)


def test_a_workdir_of_a_single_run_is_refused(said, finished_stages):
    status, line = said(finished_stages / "task")
    assert status == 2
    assert "holds a single run" in line


def test_a_single_run_has_no_stages(command_line, capsys, tmp_path):
    command = command_line.main(tmp_path, "--mode", "evaluate", "--stage", "task")
    assert entry.main(command[command.index("rllava_jax.main") + 1 :]) == 2
    assert "has no stages" in capsys.readouterr().err


def test_a_stage_put_in_before_one_that_is_there_is_refused_before_it_trains(finished_stages, tmp_path, capsys):
    more = """
later = config.stages.pop("task")
config.stages.update(instruct=Stage(later.config), task=later)
"""
    file = tmp_path / "three_stages.py"
    file.write_text(TINY_RUN.replace("COMPILED", repr("")) + STAGES + more)
    shutil.copytree(finished_stages, tmp_path / "run")
    assert entry.main(["--config", str(file), "--workdir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "stage task began with align, and the configuration starts it from instruct" in error
    assert not (tmp_path / "run" / "instruct").exists()


def test_a_later_stages_data_is_looked_at_before_the_first_one_trains(said, tmp_path):
    status, line = said(tmp_path / "run", "--config.stages.task.data.mix.asked.split=dev")
    assert status == 2
    assert line.startswith("error: stages.task: ")
    assert "'dev'" in line
    assert not (tmp_path / "run" / "align").exists()


def test_a_finished_stage_is_looked_at_before_another_trains(said, finished_stages, tmp_path):
    """Here the second is done and of other settings, and the first is to be trained."""
    shutil.copytree(finished_stages / "task", tmp_path / "run" / "task")
    (tmp_path / "run" / "curriculum.json").write_text('{"task": {"step": 9}}')
    status, line = said(tmp_path / "run", "--config.stages.task.optimizer.learning_rate=1")
    assert (status, "optimizer.learning_rate" in line) == (2, True)
    assert not (tmp_path / "run" / "align").exists()


def test_a_stage_that_is_not_trained_cannot_be_evaluated(said, finished_stages, tmp_path):
    status, line = said(tmp_path / "run", "--mode", "evaluate")
    assert (status, "stage task is not trained" in line, "none yet" in line) == (2, True, True)
    shutil.copytree(finished_stages / "align", tmp_path / "run" / "align")
    status, line = said(tmp_path / "run", "--mode", "evaluate")
    assert (status, "trained here: align" in line) == (2, True)


def test_a_stage_with_a_checkpoint_keeps_the_place_that_it_recorded(stages, finished_stages, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_stages, workdir)
    path = workdir / "task" / "config.json"
    facts = json.loads(path.read_text())
    facts["config"]["init"]["checkpoint"] = str(tmp_path / "gone" / "align")
    path.write_text(json.dumps(facts))
    curriculum = load(stages.config)
    assert follow_move(curriculum, workdir) == []
    shutil.rmtree(workdir / "task" / "checkpoints")
    assert follow_move(curriculum, workdir) == ["task"]
    assert json.loads(path.read_text())["config"]["init"]["checkpoint"] == str(workdir / "align")


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
    ("defined", "code", "named"),
    [
        ("", "config.invalid-value", "stages"),
        ('"init": Stage(base)', "config.invalid-value", "'init'"),
        ('"a/b": Stage(base)', "config.invalid-value", "'a/b'"),
        ('"a": base', "config.unknown-field", "stages.a."),
        ('"a": Stage(base, step="third")', "config.invalid-value", "stages.a.step: 'third'"),
        ('"a": Stage(base, evalute=True)', "config.unknown-field", "'evaluate'"),
    ],
)
def test_stages_that_make_no_sense_are_refused(tmp_path, defined, code, named):
    with refused(ConfigError, code, named):
        load(written(tmp_path, defined))


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
        with refused(ConfigError, "config.conflict", "--config.init.checkpoint=DIR"):
            load(path, overrides)
        overrides.append("--config.init.checkpoint=DIR")
    curriculum = load(path, overrides)
    assert isinstance(curriculum, Curriculum)
    assert size == "tiny" or list(curriculum.stages) == stages
    assert len(curriculum.stages) == len(stages)
