"""What a run says while it trains: a progress bar, rows of figures for every writer, what it waits for when it stalls.

On request, also examples.jsonl.
"""

import contextlib
import logging
import threading
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

import jax
from tqdm import tqdm

from data_pipelines.core.append_log import AppendLogs
from rllava_jax.config import TrainConfig
from rllava_jax.training.log_writers import JsonLines, Row, TensorBoard, WeightsAndBiases, Writer

logger = logging.getLogger(__name__)


Phase = Literal["input", "compilation", "device", "checkpoint", "validation"]
_WAITS = {
    "input": "waits for input: is a disk or a worker stuck? see data.workers, data.threads and data.root",
    "compilation": "compiles, or waits for another host that does; a large model takes minutes, once",
    "device": "waits for the device or for another host; look at the logs of the others",
    "checkpoint": "waits for a checkpoint to be written; look at the workdir's disk, and at the other hosts",
    "validation": "validates; evaluation.during_examples and train.evaluate_every say how much and how often",
    "": "is busy between steps",
}


class Watchdog:
    """Warns when no step has finished for `seconds`, and again each time that the wait has doubled.

    It runs between `with` and its end. Only a wait is named; nothing is stopped.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._phase: Phase | Literal[""] = ""
        self._changed = threading.Condition()
        self._since, self._next, self._ended = time.monotonic(), seconds, False

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """What the run does within it."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def finished_step(self) -> None:
        """A step is done: counting begins anew."""
        self._since, self._next = time.monotonic(), self._seconds

    def __enter__(self) -> Self:
        self.finished_step()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                waited = time.monotonic() - self._since
                if waited >= self._next:
                    logger.warning("no step has finished for %.0f s: the run %s", waited, _WAITS[self._phase])
                    self._next = 2 * waited
                # Not longer than `seconds`: a step that finishes meanwhile brings the next warning nearer.
                self._changed.wait(max(min(self._next - waited, self._seconds), 0.01))


class TrainingLog:
    """Writes one row per logged step, on the first host alone, and names what a run that stalls waits for."""

    def __init__(
        self, workdir: Path, config: TrainConfig, *, first_step: int, steps: int, observers: Sequence[Writer] = ()
    ):
        """Opens the logs.

        Args:
          first_step: steps already done; rows beyond it, from a run that was killed after its last checkpoint, are
            dropped, because the resumed run writes them again.
          observers: get the same rows as the files.
        """
        self._config = config
        self._watchdog = Watchdog(config.stall_seconds)
        self._writers: list[Writer] = []
        self._examples: JsonLines | None = None
        self._growing: AppendLogs | None = None
        if jax.process_index() == 0:
            self._growing = AppendLogs(workdir, continued=("metrics.jsonl", "examples.jsonl"))
            folder = self._growing.local
            self._writers = [
                JsonLines(folder / "metrics.jsonl", first_step=first_step),
                TensorBoard(folder / "tensorboard", first_step=first_step),
                *observers,
            ]
            if config.wandb_project:
                self._writers.append(WeightsAndBiases(config.wandb_project, workdir, folder))
            if config.log_examples:
                self._examples = JsonLines(folder / "examples.jsonl", first_step=first_step)
        # The clocks start here: opening the writers imports packages, which is no step's time.
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            desc="training",
            unit="step",
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._since, self._waited = time.perf_counter(), 0.0
        self._step, self._steps = first_step, steps
        self._slow, self._compiled = 0, 0.0

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.__exit__()
        self._bar.close()
        with contextlib.ExitStack() as closed:  # each, also where the disk is full and another's end fails for it
            if self._growing is not None:
                closed.callback(self._growing.close)
            for writer in (*self._writers, *([self._examples] if self._examples else ())):
                closed.callback(writer.close)

    def sync(self) -> None:
        """Returns when what was logged would survive this machine; a local folder does as it is."""
        if self._growing is not None and self._growing.remote:
            for writer in self._writers:
                writer.flush()
            self._growing.sync()

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """What the run does within it: named if it stalls there, and its time is counted as that."""
        began = time.perf_counter()
        with self._watchdog.phase(name):
            yield
        seconds = time.perf_counter() - began
        if name == "input":
            self._waited += seconds
        elif name == "compilation":  # counts as no step's time
            self._compiled = seconds
            self._since += seconds
            logger.info("the training step was ready after %.1f s of compilation", seconds)

    def finished_step(self) -> None:
        """A step, or a validation, has come to its end: the run does not stall."""
        self._watchdog.finished_step()

    def advance(self) -> None:
        """One step more on the bar."""
        self._bar.update()

    def write(
        self,
        step: int,
        metrics: Mapping[str, Any],
        *,
        examples: int,
        tokens: int,
        shares: Mapping[str, float] = types.MappingProxyType({}),
    ) -> None:
        """Logs the state of the run after `step`.

        Args:
          metrics: scalars, on the device or not; reading them waits for the step to end. `bad` is left out.
          examples, tokens: in one step, over all hosts.
          shares: each source's of the examples since the row before, of a run on several.
        """
        values = {name: float(value) for name, value in metrics.items() if name != "bad"}
        now = time.perf_counter()
        seconds, done = now - self._since, step - self._step
        values |= {
            "examples_per_second": examples * done / seconds,
            "tokens_per_second": tokens * done / seconds,
            "step_seconds": seconds / done,
            "data_wait_fraction": self._waited / seconds,
            **{f"data_share/{name}": share for name, share in shares.items()},
        }
        if self._compiled:
            values["compile_seconds"], self._compiled = self._compiled, 0.0
        elif self._waited / seconds > self._config.data_wait_warning:  # not at the first row: the pipeline was filling
            self._slow += 1
            if self._slow & (self._slow - 1) == 0:  # the 1st, 2nd, 4th, 8th … time
                logger.warning(
                    "%.0f %% of the time was spent waiting for input (train.data_wait_warning is %.0f %%): raise "
                    "data.workers or data.threads, or data.image_cache_mb until the images fit",
                    100 * values["data_wait_fraction"],
                    100 * self._config.data_wait_warning,
                )
        self._since, self._waited, self._step = now, 0.0, step
        state = f"loss {values['loss']:.3f}, {values['examples_per_second']:.1f} examples/s"
        self._bar.set_postfix_str(state)
        if self._bar.disable:  # no terminal: a line a logged step instead
            left = timedelta(seconds=round((self._steps - step) * values["step_seconds"]))
            logger.info("step %d of %d: %s, %s left", step, self._steps, state, left)
        self._write({"step": step, **values})

    def write_bad_step(self, step: int, *, loss: float, gradient_norm: float, examples: Sequence[str]) -> None:
        """Records a step whose update was not applied, with the ids of the examples behind it."""
        self._write(
            {"step": step, "bad": True, "loss": loss, "gradient_norm": gradient_norm, "examples": list(examples)}
        )

    def write_examples(self, step: int, names: Sequence[str]) -> None:
        """Writes which examples a step was made of."""
        if self._examples is not None:
            self._examples.write({"step": step, "examples": list(names)})

    def write_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """Logs validation figures; the time they took does not count as step time."""
        self._write({"step": step, **{f"validation/{name}": value for name, value in figures.items()}})
        self._since, self._step, self._waited = time.perf_counter(), step, 0.0

    def _write(self, row: Row) -> None:
        for writer in self._writers:
            writer.write(row)
        if self._growing is not None:
            self._growing.grew()
