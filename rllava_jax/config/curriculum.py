"""Stages: runs one after the other, each from the parameters and with the tokenizer of one before it.

Every stage is an ordinary run in a folder of its own, WORKDIR/STAGE, which everything that reads a run reads.
WORKDIR/curriculum.json says which stages are done, so that the same command, run again, resumes with the next.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import ConfigError, InvalidSetting
from data_pipelines.core.paths import path_of
from data_pipelines.core.schemas import file_as
from rllava_jax.config import Config, Curriculum, InitConfig
from rllava_jax.config.stored import run_facts

_RECORD = "curriculum.json"
_RESERVED = ("previous", "init")


def check_stages(curriculum: Curriculum, *, where: str) -> None:
    """Checks the stages' names and what they start from.

    Raises:
      ConfigError: naming the stage, the field, the value and the remedy.
    """
    if not curriculum.stages:
        raise InvalidSetting(f"{where}: stages: there are none; name at least one")
    earlier: list[str] = []
    for name, stage in curriculum.stages.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in _RESERVED:
            raise InvalidSetting(
                f"{where}: stages: {name!r} is not a valid name of a stage; use letters, digits, _ and -, "
                f"and neither {' nor '.join(_RESERVED)}"
            )
        if stage.starts_from not in (*_RESERVED, *earlier):
            known = f"an earlier stage ({', '.join(earlier)})" if earlier else "no other: it is the first stage"
            raise InvalidSetting(
                f"{where}: stages.{name}.starts_from: {stage.starts_from!r} is not possible; write previous, init, or "
                f"{known}"
            )
        earlier.append(name)


def stage_configs(curriculum: Curriculum, workdir: Path) -> dict[str, Config]:
    """Each stage's configuration, with `init` set to the stage that it starts from.

    A stage that has begun keeps the path it recorded of that one: the same folder may be named otherwise by now, or
    have been moved with the stages in it.
    """
    configs: dict[str, Config] = {}
    for name, start in _starts(curriculum).items():
        stage = curriculum.stages[name]
        configs[name] = stage.config
        if start != "init":
            # The tokenizer comes with the parameters.
            data = dataclasses.replace(stage.config.data, tokenizer="")
            recorded, began = _recorded_start(workdir / name) or ("", "")
            path = recorded if began == start else str(workdir / start)
            configs[name] = dataclasses.replace(stage.config, data=data, init=InitConfig(path, stage.step))
    return configs


def _recorded_start(folder: Path) -> tuple[str, str] | None:
    """Path and name of what the run in a folder began with, "" and "init" for random parameters; None before it has."""
    try:
        recorded = str(run_facts(folder)["config"]["init"]["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):  # `provenance.check_workdir` says what is wrong with one
        return None
    return recorded, re.split(r"[/\\]", recorded)[-1] or "init"


def _starts(curriculum: Curriculum) -> dict[str, str]:
    """Each stage's name → the stage that it starts from, or "init"."""
    starts: dict[str, str] = {}
    for name, stage in curriculum.stages.items():
        previous = list(starts)[-1] if starts else "init"
        starts[name] = previous if stage.starts_from == "previous" else stage.starts_from
    return starts


def check_starts(curriculum: Curriculum, workdir: Path) -> None:
    """Checks that the folder holds no single run, and that every stage which has begun began with the configured one.

    Before any trains: a stage put in before one that is there already would be trained for nothing.

    Raises:
      ConfigError: it does, or one began with another.
    """
    if (workdir / "config.json").exists():
        raise ConfigError(
            f"{workdir / 'config.json'}: this workdir holds a single run; choose another --workdir",
            code="config.other-run",
        )
    for name, start in _starts(curriculum).items():
        _, began = _recorded_start(workdir / name) or ("", start)
        if start not in ("init", began):
            raise ConfigError(
                f"{workdir / name / 'config.json'}: stage {name} began with {began}, and the configuration starts it "
                f"from {start}; write the stages as they were, or choose another --workdir",
                code="config.other-run",
            )


def follow_move(curriculum: Curriculum, workdir: Path) -> list[str]:
    """Corrects where a stage begins that was stopped before its first checkpoint and moved with the whole folder.

    With a checkpoint a stage goes on from that, whatever became of the place it recorded.

    Returns:
      The stages whose config.json was written anew.
    """
    moved = []
    for name, start in _starts(curriculum).items():
        (recorded, began), here = _recorded_start(workdir / name) or ("", ""), workdir / start
        saved = any(path.name.isdigit() for path in (workdir / name).glob("checkpoints/*"))
        gone = recorded and began == start and not path_of(recorded).exists()
        if gone and not saved and (here / "config.json").exists():
            facts = run_facts(workdir / name)
            facts["config"]["init"]["checkpoint"] = str(here)
            write_atomically(workdir / name / "config.json", json.dumps(facts, indent=2) + "\n")
            moved.append(name)
    return moved


class _Finished(TypedDict):
    step: Annotated[int, Field(ge=0)]


def finished_stages(workdir: Path) -> dict[str, int]:
    """The stages that are done, and the step that each ended with.

    Raises:
      ConfigError: the record is damaged.
    """
    path = workdir / _RECORD
    if not path.exists():
        return {}
    remedy = "remove it: stages that are done are then looked at again, not trained again"
    stages = file_as(dict[str, _Finished], path, remedy=remedy, error=ConfigError)
    return {name: stage["step"] for name, stage in stages.items()}


def record_finished(workdir: Path, name: str, step: int) -> None:
    """Records that a stage is done."""
    done = {**finished_stages(workdir), name: step}
    content = {name: {"step": step} for name, step in done.items()}
    write_atomically(workdir / _RECORD, json.dumps(content, indent=2) + "\n")
