"""Trains the stages of a curriculum one after the other. What a stage is, and its record: `config/curriculum.py`."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from data_pipelines.core.errors import ConfigError, DataError
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import MissingCheckpoint
from rllava_jax.config import Config, Curriculum
from rllava_jax.config.curriculum import check_starts, finished_stages, follow_move, record_finished, stage_configs
from rllava_jax.inference.run_data import check_examples, same_examples
from rllava_jax.runtime import hosts
from rllava_jax.runtime.compilation_cache import keep_compiled
from rllava_jax.training.initialisation import resolve

logger = logging.getLogger(__name__)


def run_stages(curriculum: Curriculum, workdir: Path, run: Callable[..., int]) -> None:
    """Trains the stages that are not done yet, in order, and evaluates the last and those that say so.

    Args:
      run: trains and evaluates one run, or evaluates it alone, as `main.run`; returns the step at its end.

    Raises:
      ConfigError: a workdir of something else, or of stages that were trained with other settings.
      DataError: the data of any stage that is not done. Both before the first one trains.
    """
    check_starts(curriculum, workdir)
    if jax.process_index() == 0:
        for name in follow_move(curriculum, workdir):
            logger.info("%s: had no checkpoint yet; begins anew where the stages are now", workdir / name)
    hosts.barrier("stages found")
    configs = stage_configs(curriculum, workdir)
    names, done = list(configs), finished_stages(workdir)
    keep_compiled(configs[names[0]], workdir)  # JAX has one folder for it in a process
    for name in names:
        if name in done:
            _check_finished(configs[name], workdir / name)
    _check_later_data({name: config for name, config in configs.items() if name not in done})
    for number, (name, config) in enumerate(configs.items()):
        folder, said = workdir / name, f"stage {number + 1} of {len(names)}, {name}"
        evaluates = curriculum.stages[name].evaluate or name == names[-1]
        if name in done:
            logger.info("%s: done, step %d", said, done[name])
            if evaluates and not (folder / "eval" / str(done[name]) / "metrics.json").exists():
                run(config, folder, training=False)
            continue
        logger.info("%s", said)
        later = [configs[after] for after in names[number + 1 :] if curriculum.stages[after].starts_from != "init"]
        step = run(config, folder, training=True, evaluates=evaluates, later=later)
        if jax.process_index() == 0:
            record_finished(workdir, name, step)
        hosts.barrier("stage finished")


def stage_to_evaluate(curriculum: Curriculum, workdir: Path, name: str | None) -> tuple[Config, Path]:
    """The configuration and folder of a stage, of the last one without a name.

    Raises:
      ConfigError: it is not trained.
    """
    configs = stage_configs(curriculum, workdir)
    name = name or list(configs)[-1]
    if not (workdir / name / "config.json").exists():
        begun = ", ".join(other for other in configs if (workdir / other / "config.json").exists()) or "none yet"
        raise MissingCheckpoint(
            f"{workdir / name}: stage {name} is not trained; train it first (trained here: {begun})"
        )
    return configs[name], workdir / name


def _check_later_data(pending: Mapping[str, Config]) -> None:
    """Loads the examples of the stages that come after the next one, where they are others than a stage's before."""
    known: list[Config] = []
    for name, config in pending.items():
        if known and not any(same_examples(config, other) for other in known):
            try:
                check_examples(config)
            except (ConfigError, DataError) as error:
                raise error.within(f"stages.{name}") from None
        known.append(config)


def _check_finished(config: Config, folder: Path) -> None:
    """Checks that a stage which is done was trained with these settings."""
    config, _ = resolve(config, folder)
    if not provenance.check_workdir(folder, config):
        raise MissingCheckpoint(
            f"{folder}: holds no run, but curriculum.json beside it says that this stage is done; "
            "put it back, or choose another --workdir"
        )
