"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.loader import TrainingIterator
from rllava_jax import hosts
from rllava_jax.checkpoint import Checkpoints
from rllava_jax.config import Config
from rllava_jax.interruption import Interrupted, Interruption
from rllava_jax.model.params import Params
from rllava_jax.sharding import to_devices
from rllava_jax.training.bad_steps import BadStep, Outcomes
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.setup import Setup
from rllava_jax.training.state import initial_state, parameter_table, restored_state, stored
from rllava_jax.training.step import TrainState, make_train_step
from rllava_jax.training.watchdog import Watchdog

logger = logging.getLogger(__name__)

# Validation figures of the current parameters at a step.
Validate = Callable[[Params, int], Mapping[str, float]]


def train(
    config: Config,
    workdir: Path,
    setup: Setup,
    mesh: Mesh,
    checkpoints: Checkpoints,
    assets: Mapping[str, bytes],
    validate: Validate,
    interruption: Interruption,
    *,
    names: Sequence[str],
    vocab: int,
) -> TrainState:
    """Trains to the configured duration, from the run's newest checkpoint if there is one.

    Invariants:
      1. Batch s depends on the seed and s alone, so the data position is a number, saved with the state.
      2. The iterator is saved after the batch of step s was taken and before the next one is: a checkpoint of step s
         goes on with batch s.
      3. The step is a pure function without randomness: a resumed run repeats the killed one bit for bit.
      4. What a step found is read from the device when the next one is queued there, so that it is not kept waiting;
         before a save, a validation or a row of the log it is read at once, because these wait for the step anyway.
      5. The last step is always saved. A step is saved before it is validated, and gets its figures afterwards, so that
         a long validation can be interrupted without loss.
      6. All hosts stop at the same step: whether one was asked to is itself computed on all devices, a step late.

    Args:
      assets: files that travel inside each checkpoint.
      validate: called every `train.evaluate_every`; its figures choose the best checkpoint.
      names: ids of the training examples, by the batches' `index`.
      vocab: rows of the token table.

    Returns:
      The final state.

    Raises:
      Interrupted: the run was asked to stop; its state is saved.
      BadStep: a bad step, and the settings say to stop; the state is saved.
    """
    plan, data = setup.plan, setup.data
    first, state = _start(config, setup, checkpoints, vocab)
    train_step = make_train_step(setup.program, config, mesh)
    asked = hosts.OnAnyHost()
    log = TrainingLog(
        workdir,
        first_step=first,
        steps=plan.steps,
        data_wait_warning=config.train.data_wait_warning,
        examples=config.train.log_examples,
    )
    with Watchdog(config.train.stall_seconds) as watchdog, log, contextlib.ExitStack() as stack:
        outcomes = Outcomes(config.train, log, watchdog, names)
        keeper = _Keeper(checkpoints, assets, data, validate, log, watchdog, interruption, saved=first)
        if first and plan.evaluate and plan.due(first, plan.evaluate) and not checkpoints.has_figures(first):
            keeper.validate(first, state)
        data.start_prefetch()
        step = first
        try:
            for step in range(first + 1, plan.steps + 1):
                batch = _next_batch(data, log, watchdog)
                placed = to_devices(batch, mesh)
                if step == first + 1:
                    take_step = _compiled(train_step, state, placed, log, watchdog)
                    # Until here there was nothing to save.
                    stack.enter_context(interruption.deferred())
                state, metrics = take_step(state, placed)
                outcomes.put(step, metrics, placed["index"])
                log.advance()
                stop = asked(interruption.requested)
                logged = plan.logs(step)
                validates = bool(plan.evaluate) and plan.due(step, plan.evaluate)
                saves = validates or stop or plan.due(step, plan.checkpoint)
                if logged or saves:
                    outcomes.settle()
                if logged:
                    shares = data.shares(plan.logged_before(step), step)
                    log.write(
                        step,
                        _scalars(metrics),
                        examples=config.train.batch_size,
                        tokens=_tokens(batch),
                        shares=shares,
                    )
                if saves:
                    keeper.save(step, state)
                if stop:
                    break
                if validates:
                    keeper.validate(step, state)
        except BadStep as bad:
            if bad.held:
                step = bad.step - 1
                data.set_state({**data.get_state(), "next_batch": step})
            keeper.save(step, state)
            checkpoints.wait()
            raise
        with watchdog.phase("checkpoint"):
            checkpoints.wait()
        data.close()
        if step < plan.steps:
            logger.warning("interrupted after step %d of %d, which is saved", step, plan.steps)
            raise Interrupted(step)
    return state


@dataclasses.dataclass
class _Keeper:
    """Saves states, each once, and validates what is saved."""

    checkpoints: Checkpoints
    assets: Mapping[str, bytes]
    data: TrainingIterator
    figures_of: Validate
    log: TrainingLog
    watchdog: Watchdog
    interruption: Interruption
    saved: int

    def save(self, step: int, state: TrainState) -> None:
        if step > self.saved:
            with self.watchdog.phase("checkpoint"):
                self.log.sync()  # a resumed run writes only the rows beyond its checkpoint again
                self.checkpoints.save(step, *stored(state), self.data, self.assets)
            self.saved = step

    def validate(self, step: int, state: TrainState) -> None:
        if hosts.several():
            # A host that is interrupted below leaves at once, and would leave a save under way undone.
            self.checkpoints.wait()
        with self.watchdog.phase("validation"), self.interruption.immediate():
            figures = self.figures_of(state.answering, step)
        self.log.write_evaluation(step, figures)
        self.log.sync()  # a checkpoint that has figures is not validated again
        self.checkpoints.add_figures(step, figures)
        self.watchdog.finished_step()


def _start(config: Config, setup: Setup, checkpoints: Checkpoints, vocab: int) -> tuple[int, TrainState]:
    """The steps already done, and the state after them."""
    resumed = bool(checkpoints.steps())
    origins = dict.fromkeys(setup.origins, "resumed") if resumed else setup.origins
    logger.info("parameters:\n%s", parameter_table(setup.program.abstract, origins))
    if resumed:
        state = restored_state(checkpoints, setup.program, setup.data)
        first = int(state.step)
        logger.info("resuming after step %d of %d", first, setup.plan.steps)
        return first, state
    return 0, initial_state(config, setup.program, start=setup.start, vocab=vocab)


def _next_batch(data: TrainingIterator, log: TrainingLog, watchdog: Watchdog) -> Mapping[str, np.ndarray]:
    began = time.perf_counter()
    with watchdog.phase("input"):
        batch = next(data)
    log.waited(time.perf_counter() - began)
    return batch


def _compiled(
    train_step: jax.stages.Wrapped,
    state: TrainState,
    batch: Mapping[str, Any],
    log: TrainingLog,
    watchdog: Watchdog,
) -> Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, dict[str, jax.Array]]]:
    began = time.perf_counter()
    with watchdog.phase("compilation"):
        compiled: Any = train_step.lower(state, batch).compile()
        # A host that found its program in the cache would else wait for the others inside a collective, which gives up
        # long before a large model is compiled.
        hosts.barrier("training step compiled")
    log.compiled(time.perf_counter() - began)
    return compiled


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if value.ndim == 0 and value.dtype != bool}


def _tokens(batch: Mapping[str, np.ndarray]) -> int:
    return int(batch["mask_input"].sum()) * jax.process_count()
