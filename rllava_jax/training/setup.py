"""Everything a run needs before its first step, made and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from data_pipelines.core.errors import ConfigError
from data_pipelines.loading.loader import TrainingIterator, examples_per_epoch, mixed_iterator, training_iterator
from rllava_jax.config import Config
from rllava_jax.config.durations import parse_duration
from rllava_jax.inference.task import Task
from rllava_jax.model.params import Params, abstract, trainable_names
from rllava_jax.model.partition_rules import check_rules
from rllava_jax.model.sharding import say_what_is_held_whole
from rllava_jax.training.initialisation import Origin, StartingPoint, origins
from rllava_jax.training.optimizer import learning_rate, make_optimizer
from rllava_jax.training.state import abstract_state, state_shardings
from rllava_jax.training.step import Program

# Validation figures of the current parameters at a step.
Validate = Callable[[Params, int], Mapping[str, float]]


@dataclass(frozen=True)
class Plan:
    """The run's durations in optimiser steps; None is never."""

    steps: int
    warmup: int
    log: int
    checkpoint: int | None
    evaluate: int | None

    def due(self, step: int, every: int | None) -> bool:
        """Whether something done every so many steps, and always at the last one, is done at `step`."""
        return step == self.steps or (every is not None and step % every == 0)

    def validates(self, step: int) -> bool:
        """Whether the validation questions are asked after `step`; never, not even after the last, without a period."""
        return bool(self.evaluate) and self.due(step, self.evaluate)

    def logs(self, step: int) -> bool:
        """Whether `step` has a row in the log: every `log` steps, the first and the last."""
        return step % self.log == 0 or step in (1, self.steps)

    def logged_before(self, step: int) -> int:
        """The last step before `step` that has a row; 0 before the first."""
        before = (step - 1) // self.log * self.log
        return before or int(step > 1)


@dataclass(frozen=True)
class Setup:
    """The parts of a run.

    Attributes:
      program: the step's parts, with the shapes of the state and where each leaf lives.
      data: this host's batches.
      start: the checkpoint whose parameters the run begins with; None is random ones, or a run that is resumed.
      origins: where each parameter of a run that is not resumed comes from.
      vocab: rows of the token table where the configuration does not say.
      names: ids of the training examples, by the batches' `index`.
      assets: files that travel inside each checkpoint.
      validate: called every `train.evaluate_every`; its figures choose the best checkpoint.
    """

    plan: Plan
    program: Program
    data: TrainingIterator
    start: StartingPoint | None
    origins: dict[str, Origin]
    vocab: int
    names: Sequence[str]
    assets: Mapping[str, bytes]
    validate: Validate


def set_up(
    config: Config,
    task: Task,
    mesh: Mesh,
    start: StartingPoint | None,
    *,
    assets: Mapping[str, bytes],
    validate: Validate,
) -> Setup:
    """Shapes, then shardings: no array is made here.

    Args:
      start, assets, validate: see `Setup`.

    Raises:
      ConfigError: a duration, name pattern or mesh that does not fit the data, the parameters or the devices; or a
        starting point of another model.
      DataError: a question family of positive weight without examples.
    """
    plan = make_plan(config, task)
    vocab = task.tokenizer.vocab_size
    made = program(config, mesh, vocab=vocab, steps=plan.steps, warmup=plan.warmup)
    shapes = made.abstract.params | made.abstract.frozen
    origin = origins(config, shapes, start)
    say_what_is_held_whole(mesh, shapes)
    data = _batches(config, task, steps=plan.steps)
    names = [example.id for example in task.train]
    return Setup(plan, made, data, start, origin, vocab, names, assets, validate)


def _batches(config: Config, task: Task, *, steps: int) -> TrainingIterator:
    """This host's batches of the run."""
    batch_size = config.train.batch_size
    shared = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    if task.parts:
        return mixed_iterator(
            task.parts,
            task.preprocessor,
            batch_size=batch_size,
            steps=steps,
            seed=config.seed,
            data=config.data,
            **shared,
        )
    return training_iterator(
        task.train,
        task.preprocessor,
        families=config.data.families,
        batch_size=batch_size,
        seed=config.seed,
        data=config.data,
        **shared,
    )


def program(config: Config, mesh: Mesh, *, vocab: int, steps: int, warmup: int) -> Program:
    """The parts of a training step: shapes, then shardings.

    Args:
      vocab: rows of the token table where the configuration does not say.
      steps, warmup: length of the run and of its warm-up.

    Raises:
      ConfigError: a name pattern that matches nothing, or a mesh that does not fit the parameters.
    """
    graphdef, shapes = abstract(config, vocab=vocab)
    check_rules(shapes)
    trainable = trainable_names(config, shapes)
    schedule = learning_rate(config.optimizer, steps=steps, warmup=warmup)
    optimizer = make_optimizer(config.optimizer, schedule, {name: shapes[name] for name in sorted(trainable)})
    state = abstract_state(config, shapes, optimizer)
    return Program(graphdef, schedule, optimizer, state, state_shardings(mesh, state))


def make_plan(config: Config, task: Task) -> Plan:
    """Reads every duration of the configuration against the size of the data.

    Raises:
      ConfigError: a duration that cannot be read, or a run without length.
    """
    train = config.train
    epoch = len(task.train) if task.parts else examples_per_epoch(task.train, config.data.families)

    def steps(text: str, field: str, total: int | None = None) -> int | None:
        return parse_duration(
            text, batch_size=train.batch_size, examples_per_epoch=epoch, total_steps=total, field=field
        )

    total = steps(train.duration, "train.duration")
    if not total:
        raise ConfigError(f"train.duration: {train.duration!r} is no length of a run; write at least 1 step")
    warmup = steps(config.optimizer.warmup, "optimizer.warmup", total) or 0
    if warmup > total:
        raise ConfigError(
            f"optimizer.warmup: {config.optimizer.warmup!r} is {warmup} steps, more than the run's {total}; shorten it"
        )
    return Plan(
        total,
        warmup,
        steps(train.log_every, "train.log_every", total) or 1,
        steps(train.checkpoint_every, "train.checkpoint_every", total),
        steps(train.evaluate_every, "train.evaluate_every", total),
    )
