"""The training loop.

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
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import Config
from rllava_jax.model.sharding import to_devices
from rllava_jax.runtime import hosts
from rllava_jax.runtime.interruption import Interrupted, Interruption
from rllava_jax.training.bad_steps import BadStep, Outcomes
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.setup import Setup
from rllava_jax.training.state import initial_state, parameter_table, restored_state, stored
from rllava_jax.training.step import TrainState, make_train_step
from rllava_jax.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def train(
    config: Config, workdir: Path, setup: Setup, mesh: Mesh, checkpoints: Checkpoints, interruption: Interruption
) -> TrainState:
    """Trains to the configured duration, from the run's newest checkpoint if there is one.

    Returns:
      The final state.

    Raises:
      Interrupted: the run was asked to stop; its state is saved.
      BadStep: a bad step, and the settings say to stop; the state is saved.
    """
    plan = setup.plan
    first, state = _start(config, setup, checkpoints)
    log = TrainingLog(
        workdir,
        first_step=first,
        steps=plan.steps,
        data_wait_warning=config.train.data_wait_warning,
        examples=config.train.log_examples,
    )
    with Watchdog(config.train.stall_seconds) as watchdog, log, contextlib.ExitStack() as deferring:
        run = _Run(setup, checkpoints, log, watchdog, interruption, deferring, saved=first)
        if first and plan.validates(first) and not checkpoints.has_figures(first):
            run.validate(first, state)
        step, state = _take_steps(config, mesh, run, first, state)
        with watchdog.phase("checkpoint"):
            checkpoints.wait()
        setup.data.close()
        if step < plan.steps:
            logger.warning("interrupted after step %d of %d, which is saved", step, plan.steps)
            raise Interrupted(step)
    return state


def _take_steps(config: Config, mesh: Mesh, run: _Run, first: int, state: TrainState) -> tuple[int, TrainState]:
    """Takes the steps after `first`, until the run is asked to stop. Returns the last one taken and the state then."""
    plan, data, log = run.setup.plan, run.setup.data, run.log
    train_step = make_train_step(run.setup.program, config, mesh)
    outcomes = Outcomes(config.train, log, run.watchdog, run.setup.names)
    asked = hosts.OnAnyHost()
    data.start_prefetch()
    step, size = first, config.train.batch_size
    try:
        for step in range(first + 1, plan.steps + 1):
            batch = run.next_batch()
            placed = to_devices(batch, mesh)
            if step == first + 1:
                take_step = run.compiled(train_step, state, placed)
            state, metrics = take_step(state, placed)
            outcomes.put(step, metrics, placed["index"])
            log.advance()
            stop = asked(run.interruption.requested)
            logs, validates = plan.logs(step), plan.validates(step)
            saves = validates or stop or plan.due(step, plan.checkpoint)
            if logs or saves:
                outcomes.settle()
            if logs:
                shares = data.shares(plan.logged_before(step), step)
                log.write(step, _scalars(metrics), examples=size, tokens=_tokens(batch), shares=shares)
            if saves:
                run.save(step, state)
            if stop:
                break
            if validates:
                run.validate(step, state)
    except BadStep as bad:
        if bad.held:
            step = bad.step - 1
            data.set_state({**data.get_state(), "next_batch": step})
        run.save(step, state)
        run.checkpoints.wait()
        raise
    return step, state


@dataclasses.dataclass
class _Run:
    """What is open while a run trains. A state is saved once, and validated when it is saved.

    Attributes:
      deferring: closed when the run ends; holds off interruptions from the first step on.
      saved: the step of the newest checkpoint.
    """

    setup: Setup
    checkpoints: Checkpoints
    log: TrainingLog
    watchdog: Watchdog
    interruption: Interruption
    deferring: contextlib.ExitStack
    saved: int

    def next_batch(self) -> Mapping[str, np.ndarray]:
        began = time.perf_counter()
        with self.watchdog.phase("input"):
            batch = next(self.setup.data)
        self.log.waited(time.perf_counter() - began)
        return batch

    def compiled(
        self, train_step: jax.stages.Wrapped, state: TrainState, batch: Mapping[str, Any]
    ) -> Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, dict[str, jax.Array]]]:
        began = time.perf_counter()
        with self.watchdog.phase("compilation"):
            compiled: Any = train_step.lower(state, batch).compile()
            # A host that found its program in the cache would else wait for the others inside a collective, which gives
            # up long before a large model is compiled.
            hosts.barrier("training step compiled")
        self.log.compiled(time.perf_counter() - began)
        # Until here there was nothing to save.
        self.deferring.enter_context(self.interruption.deferred())
        return compiled

    def save(self, step: int, state: TrainState) -> None:
        if step > self.saved:
            with self.watchdog.phase("checkpoint"):
                self.log.sync()  # a resumed run writes only the rows beyond its checkpoint again
                self.checkpoints.save(step, *stored(state), self.setup.data, self.setup.assets)
            self.saved = step

    def validate(self, step: int, state: TrainState) -> None:
        if hosts.several():
            # A host that is interrupted below leaves at once, and would leave a save under way undone.
            self.checkpoints.wait()
        with self.watchdog.phase("validation"), self.interruption.immediate():
            figures = self.setup.validate(state.answering, step)
        self.log.write_evaluation(step, figures)
        self.log.sync()  # a checkpoint that has figures is not validated again
        self.checkpoints.add_figures(step, figures)
        self.watchdog.finished_step()


def _start(config: Config, setup: Setup, checkpoints: Checkpoints) -> tuple[int, TrainState]:
    """The steps already done, and the state after them."""
    resumed = bool(checkpoints.steps())
    origins = dict.fromkeys(setup.origins, "resumed") if resumed else setup.origins
    logger.info("parameters:\n%s", parameter_table(setup.program.abstract, origins))
    if resumed:
        state = restored_state(checkpoints, setup.program, setup.data)
        first = int(state.step)
        logger.info("resuming after step %d of %d", first, setup.plan.steps)
        return first, state
    return 0, initial_state(config, setup.program, start=setup.start, vocab=setup.vocab)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if value.ndim == 0 and value.dtype != bool}


def _tokens(batch: Mapping[str, np.ndarray]) -> int:
    return int(batch["mask_input"].sum()) * jax.process_count()
