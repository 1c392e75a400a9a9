"""What a run says while it trains: a progress bar, metrics.jsonl and TensorBoard; on request, examples.jsonl."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
import types
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from data_pipelines.core.append_log import GrowingFiles

logger = logging.getLogger(__name__)


class TrainingLog:
    """Writes one row per logged step. Only the first host writes."""

    def __init__(
        self, workdir: Path, *, first_step: int, steps: int, data_wait_warning: float = 1.0, examples: bool = False
    ):
        """Opens the logs.

        Args:
          first_step: steps already done; rows beyond it, from a run that was killed after its last checkpoint, are
            dropped, because the resumed run writes them again.
          data_wait_warning: share of the time spent waiting for input above which a warning says so.
          examples: the ids of each step's examples will be written too.
        """
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            desc="training",
            unit="step",
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._primary = jax.process_index() == 0
        self._since = time.perf_counter()
        self._waited = 0.0
        self._step, self._steps = first_step, steps
        self._data_wait_warning, self._slow, self._compiled = data_wait_warning, 0, 0.0
        self._examples_file = None
        if self._primary:
            self._growing = GrowingFiles(workdir, continued=("metrics.jsonl", "examples.jsonl"))
            self._file = _continued(self._growing.local / "metrics.jsonl", first_step)
            if examples:
                self._examples_file = _continued(self._growing.local / "examples.jsonl", first_step)
            self._board = SummaryWriter(str(self._growing.local / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._primary:
            self._file.close()
            self._board.close()
            if self._examples_file is not None:
                self._examples_file.close()
            self._growing.close()

    def sync(self) -> None:
        """Returns when what was logged would survive this machine; a local folder does as it is."""
        if self._primary and self._growing.remote:
            self._board.flush()
            self._growing.sync()

    def waited(self, seconds: float) -> None:
        """Adds time spent waiting for input."""
        self._waited += seconds

    def compiled(self, seconds: float) -> None:
        """The first step was compiled, which counts as no step's time."""
        self._compiled = seconds
        self._since += seconds
        logger.info("the training step was ready after %.1f s of compilation", seconds)

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
          metrics: scalars, on the device or not; reading them waits for the step to end.
          examples, tokens: in one step, over all hosts.
          shares: each source's of the examples since the row before, of a run on several.
        """
        values = {name: float(value) for name, value in metrics.items()}
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
        elif self._waited / seconds > self._data_wait_warning:  # not at the first row: the pipeline was filling then
            self._warn_of_input(values["data_wait_fraction"])
        self._since, self._waited, self._step = now, 0.0, step
        state = f"loss {values['loss']:.3f}, {values['examples_per_second']:.1f} examples/s"
        self._bar.set_postfix_str(state)
        if self._bar.disable:  # no terminal: a line a logged step instead
            left = timedelta(seconds=round((self._steps - step) * values["step_seconds"]))
            logger.info("step %d of %d: %s, %s left", step, self._steps, state, left)
        self._record(step, values)

    def _warn_of_input(self, fraction: float) -> None:
        self._slow += 1
        if self._slow & (self._slow - 1) == 0:  # the 1st, 2nd, 4th, 8th … time
            logger.warning(
                "%.0f %% of the time was spent waiting for input (train.data_wait_warning is %.0f %%): raise "
                "data.workers or data.threads, or data.image_cache_mb until the images fit",
                100 * fraction,
                100 * self._data_wait_warning,
            )

    def write_bad_step(self, step: int, *, loss: float, gradient_norm: float, examples: Sequence[str]) -> None:
        """Records a step whose update was not applied, with the ids of the examples behind it."""
        self._row({"step": step, "bad": True, "loss": loss, "gradient_norm": gradient_norm, "examples": list(examples)})

    def write_examples(self, step: int, names: Sequence[str]) -> None:
        """Writes which examples a step was made of."""
        if self._examples_file is not None:
            self._examples_file.write(json.dumps({"step": step, "examples": list(names)}) + "\n")
            self._examples_file.flush()

    def write_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """Logs validation figures; the time they took does not count as step time."""
        self._record(step, {f"validation/{name}": value for name, value in figures.items()})
        self._since, self._step, self._waited = time.perf_counter(), step, 0.0

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        if self._primary:
            self._row({"step": step, **values})
            for name, value in values.items():
                # TensorBoard allows none of these in a name.
                self._board.add_scalar(re.sub("[=:@]", "_", name), value, step)
            self._growing.grew()

    def _row(self, values: Mapping[str, Any]) -> None:
        if self._primary:
            # JSON has no word for what is not finite.
            finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()


def _continued(path: Path, step: int) -> TextIO:
    """The file, opened to be appended to, without its rows after `step`."""
    _keep_until(path, step)
    return path.open("a", encoding="utf-8")


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut
            continue
        number = row.get("step") if isinstance(row, dict) else None
        if not isinstance(number, int):
            logger.warning("%s: a row without a step is dropped: %s", path, line[:200])
        elif number <= step:
            kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)
