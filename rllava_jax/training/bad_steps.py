"""What follows a bad step: a loss or gradient that is not finite, or a spike. `train.on_bad_step` chooses.

The step itself never applies a bad update (`step.py`). Here it is noticed, named and counted. Whether step s was bad is
read from the device when step s + 1 is queued there, so that the device is never kept waiting for the answer.
"""

import logging
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from data_pipelines.core import exit_codes
from data_pipelines.core.errors import listed
from rllava_jax.config import TrainConfig
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.state import Metrics

logger = logging.getLogger(__name__)


class BadStep(RuntimeError):
    """A bad step ends the run; all hosts raise it alike.

    Attributes:
      step: the bad one.
      held: whether the state is still that of before it.
    """

    exit_code = exit_codes.BAD_STEP
    on_all_hosts = True

    def __init__(self, message: str, *, step: int, held: bool):
        super().__init__(message)
        self.step, self.held = step, held


class Outcomes:
    """Looks at each step's outcome when the next one has been given to the device."""

    def __init__(self, config: TrainConfig, log: TrainingLog, names: Sequence[str]):
        """Args:
        names: ids of the training examples, by the batch's `index`.
        """
        self._config, self._log, self._names = config, log, names
        self._pending: tuple[int, Metrics, Array] | None = None
        self._skipped = 0

    def put(self, step: int, metrics: Metrics, index: Array) -> None:
        """Takes the outcome of `step`, just given to the device, and looks at that of the step before.

        Raises:
          BadStep: the run must stop.
        """
        self.settle()
        self._pending = (step, metrics, index)

    def settle(self) -> None:
        """Looks at the last outcome too, waiting for it. Raises as `put`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._look(*pending)

    def _look(self, step: int, metrics: Metrics, index: Array) -> None:
        with self._log.phase("device"):
            bad = bool(metrics.scalars["bad"])
        self._log.finished_step()
        if self._config.log_examples:
            self._log.write_examples(step, [self._names[place] for place in _everyone(index)])
        if not bad:
            self._skipped = 0
            return
        loss, norm = float(metrics.scalars["loss"]), float(metrics.scalars["gradient_norm"])
        places = _everyone(index)
        # Without a loss of single examples it may be any.
        losses = _everyone(metrics.examples.get("example_loss", jnp.full(len(places), jnp.nan)))
        offending = [self._names[place] for place in _offending(losses, places)]
        # Where no example has a loss it is none of theirs.
        named = listed(offending) if np.isfinite(losses).any() else "all: the parameters have diverged"
        what = f"step {step} is bad: loss {loss:.4g}, gradient norm {norm:.4g}, examples {named}"
        self._log.write_bad_step(step, loss=loss, gradient_norm=norm, examples=offending)
        if self._config.on_bad_step == "stop":
            raise BadStep(
                f"{what}; look at them, lower optimizer.learning_rate in a new workdir, "
                "or go on without them: --config.train.on_bad_step=skip",
                step=step,
                held=True,
            )
        self._skipped += 1
        logger.warning("%s; skipped, the parameters stay", what)
        if self._skipped > self._config.max_skipped:
            raise BadStep(
                f"{what}; {self._skipped} in a row, train.max_skipped allows {self._config.max_skipped}; "
                "start a new workdir with a lower optimizer.learning_rate",
                step=step,
                held=False,
            )


def _everyone(array: Array) -> np.ndarray:
    """A global array's numbers, on every host."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _offending(losses: np.ndarray, index: np.ndarray) -> list[int]:
    """The examples whose loss is not finite, else those far above the others, worst first."""
    broken = index[~np.isfinite(losses)]
    if broken.size:
        return list(dict.fromkeys(broken.tolist()))
    order = np.argsort(-losses, kind="stable")
    above = [place for place in order if losses[place] > 2 * np.median(losses)] or order[:1]
    return list(dict.fromkeys(index[above].tolist()))
