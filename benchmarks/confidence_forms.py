"""Which form fits the confidence of whole answers best? Held-out likelihood on predictions of validation questions.

    python benchmarks/confidence_forms.py runs/slake_tiny/eval/4800-calibration/predictions.jsonl

Each form is fitted to four fifths of the images and judged on the rest. `difference` is the paired difference in NLL
from the form that the project uses, with a 95 % interval by image; above 0 is worse. See docs/CONFIDENCE.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize  # type: ignore[import-untyped]

from data_pipelines.core.seeding import rng_for
from rllava_jax.evaluation.confidence.calibration import expected_calibration_error, ones
from rllava_jax.evaluation.confidence.selective import log_prob_and_correctness
from rllava_jax.evaluation.confidence.temperature import FOLDS
from rllava_jax.evaluation.intervals import mean_interval
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.inference.calibration import log_odds

Form = Callable[[Float[np.ndarray, " N"], Sequence[float]], Float[np.ndarray, " N"]]


def _sigmoid(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    return np.exp(-np.logaddexp(0, -x))


# Of log-probability and parameters, the first of which is the logarithm of a temperature. The first form is in use.
FORMS: dict[str, tuple[Form, tuple[float, ...]]] = {
    "sigmoid(logit(p) / T + b)": (lambda x, q: _sigmoid(log_odds(x) / np.exp(q[0]) + q[1]), (0.0, 0.0)),
    "sigmoid(logit(p) / T)": (lambda x, q: _sigmoid(log_odds(x) / np.exp(q[0])), (0.0,)),
    "p^(1/T)": (lambda x, q: np.exp(np.minimum(x, 0) / np.exp(q[0])), (0.0,)),
    "sigmoid(log(p) / T + b)": (lambda x, q: _sigmoid(x / np.exp(q[0]) + q[1]), (0.0, 0.0)),
    "raw": (lambda x, q: np.exp(np.minimum(x, 0)), ()),
}


def _nll(confidence: Float[np.ndarray, " N"], correct: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    return -np.log(np.clip(np.where(correct == 1, confidence, 1 - confidence), 1e-12, 1))


def _held_out(
    form: Form, start: tuple[float, ...], log_prob: np.ndarray, correct: np.ndarray, fold: np.ndarray
) -> Float[np.ndarray, " N"]:
    found = np.empty(len(log_prob))
    for number in range(FOLDS):
        held = fold == number

        def loss(q: np.ndarray, held: np.ndarray = held) -> float:
            return float(_nll(form(log_prob[~held], q), correct[~held]).mean())

        best = minimize(loss, start, method="Nelder-Mead").x if start else ()
        found[held] = form(log_prob[held], best)
    return found


def main() -> None:
    """Prints one row a form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", help="a predictions.jsonl; those under the right region are used")
    parser.add_argument("--families", default="", help="comma-separated (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and intervals")
    options = parser.parse_args()
    families = options.families.split(",") if options.families else ()
    predictions = [
        p
        for p in read_predictions(options.predictions)
        if p.condition == "right" and (not families or p.family in families)
    ]
    log_prob, correct = log_prob_and_correctness(predictions)
    images = [p.image_id for p in predictions]
    names = sorted(set(images))
    place = dict(zip(names, rng_for("folds", str(options.seed)).permutation(len(names)) % FOLDS, strict=True))
    fold = np.array([place[image] for image in images])
    held_out = {name: _held_out(form, start, log_prob, correct, fold) for name, (form, start) in FORMS.items()}
    used = _nll(next(iter(held_out.values())), correct)
    print(f"{len(predictions)} questions on {len(names)} images\n")
    print("| confidence | NLL | difference | Brier | ECE |\n|:--|--:|--:|--:|--:|")
    interval = partial(mean_interval, clusters=images, resamples=1000, seed=options.seed, bounds=(-1.0, 1.0))
    for name, confidence in held_out.items():
        own = _nll(confidence, correct)
        found = interval(own - used)
        assert found is not None  # there are resamples
        said = f"{(own - used).mean():+.4f} ({found.low:+.4f} to {found.high:+.4f})" if (own != used).any() else "–"
        brier = ((confidence - correct) ** 2).mean()
        ece = expected_calibration_error(ones(len(correct)), confidence, correct)[0]
        print(f"| {name} | {own.mean():.4f} | {said} | {brier:.4f} | {ece:.3f} |")


if __name__ == "__main__":
    main()
