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

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import TrainConfig
from rllava_jax.runtime import hosts
from rllava_jax.runtime.interruption import Interrupted, Interruption
from rllava_jax.training.bad_steps import BadStep, Outcomes
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.run_length import RunLength
from rllava_jax.training.state import TrainState, stored

logger = logging.getLogger(__name__)

Batch = Mapping[str, np.ndarray]


class Batches(Protocol):
    """This host's share of every batch, from a position that can be saved; `loader.TrainingIterator` is one."""

    def __next__(self) -> Batch: ...
    def start_prefetch(self) -> None: ...
    def close(self) -> None: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...
    def shares(self, first: int, last: int) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Setup:
    """What the loop is given. `job.Job.set_up` makes it of a configuration; the loop knows no model and no data set.

    Attributes:
      step: the jitted `(state, batch) → (state, Metrics)` of `step.make_train_step`.
      to_devices: lays a batch over the mesh.
      initialise: the state of a run that begins.
      restore: the state of the newest checkpoint that is whole; also puts `data` in its place.
      validate: (parameters, step) → figures, every `train.evaluate_every`; they choose the best checkpoint.
      names: ids of the training examples, by the batches' `index`.
      assets: files that travel inside each checkpoint.
    """

    length: RunLength
    step: jax.stages.Wrapped
    data: Batches
    to_devices: Callable[[Batch], dict[str, Any]]
    initialise: Callable[[], TrainState]
    restore: Callable[[Checkpoints], TrainState]
    validate: Callable[[dict[str, Any], int], Mapping[str, float]]
    names: Sequence[str]
    assets: Mapping[str, bytes]


def train(
    config: TrainConfig, setup: Setup, workdir: Path, checkpoints: Checkpoints, interruption: Interruption
) -> TrainState:
    """Trains to the configured duration, from the run's newest checkpoint if there is one.

    Returns:
      The final state.

    Raises:
      Interrupted: the run was asked to stop; its state is saved.
      BadStep: a bad step, and the settings say to stop; the state is saved.
    """
    length, data = setup.length, setup.data
    state = setup.restore(checkpoints) if checkpoints.steps() else setup.initialise()
    step = first = saved = int(state.step)
    if first:
        logger.info("resuming after step %d of %d", first, length.steps)
    log = TrainingLog(workdir, config, first_step=first, steps=length.steps)
    with log, contextlib.ExitStack() as running:
        outcomes, asked = Outcomes(config, log, setup.names), hosts.OnAnyHost()
        if first and length.validates(first) and not checkpoints.has_figures(first):
            _validate(setup, checkpoints, interruption, log, first, state)
        running.callback(data.close)  # however the run ends: threads that still read would crash the interpreter's end
        data.start_prefetch()
        try:
            for step in range(first + 1, length.steps + 1):
                with log.phase("input"):
                    batch = next(data)
                arrays = setup.to_devices(batch)
                if step == first + 1:
                    take_step = _compiled(setup.step, log, state, arrays)
                    running.enter_context(interruption.deferred())  # until here there was nothing to save
                state, metrics = take_step(state, arrays)
                outcomes.put(step, metrics, arrays["index"])
                log.advance()
                stop = asked(interruption.requested)
                logs, validates = length.logs(step), length.validates(step)
                saves = validates or stop or length.due(step, length.checkpoint)
                if logs or saves:
                    outcomes.settle()
                if logs:
                    shares = data.shares(length.logged_before(step), step)
                    tokens = int(batch["mask_input"].sum()) * jax.process_count()
                    log.write(step, metrics.scalars, examples=config.batch_size, tokens=tokens, shares=shares)
                if saves:
                    _save(setup, checkpoints, log, step, state)
                    saved = step
                if stop:
                    break
                if validates:
                    _validate(setup, checkpoints, interruption, log, step, state)
        except BadStep as bad:
            if bad.held:
                step = bad.step - 1
                data.set_state({**data.get_state(), "next_batch": step})
            if step > saved:
                _save(setup, checkpoints, log, step, state)
            checkpoints.wait()
            raise
        with log.phase("checkpoint"):
            checkpoints.wait()
        if step < length.steps:
            logger.warning("interrupted after step %d of %d, which is saved", step, length.steps)
            raise Interrupted(step)
    return state


def _compiled(step: jax.stages.Wrapped, log: TrainingLog, state: TrainState, batch: Mapping[str, Any]) -> Any:
    with log.phase("compilation"):
        compiled = step.lower(state, batch).compile()
        # A host that found its program in the cache would else wait for the others inside a collective, which gives
        # up long before a large model is compiled.
        hosts.barrier("training step compiled")
    return compiled


def _save(setup: Setup, checkpoints: Checkpoints, log: TrainingLog, step: int, state: TrainState) -> None:
    with log.phase("checkpoint"):
        log.sync()  # a resumed run writes only the rows beyond its checkpoint again
        checkpoints.save(step, *stored(state), setup.data, setup.assets)


def _validate(
    setup: Setup,
    checkpoints: Checkpoints,
    interruption: Interruption,
    log: TrainingLog,
    step: int,
    state: TrainState,
) -> None:
    if hosts.several():
        # A host that is interrupted below leaves at once, and would leave a save under way undone.
        checkpoints.wait()
    with log.phase("validation"), interruption.immediate():
        figures = setup.validate(state.inference_params, step)
    log.write_evaluation(step, figures)
    log.sync()  # a checkpoint that has figures is not validated again
    checkpoints.add_figures(step, figures)
    log.finished_step()
