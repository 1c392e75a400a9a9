"""Fits what turns the probability of an answer into the chance that it is right.

Temperature scaling (Guo et al., 2017, "On calibration of modern neural networks") with a bias, on the log-odds of the
whole answer: sigmoid(logit(p) / T + b), by the likelihood of right and wrong on validation questions. It grows with p,
so that greedy answers, their order and AUROC stay what they were. docs/CONFIDENCE.md tells why this form.

Axes: S resamples, N questions.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from data_pipelines.core.errors import DataError
from data_pipelines.core.seeding import rng_for
from rllava_jax.evaluation.confidence.calibration import auroc, ones
from rllava_jax.evaluation.intervals import Estimator, Resampled, Values, Weights, bootstrap_interval
from rllava_jax.evaluation.metrics import confidence_figures
from rllava_jax.inference.calibration import Estimate, calibrated, log_odds

FOLDS = 5
# Below these the folds hold too few of either kind for the fit, and the bootstrap too few images for its intervals.
LEAST_QUESTIONS, LEAST_IMAGES, LEAST_OF_EACH = 100, 20, 10
_LARGEST = 20.0  # temperature, and one over the smallest


class Fit(NamedTuple):
    """Parameters of sigmoid(logit(p) / temperature + bias)."""

    temperature: float
    bias: float


def check_enough(correct: Values, images: Sequence[str], *, where: str) -> None:
    """Raises DataError where a fit would be noise: few questions, images, right or wrong answers."""
    right, n, pictures = int(correct.sum()), len(correct), len(set(images))
    if n < LEAST_QUESTIONS or pictures < LEAST_IMAGES:
        raise DataError(
            f"{where}: {n} questions on {pictures} images are too few to calibrate on; "
            f"ask at least {LEAST_QUESTIONS} on {LEAST_IMAGES}",
            code="calibration.too-few",
        )
    if min(right, n - right) < LEAST_OF_EACH:
        raise DataError(
            f"{where}: {right} of {n} answers are right; a calibration needs at least {LEAST_OF_EACH} right and "
            f"{LEAST_OF_EACH} wrong ones, so ask more questions",
            code="calibration.too-few",
        )


def fit(log_prob: Values, correct: Values, weights: Values | None = None) -> Fit:
    """The likeliest temperature and bias; the loss is convex in 1 / temperature and bias."""
    x, y = log_odds(log_prob), np.asarray(correct, dtype=float)
    share = np.ones_like(x) / len(x) if weights is None else weights / weights.sum()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        slope = share * (1 / (1 + np.exp(-z)) - y)
        return float(share @ (np.logaddexp(0, z) - y * z)), np.array([slope @ x, slope.sum()])

    bounds = [(1 / _LARGEST, _LARGEST), (None, None)]
    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds)
    return Fit(1 / float(best.x[0]), float(best.x[1]))


def fit_with_intervals(
    log_prob: Values, correct: Values, images: Sequence[str], *, resamples: int, seed: int, where: str
) -> tuple[Estimate, Estimate]:
    """Temperature and bias with 95 % intervals by image.

    Raises:
      DataError: confidence does not grow with the chance of being right; the line begins with `where`.
    """
    best = fit(log_prob, correct)
    if best.temperature > 0.99 * _LARGEST:
        value = float(auroc(ones(len(correct)), log_prob, correct)[0])
        raise DataError(
            f"{where}: confidence does not tell right answers from wrong ones (AUROC {value:.2f}); there is nothing to "
            "calibrate, train longer",
            code="calibration.uninformative",
        )

    def one(weights: Weights, place: int) -> Resampled:
        return np.array([fit(log_prob, correct, row)[place] for row in weights])

    estimates = []
    for place, value in enumerate(best):
        interval = bootstrap_interval(partial(one, place=place), images, resamples=resamples, seed=seed)
        estimates.append(Estimate(value, *(interval or (None, None))))
    return estimates[0], estimates[1]


def held_out_confidence(log_prob: Values, correct: Values, images: Sequence[str], *, seed: int) -> Values:
    """Calibrated confidence of each question by a fit to the other images: five folds, each image in one."""
    names, member = np.unique(images, return_inverse=True)
    fold = rng_for("folds", str(seed)).permutation(len(names))[member] % FOLDS
    found = np.empty(len(log_prob))
    for number in range(FOLDS):
        held = fold == number
        found[held] = calibrated(log_prob[held], *fit(log_prob[~held], correct[~held]))
    return found


def quality(
    confidence: Values, correct: Values, images: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """nll, brier, ece and ece_equal_mass of a confidence, with 95 % intervals by image."""
    names = ("nll", "brier", "ece", "ece_equal_mass")
    figures = confidence_figures(names, confidence, correct, images, Estimator(resamples, seed))
    return {name: Estimate(value, *(interval or (None, None))) for name, (value, _, interval) in figures}
