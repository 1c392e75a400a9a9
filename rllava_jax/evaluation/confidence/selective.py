"""Rows of a calibrated model's evaluation: does the confidence hold, and the promised risk, on questions it never saw?

subset     all, family=identify, …
condition  every one that was evaluated. The promise is that of the condition it was measured under; the rows of a wrong
           region show what becomes of it
metric     coverage@risk=0.10        share of the questions that are answered at the threshold fixed on validation
           risk@risk=0.10            share of wrong ones among those answered (n of them), to be at most 0.10
           brier_calibrated, ece_calibrated, ece_equal_mass_calibrated
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.conditions import ALL
from data_pipelines.records import FAMILIES
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.intervals import Estimated, Estimator, Values
from rllava_jax.evaluation.metrics import Row, confidence_figures, make_row
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.inference.calibration import Calibration


def selective_rows(
    predictions: Sequence[Prediction], calibration: Calibration, *, bootstrap: int, seed: int
) -> list[Row]:
    """Coverage and risk at each target risk, and calibrated figures, with 95 % intervals by image.

    A risk that validation could not promise answers nothing: coverage 0 without an interval, and no row for the risk.

    Args:
      bootstrap: resamples behind each interval; 0 leaves the intervals out.
    """
    groups: dict[tuple[str, str, str], list[Prediction]] = defaultdict(list)
    for p in predictions:
        groups[p.dataset, p.split, p.condition].append(p)
    found: list[Row] = []
    for dataset, split in dict.fromkeys(key[:2] for key in groups):
        for subset in ("all", *(f"family={family}" for family in FAMILIES)):
            for condition in ALL:
                held = [
                    p for p in groups.get((dataset, split, condition), ()) if subset in ("all", f"family={p.family}")
                ]
                for metric, figure in _cells(held, calibration, Estimator(bootstrap, seed)) if held else ():
                    found.append(make_row(dataset, split, subset, condition, metric, *figure))
    return found


def log_prob_and_correctness(predictions: Sequence[Prediction]) -> tuple[Values, Values]:
    """Log-probability and 0/1 correctness of each prediction."""
    log_prob = np.array([p.log_prob for p in predictions], dtype=float)
    return log_prob, np.array([is_right(p) for p in predictions], dtype=float)


def _cells(
    held: Sequence[Prediction], calibration: Calibration, estimator: Estimator
) -> Iterator[tuple[str, Estimated]]:
    log_prob, correct = log_prob_and_correctness(held)
    _, images = np.unique([p.image_id for p in held], return_inverse=True)
    for risk in calibration.target_risks:
        stop = calibration.stop_at(risk)
        if stop is None:
            yield f"coverage@risk={risk:.2f}", (0.0, len(held), None)
            continue
        given = np.array([stop.gives(value) for value in log_prob])
        yield f"coverage@risk={risk:.2f}", estimator.mean(given.astype(float), images)
        if given.any():
            yield f"risk@risk={risk:.2f}", estimator.mean(1 - correct[given], images[given])
    confidence = calibration.confidence(log_prob)
    names = ("brier", "ece", "ece_equal_mass")
    for name, figure in confidence_figures(names, confidence, correct, images, estimator):
        yield f"{name}_calibrated", figure
