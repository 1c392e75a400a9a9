"""How long a run is, and after which steps it logs, saves and validates."""

from dataclasses import dataclass

from data_pipelines.core.errors import InvalidSetting, SettingConflict
from rllava_jax.config import Config
from rllava_jax.config.durations import parse_duration


@dataclass(frozen=True)
class RunLength:
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
        """Whether the model is validated after `step`; never, not even after the last, without a period."""
        return bool(self.evaluate) and self.due(step, self.evaluate)

    def logs(self, step: int) -> bool:
        """Whether `step` has a row in the log: every `log` steps, the first and the last."""
        return step % self.log == 0 or step in (1, self.steps)

    def logged_before(self, step: int) -> int:
        """The last step before `step` that has a row; 0 before the first."""
        return (step - 1) // self.log * self.log or int(step > 1)


def run_length(config: Config, *, examples_per_epoch: int) -> RunLength:
    """Reads every duration of the configuration against the size of the data.

    Raises:
      ConfigError: a duration that cannot be read, or a run without length.
    """
    train = config.train

    def steps(text: str, field: str, total: int | None = None) -> int | None:
        return parse_duration(
            text, batch_size=train.batch_size, examples_per_epoch=examples_per_epoch, total_steps=total, field=field
        )

    total = steps(train.duration, "train.duration")
    if not total:
        raise InvalidSetting(f"train.duration: {train.duration!r} is shorter than a step; write at least 1 step")
    warmup = steps(config.optimizer.warmup, "optimizer.warmup", total) or 0
    if warmup > total:
        raise SettingConflict(
            f"optimizer.warmup: {config.optimizer.warmup!r} is {warmup} steps, more than the run's {total}; shorten it"
        )
    return RunLength(
        total,
        warmup,
        steps(train.log_every, "train.log_every", total) or 1,
        steps(train.checkpoint_every, "train.checkpoint_every", total),
        steps(train.evaluate_every, "train.evaluate_every", total),
    )
