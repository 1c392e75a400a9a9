"""Stages: runs one after the other, each from the parameters and with the tokenizer of one before it.

Every stage is an ordinary run in a folder of its own, WORKDIR/STAGE, which everything that reads a run reads.
WORKDIR/curriculum.json says which stages are done, so that the same command line goes on with the next.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from rllava_jax.atomic_files import write_atomically
from rllava_jax.config import Config, ConfigError, Curriculum, InitConfig

_RECORD = "curriculum.json"
_RESERVED = ("previous", "init")


def check_stages(curriculum: Curriculum, *, where: str) -> None:
    """Checks the stages' names and what they start from.

    Raises:
      ConfigError: naming the stage, the field, the value and the remedy.
    """
    if not curriculum.stages:
        raise ConfigError(f"{where}: stages: there are none; name at least one")
    earlier: list[str] = []
    for name, stage in curriculum.stages.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in _RESERVED:
            raise ConfigError(
                f"{where}: stages: {name!r} is no name of a stage; use letters, digits, _ and -, "
                f"and neither {' nor '.join(_RESERVED)}"
            )
        if stage.starts_from not in (*_RESERVED, *earlier):
            known = f"an earlier stage ({', '.join(earlier)})" if earlier else "no other: it is the first stage"
            raise ConfigError(
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
    for name, stage in curriculum.stages.items():
        config, start = stage.config, stage.starts_from
        if start == "previous":
            start = list(configs)[-1] if configs else "init"
        if start != "init":
            # The tokenizer comes with the parameters.
            data = dataclasses.replace(config.data, tokenizer="")
            path = _recorded_start(workdir / name, start) or str(workdir / start)
            config = dataclasses.replace(config, data=data, init=InitConfig(path, stage.step))
        configs[name] = config
    return configs


def _recorded_start(folder: Path, start: str) -> str:
    try:
        recorded: str = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]["init"]["checkpoint"]
        return recorded if re.split(r"[/\\]", recorded)[-1] == start else ""
    except (OSError, ValueError, KeyError, TypeError):  # `provenance.check_workdir` says what is wrong with one
        return ""


def check_workdir_of_stages(workdir: Path) -> None:
    """Raises ConfigError where the folder holds a single run."""
    if (workdir / "config.json").exists():
        raise ConfigError(f"{workdir / 'config.json'}: this workdir holds a single run; choose another --workdir")


def finished_stages(workdir: Path) -> dict[str, int]:
    """The stages that are done, and the step that each ended with.

    Raises:
      ConfigError: the record is damaged.
    """
    path = workdir / _RECORD
    if not path.exists():
        return {}
    try:
        return {str(name): int(stage["step"]) for name, stage in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: damaged ({error!r}); remove it: stages that are done are then looked at again, not trained again"
        ) from None


def record_finished(workdir: Path, name: str, step: int) -> None:
    """Writes down that a stage is done."""
    done = {**finished_stages(workdir), name: step}
    content = {name: {"step": step} for name, step in done.items()}
    write_atomically(workdir / _RECORD, json.dumps(content, indent=2) + "\n")
