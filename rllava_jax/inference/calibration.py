"""A checkpoint's calibration: from the probability of an answer to the chance that it is right, and when to withhold.

`python -m rllava_jax.calibrate` fits it on validation questions and writes `checkpoints/STEP/assets/calibration.json`,
so that it travels, and is removed, with the weights it was measured on. See docs/CONFIDENCE.md.
Axes: N answers.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, TypeAdapter, with_config

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import ConfigError, InvalidOption
from rllava_jax.checkpoint.errors import DamagedCheckpoint
from rllava_jax.checkpoint.file_sums import sealed, unsealed
from rllava_jax.checkpoint.orbax_files import CALIBRATION_FILE

logger = logging.getLogger(__name__)

COMMAND = "python -m rllava_jax.calibrate --checkpoint"
# Half a float32 step below 1: what a decoder that sums float32 logarithms cannot tell from certainty.
_CERTAIN = -(2.0**-24)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where none could be drawn."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Stop:
    """A place to stop answering: answers whose log-probability is above `above` are given, the others withheld.

    Attributes:
      above: None gives every answer.
      confidence: calibrated, of an answer at `above`; 0 where every answer is given.
      answered: validation questions that are answered, and `wrong` those of them that are answered wrongly.
      risk_bound: upper bound of the error rate among answers given, for all stops of a calibration at once.
      design_effect: the counts were divided by this, because questions of one image are alike.
    """

    above: float | None
    confidence: float
    answered: int
    wrong: int
    risk_bound: float
    design_effect: float

    def gives(self, log_prob: float) -> bool:
        """Whether an answer of this log-probability is given."""
        return self.above is None or log_prob > self.above


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted on validation questions. `calibration.json` has its fields, and `sha256` of them.

    Attributes:
      temperature, bias: confidence = sigmoid(logit(p) / temperature + bias), p the probability of the answer.
      stops: from the fewest answers to all.
      target_risks: those that evaluations report, each 0 to 1.
      questions, images: how many were fitted on, of the split `split` of `dataset`, under `condition`, of `families`.
      accuracy: share of them answered rightly.
      before, after: nll, brier, ece and ece_equal_mass of the raw and of the calibrated confidence; the latter of each
        question by a fit to other images.
      failure_chance: chance that the bounds of the stops do not hold (delta of Geifman & El-Yaniv).
      max_new_tokens: the longest answer that was decoded.
      made_by: run, step, seed, resamples, revision and version.
    """

    temperature: Estimate
    bias: Estimate
    stops: tuple[Stop, ...]
    target_risks: tuple[float, ...]
    questions: int
    images: int
    accuracy: float
    dataset: str
    split: str
    condition: str
    families: tuple[str, ...]
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    failure_chance: float
    max_new_tokens: int
    made_by: dict[str, Any]

    def confidence(self, log_prob: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Calibrated confidence of answers of these log-probabilities; grows with them."""
        return calibrated(log_prob, self.temperature.value, self.bias.value)

    def coverage(self, stop: Stop) -> float:
        """Share of the validation questions that are answered."""
        return stop.answered / self.questions

    def stop_at(self, risk: float) -> Stop | None:
        """The stop that answers most while its bound is at most `risk`; None where no stop's is."""
        held = [stop for stop in self.stops if stop.risk_bound <= risk]
        return max(held, key=lambda stop: stop.answered, default=None)

    def stop_for(self, risk: float) -> Stop:
        """As `stop_at`.

        Raises:
          ConfigError: it is no risk, or none so low can be promised; names the lowest that can.
        """
        if not 0 < risk < 1:
            raise InvalidOption(f"--risk {risk:g}: is not a risk; write a share of wrong answers, above 0 and below 1")
        stop = self.stop_at(risk)
        if stop is None:
            lowest = min(self.stops, key=lambda stop: stop.risk_bound)
            at_least = math.ceil(lowest.risk_bound * 1000) / 1000
            raise ConfigError(
                f"--risk {risk:g}: cannot be promised from {self.questions} validation questions; the lowest that "
                f"can is {at_least:g}, at which {self.coverage(lowest):.0%} of them are answered",
                code="calibration.unattainable-risk",
            )
        return stop


def log_odds(log_prob: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Log-odds of probabilities given by their logarithms, finite for a probability that rounded to 1."""
    log_prob = np.minimum(np.asarray(log_prob, dtype=float), _CERTAIN)
    return log_prob - np.log(-np.expm1(log_prob))


def calibrated(log_prob: Float[np.ndarray, " N"], temperature: float, bias: float) -> Float[np.ndarray, " N"]:
    """sigmoid(log-odds / temperature + bias)."""
    scaled = log_odds(log_prob) / temperature + bias
    return np.exp(-np.logaddexp(0, -scaled))


def calibration_of(files: Mapping[str, bytes], *, checkpoint: Path) -> Calibration | None:
    """The calibration among a checkpoint's assets, or None.

    Raises:
      CheckpointError: it is damaged; names the file and the command that makes it anew.
    """
    if CALIBRATION_FILE not in files:
        return None
    try:
        fields, summed = unsealed(files[CALIBRATION_FILE])
        calibration = TypeAdapter(Calibration).validate_python(fields)
        values = (calibration.temperature.value, calibration.bias.value)
        if not (all(math.isfinite(value) for value in values) and values[0] > 0 and calibration.stops):
            raise ValueError("its temperature, bias or stops are none")
    except ValueError as error:  # pydantic's, too
        path, reason = checkpoint / "assets" / CALIBRATION_FILE, " ".join(str(error).split())
        raise DamagedCheckpoint(f"{path}: damaged ({reason}); fit it anew: {COMMAND} {checkpoint}") from None
    if not summed:
        logger.warning("%s: has no checksum, as those of before had none; taken as it is", checkpoint / "assets")
    return calibration


def write_calibration(checkpoint: Path, calibration: Calibration) -> Path:
    """Puts a calibration among the assets of checkpoints/STEP, whole or not at all, a field a line; returns its file.

    Orbax lists no assets, and the file has its own checksum: nothing else of the checkpoint changes.
    """
    path = checkpoint / "assets" / CALIBRATION_FILE
    fields = sealed(dataclasses.asdict(calibration))
    lines = (f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items())
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def stored_calibration(checkpoint: Path) -> Calibration | None:
    """The calibration of a checkpoints/STEP folder, or None. Raises as `calibration_of`."""
    path = checkpoint / "assets" / CALIBRATION_FILE
    files = {CALIBRATION_FILE: path.read_bytes()} if path.is_file() else {}
    return calibration_of(files, checkpoint=checkpoint)
