"""Fits the scaling law L(X, D) = A · X^-α · D^-β + E to the losses of several runs, with intervals.

X is the model's size, D the amount of data, E what is left of the loss however large both become. The form is that of
Zhang et al. 2024 (arXiv 2402.17193, "joint multiplicative scaling law"). The procedure is Hoffmann et al. 2022's (arXiv
2203.15556, section 3.3, approach 3): the Huber loss of the residuals of log L is minimised by L-BFGS from several
starts, of which the best end counts. As Besiroglu et al. 2024 (arXiv 2404.10102) found necessary, the loss is summed
rather than averaged and the tolerance is tight, because the optimiser otherwise stops early.

Letters: N runs, F factors (of "size" and "data", those that are fitted), P = F + 2 parameters, S resamples.
The parameters inside are (a, exponents, E), where a is the logarithm of the reducible loss at the geometric mean of the
factors: there it hardly depends on the exponents, at X = D = 1 it would be all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.stats import norm  # type: ignore[import-untyped]
from scipy.stats import t as student
from tqdm import tqdm

Factor = Literal["size", "data"]
FACTORS: tuple[Factor, ...] = get_args(Factor)
EXPONENT: dict[Factor, str] = {"size": "alpha", "data": "beta"}
EXPONENT_BOUNDS = (-1.0, 3.0)  # both signs: whether more helps at all is what the interval has to say
LEVEL = 0.95

_AMPLITUDE_ROOM = 12.0  # of a, beyond the losses' logarithms on either side
_STARTS_OF_E = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.97)  # as shares of the smallest loss


@dataclass(frozen=True)
class Law:
    """A fitted law.

    Attributes:
      factors: which of size and data it has.
      exponents: of each factor.
      a: logarithm of the reducible loss, L - E, at `centre`.
      irreducible: E.
      centre: geometric mean of each factor over the runs.
      converged: whether the optimiser came to a minimum.
    """

    factors: tuple[Factor, ...]
    exponents: tuple[float, ...]
    a: float
    irreducible: float
    centre: tuple[float, ...]
    converged: bool

    @property
    def amplitude(self) -> float:
        """A, at X = D = 1."""
        return float(np.exp(self.a + np.dot(self.exponents, np.log(self.centre))))

    def predict(self, values: Float[np.ndarray, "... F"]) -> Float[np.ndarray, "..."]:
        """The loss at the factors' values."""
        logs = np.log(values) - np.log(self.centre)
        return np.exp(self.a - logs @ np.asarray(self.exponents)) + self.irreducible

    def named_exponents(self) -> dict[str, float]:
        """Alpha and beta, those that it has, by name."""
        return {EXPONENT[factor]: value for factor, value in zip(self.factors, self.exponents, strict=True)}

    def parameters(self) -> dict[str, float]:
        """A, alpha, beta and E, those that it has, by name."""
        return {"A": self.amplitude, **self.named_exponents(), "E": self.irreducible}


def fit(
    factors: Sequence[Factor],
    values: Float[np.ndarray, "N F"],
    losses: Float[np.ndarray, " N"],
    *,
    delta: float,
    start: Law | None = None,
) -> Law:
    """The law whose Huber loss is least.

    Args:
      values: of each run's factors, positive.
      losses: positive.
      delta: where the Huber loss turns from squares to absolute values, in log L; large is least squares.
      start: a law nearby; then few other starts are tried.
    """
    centre = np.exp(np.log(values).mean(axis=0))
    logs = np.log(values) - np.log(centre)
    log_losses = np.log(losses)
    objective = _objective(logs, log_losses, delta)
    amplitude = (float(log_losses.min()) - _AMPLITUDE_ROOM, float(log_losses.max()) + _AMPLITUDE_ROOM)
    bounds = [amplitude, *[EXPONENT_BOUNDS] * len(factors), (0.0, float(losses.max()))]
    starts = sorted(_starts(logs, losses, bounds), key=lambda theta: objective(theta)[0])
    if start is not None:
        shift = np.log(start.centre) - np.log(centre)
        near = np.array([start.a + shift @ np.asarray(start.exponents), *start.exponents, start.irreducible])
        starts = [np.clip(near, *np.transpose(bounds)), *starts[:1]]
    ends = [
        minimize(
            objective, theta, jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-13, "gtol": 1e-7},
        )
        for theta in starts
    ]  # fmt: skip
    best = min(ends, key=lambda end: end.fun)
    a, *exponents, irreducible = (float(value) for value in best.x)
    # A line search can give up at the very minimum, for want of digits; then another start that got there says so.
    converged = any(end.success and end.fun - best.fun <= 1e-6 * (1 + best.fun) for end in ends)
    return Law(tuple(factors), tuple(exponents), a, irreducible, tuple(map(float, centre)), converged)


def bootstrap(
    law: Law,
    values: Float[np.ndarray, "N F"],
    losses: Float[np.ndarray, " N"],
    *,
    delta: float,
    resamples: int,
    seed: int,
    title: str = "",
) -> list[Law]:
    """The law fitted to resampled losses: its own predictions times the residuals of runs drawn at random.

    Runs are not drawn themselves: the sizes and durations were chosen, and of ten runs a draw often lacks all but two
    sizes. Residuals are centred and widened by sqrt(N / (N - P)), because a fit comes closer to its own data than to
    the truth (Davison & Hinkley 1997, section 6.2).

    Args:
      title: of the progress bar; there is none without.
    """
    predicted = law.predict(values)
    residuals = np.log(losses) - np.log(predicted)
    count, parameters = len(losses), len(law.factors) + 2
    spread = (residuals - residuals.mean()) * np.sqrt(count / max(count - parameters, 1))
    rng = np.random.default_rng(seed)
    found = []
    for _ in tqdm(range(resamples), desc=title, unit="fit", disable=None if title else True, leave=False):
        drawn = predicted * np.exp(rng.choice(spread, count))
        found.append(fit(law.factors, values, drawn, delta=delta, start=law))
    return found


def interval(values: Sequence[float], *, freedom: int) -> tuple[float, float]:
    """The 95 % interval of resampled values, with tails as thin as Student's with N - P degrees of freedom are wide.

    Resampling takes the spread of the residuals for known, as the normal distribution does; with a handful of runs that
    makes the plain percentiles too narrow. This is Hesterberg's expanded percentile interval (arXiv 1411.5279).
    """
    tail = float(norm.cdf(student.ppf((1 - LEVEL) / 2, freedom)))
    low, high = np.quantile(np.asarray(values), [tail, 1 - tail])
    return float(low), float(high)


def left_out_predictions(
    law: Law, values: Float[np.ndarray, "N F"], losses: Float[np.ndarray, " N"], *, delta: float
) -> Float[np.ndarray, " N"]:
    """Each run's loss as the law predicts it when fitted to the others."""
    predicted = []
    for run in range(len(losses)):
        kept = np.arange(len(losses)) != run
        without = fit(law.factors, values[kept], losses[kept], delta=delta, start=law)
        predicted.append(float(without.predict(values[run])))
    return np.array(predicted)


def _objective(
    logs: Float[np.ndarray, "N F"], log_losses: Float[np.ndarray, " N"], delta: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Sum of Huber's loss over the runs, in units of delta squared, and its gradient."""

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        reducible = np.exp(theta[0] - logs @ theta[1:-1])
        predicted = reducible + theta[-1]
        residuals = (log_losses - np.log(predicted)) / delta
        size = np.abs(residuals)
        loss = np.where(size <= 1, residuals**2 / 2, size - 0.5).sum()
        share = reducible / predicted
        jacobian = np.column_stack([-share, share[:, None] * logs, -1 / predicted]) / delta
        return float(loss), np.clip(residuals, -1, 1) @ jacobian

    return value_and_gradient


def _starts(
    logs: Float[np.ndarray, "N F"], losses: Float[np.ndarray, " N"], bounds: Sequence[tuple[float, float]]
) -> list[np.ndarray]:
    """For several E the straight line through log(L - E), which is exact where E is."""
    design = np.column_stack([np.ones(len(losses)), -logs])
    low, high = np.transpose(bounds)
    starts = []
    for share in _STARTS_OF_E:
        irreducible = share * losses.min()
        line = np.linalg.lstsq(design, np.log(losses - irreducible), rcond=None)[0]
        starts.append(np.clip([*line, irreducible], low, high))
    return starts
