"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from data_pipelines.loader import TrainingIterator, examples_per_epoch, training_iterator
from rllava_jax.checkpoint import Checkpoints
from rllava_jax.config import Config, ConfigError
from rllava_jax.duration import parse_duration
from rllava_jax.model.params import Params, abstract, matching
from rllava_jax.sharding import to_devices
from rllava_jax.task import Task
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.optimizer import learning_rate, make_optimizer
from rllava_jax.training.state import abstract_state, initial_state, parameter_table, restored_state, state_shardings
from rllava_jax.training.step import TrainState, make_train_step

logger = logging.getLogger(__name__)

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


def make_plan(config: Config, task: Task) -> Plan:
    """Reads every duration of the configuration against the size of the data.

    Raises:
      ConfigError: a duration that cannot be read, or a run without length.
    """
    train = config.train
    epoch = examples_per_epoch(task.train, config.data.families)

    def steps(text: str, field: str, total: int | None = None) -> int | None:
        return parse_duration(
            text, batch_size=train.batch_size, examples_per_epoch=epoch, total_steps=total, field=field
        )

    total = steps(train.duration, "train.duration")
    if not total:
        raise ConfigError(f"train.duration: {train.duration!r} is no length of a run; write at least 1 step")
    return Plan(
        total,
        steps(config.optimizer.warmup, "optimizer.warmup", total) or 0,
        steps(train.log_every, "train.log_every", total) or 1,
        steps(train.checkpoint_every, "train.checkpoint_every", total),
        steps(train.evaluate_every, "train.evaluate_every", total),
    )


def train(
    config: Config,
    workdir: Path,
    task: Task,
    mesh: Mesh,
    checkpoints: Checkpoints,
    assets: Mapping[str, bytes],
    validate: Validate,
) -> TrainState:
    """Trains to the configured duration, from the newest checkpoint if there is one.

    Invariants:
      1. Batch s depends on the seed and s alone, so the data position is a number, saved with the state.
      2. The iterator is saved after the batch of step s was taken and before the next one is: a checkpoint of step s
         goes on with batch s.
      3. The step is a pure function without randomness: a resumed run repeats the killed one bit for bit.
      4. Metrics are read from the device only when logged, so that the device is not kept waiting.
      5. The last step is always saved.

    Args:
      assets: files that travel inside each checkpoint.
      validate: called every `train.evaluate_every`; its figures choose the best checkpoint.

    Returns:
      The final state.
    """
    plan = make_plan(config, task)
    graphdef, shapes = abstract(config, vocab=task.tokenizer.vocab_size)
    schedule = learning_rate(config.optimizer, steps=plan.steps, warmup=plan.warmup)
    optimizer = _optimizer(config, schedule, shapes)
    shapes_of_state = abstract_state(config, shapes, optimizer)
    shardings = state_shardings(mesh, shapes_of_state)
    logger.info("parameters:\n%s", parameter_table(shapes_of_state))
    data = _iterator(config, task)
    if checkpoints.steps():
        state = restored_state(checkpoints, checkpoints.resolve("last"), shapes_of_state, shardings, data)
    else:
        state = initial_state(config, shapes_of_state, shardings, optimizer, vocab=task.tokenizer.vocab_size)
    if first := int(state.step):
        logger.info("resuming after step %d of %d", first, plan.steps)
    step_function = make_train_step(
        graphdef, optimizer, schedule, accumulate=config.train.accumulate, mesh=mesh, shardings=shardings
    )
    with TrainingLog(workdir, first_step=first, steps=plan.steps) as log:
        for step in range(first + 1, plan.steps + 1):
            asked = time.perf_counter()
            batch = next(data)
            log.waited(time.perf_counter() - asked)
            state, metrics = step_function(state, to_devices(batch, mesh))
            log.advance()
            if step % plan.log == 0 or step in (1, plan.steps):
                log.write(step, metrics, examples=config.train.batch_size, tokens=_tokens(batch))
            figures = None
            if plan.evaluate and _due(step, plan.evaluate, plan):
                figures = validate(state.params | state.frozen, step)
                log.write_evaluation(step, figures)
            if figures is not None or _due(step, plan.checkpoint, plan):
                training = {"step": state.step, "optimizer": state.optimizer}
                checkpoints.save(step, state.params | state.frozen, training, data, assets, figures)
    checkpoints.wait()
    data.close()
    return state


def _due(step: int, every: int | None, plan: Plan) -> bool:
    return step == plan.steps or (every is not None and step % every == 0)


def _optimizer(config: Config, schedule: optax.Schedule, shapes: Mapping[str, Any]) -> optax.GradientTransformation:
    trainable = matching(config.optimizer.trainable, shapes, field="optimizer.trainable")
    return make_optimizer(config.optimizer, schedule, {name: shapes[name] for name in sorted(trainable)})


def _iterator(config: Config, task: Task) -> TrainingIterator:
    return training_iterator(
        task.train,
        task.preprocessor,
        families=config.data.families,
        batch_size=config.train.batch_size,
        seed=config.seed,
        data=config.data,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _tokens(batch: Mapping[str, np.ndarray]) -> int:
    return int(batch["mask_input"].sum()) * jax.process_count()
