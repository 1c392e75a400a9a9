"""When the runs cannot carry a scaling law: each reason in words and numbers.

A law of four parameters follows any few points closely. What tells a law from a curve through noise is checked before
the fit (do the runs vary enough, and together?) and after it (are the exponents known, does the law predict a run that
it was not fitted to?). A refused law's parameters are not reported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import chi2  # type: ignore[import-untyped]

from rllava_jax.scaling_laws.fit import EXPONENT, EXPONENT_BOUNDS, Factor, Law
from rllava_jax.scaling_laws.points import FitTarget, Point

MARGIN = 4  # runs beyond the number of parameters
LEAST_LEVELS = 3  # distinct values of a factor: two points lie on any curve
LEAST_RANGE = 4.0  # greatest over smallest value of a factor
MOST_CORRELATION = 0.9  # of log X and log D
FLAT_LEVEL = 0.05  # below this probability the losses' spread is more than their own sampling errors
LEAST_CONVERGED = 0.9  # share of resamples whose fit came to a minimum
# A law that misses the losses by more than so many sampling errors, and by more than so much of them, has another shape
# than they. Seeds move a loss too, so some misfit is right; with very many questions a tiny one is significant.
MOST_MISFIT = 3.0
TOLERATED_RESIDUAL = 0.05
CEILING = 1.0  # of every loss here

_NAMES: dict[Factor, str] = {"size": "X (size)", "data": "D (data)"}


class Refusal(NamedTuple):
    """Why there is no law. `code` is stable, `reason` is for people."""

    code: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A template's fit or refusal.

    Attributes:
      law: None where the fit was refused.
      intervals: 95 % intervals of the law's parameters, by name.
      left_out_error: mean absolute error at a run that the law was not fitted to.
      left_out_error_of_mean: the same when that run's loss is guessed as the mean of the others.
      log_residual: root mean square of the residuals of log L.
    """

    template: FitTarget
    points: tuple[Point, ...]
    refusals: tuple[Refusal, ...] = ()
    law: Law | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    left_out_error: float = 0.0
    left_out_error_of_mean: float = 0.0
    log_residual: float = 0.0


def before_fit(points: Sequence[Point], factors: Sequence[Factor]) -> Iterator[Refusal]:
    """What forbids a fit of these points, all reasons; nothing when it may be tried."""
    needed = len(factors) + 2 + MARGIN
    if len(points) < needed:
        reason = f"{len(points)} runs for {needed - MARGIN} parameters; at least {needed} are needed"
        yield Refusal("too_few_runs", f"{reason} ({MARGIN} more than parameters)")
    for factor in factors:
        yield from _ill_spread(points, factor)
    varied = all(len({getattr(point, factor) for point in points}) > 1 for factor in factors)
    if len(factors) == 2 and varied and len(points) > 2:
        correlation = float(np.corrcoef(np.log([[point.size, point.data] for point in points]).T)[0, 1])
        if abs(correlation) > MOST_CORRELATION:
            yield Refusal(
                "factors_confounded",
                f"log X and log D are correlated at {correlation:.2f} (at most {MOST_CORRELATION:g} is allowed): "
                "larger models were trained on more or on less, so alpha and beta cannot be told apart; cross them",
            )
    yield from _ill_valued(points)


def after_fit(outcome: Outcome, law: Law, *, converged: float, misfit: float) -> Iterator[Refusal]:
    """What forbids reporting a fitted law.

    Args:
      converged: share of the resamples whose fit came to a minimum.
      misfit: root mean square of the residuals of L, each over its loss's sampling error.
    """
    if not law.converged or converged < LEAST_CONVERGED:
        which = f"{1 - converged:.0%} of the resampled fits" if law.converged else "the fit"
        yield Refusal("not_converged", f"{which} came to no minimum: many laws fit these runs equally well")
    yield from _exponents(law, outcome.intervals)
    if outcome.left_out_error >= outcome.left_out_error_of_mean:
        yield Refusal(
            "no_better_than_mean",
            f"a left-out run's loss is missed by {outcome.left_out_error:.3g} on average, by "
            f"{outcome.left_out_error_of_mean:.3g} when guessed as the mean of the others: the law predicts nothing",
        )
    if misfit > MOST_MISFIT and outcome.log_residual > TOLERATED_RESIDUAL:
        yield Refusal(
            "other_shape",
            f"the law misses the losses it was fitted to by {outcome.log_residual:.0%}, {misfit:.1f} times their "
            f"sampling errors (at most {MOST_MISFIT:g} is allowed): they do not follow this form",
        )


def _exponents(law: Law, intervals: Mapping[str, tuple[float, float]]) -> Iterator[Refusal]:
    low, high = EXPONENT_BOUNDS
    for name, value in law.named_exponents().items():
        if min(abs(value - low), abs(value - high)) < 1e-3:
            yield Refusal(
                "exponent_at_bound",
                f"{name} ended at {value:.3g}, the edge of what was searched ({low:g} to {high:g}): the runs do not "
                "tell a power of it from a step",
            )
    for name, value in law.named_exponents().items():
        if name in intervals and intervals[name][0] <= 0:
            below = "is below 0: more of it went with more loss" if intervals[name][1] < 0 else "includes 0"
            yield Refusal(
                "exponent_includes_zero",
                f"{name} = {value:.3g}, and its 95 % interval, {intervals[name][0]:.3g} to "
                f"{intervals[name][1]:.3g}, {below}: no gain is shown",
            )


def _ill_spread(points: Sequence[Point], factor: Factor) -> Iterator[Refusal]:
    values = np.array([getattr(point, factor) for point in points], float)
    levels, ratio = len(set(values)), values.max() / values.min()
    remedy = f"vary it, or fit without it (--without {factor})"
    if levels == 1:
        reason = f"{_NAMES[factor]} is {values[0]:,.0f} in every run, so {EXPONENT[factor]} is not identifiable"
        yield Refusal(f"{factor}_constant", f"{reason}; {remedy}")
        return
    if levels < LEAST_LEVELS:
        reason = f"{_NAMES[factor]} has {levels} distinct values, which lie on any curve; {LEAST_LEVELS} are needed"
        yield Refusal(f"{factor}_levels", f"{reason}; {remedy}")
    if ratio < LEAST_RANGE:
        reason = f"{_NAMES[factor]} goes from {values.min():,.0f} to {values.max():,.0f}, a factor of {ratio:.2g}"
        yield Refusal(f"{factor}_range", f"{reason}; {LEAST_RANGE:g} is needed; {remedy}")


def _ill_valued(points: Sequence[Point]) -> Iterator[Refusal]:
    losses: Float[np.ndarray, " N"] = np.array([point.loss for point in points])
    if losses.size and losses.min() <= 0:
        names = ", ".join(point.run for point in points if point.loss <= 0)
        yield Refusal("loss_zero", f"the loss is 0 in {names}: its logarithm is not finite; ask more questions")
        return
    if losses.size and losses.max() >= CEILING:
        reached = [point.run for point in points if point.loss >= CEILING]
        yield Refusal(
            "loss_at_ceiling",
            f"the loss is {CEILING:g}, the most it can be, in {len(reached)} of {len(points)} runs "
            f"({', '.join(reached)}): a power law does not bend to a ceiling, and these runs have not begun to "
            "answer; train them longer, or leave them out of the command",
        )
        return
    errors = np.array([point.error for point in points])
    if len(points) < 2 or errors.min() <= 0:
        return
    weights = 1 / errors**2
    mean = float((weights * losses).sum() / weights.sum())
    statistic, freedom = float((weights * (losses - mean) ** 2).sum()), len(points) - 1
    probability = float(chi2.sf(statistic, freedom))
    if probability >= FLAT_LEVEL:
        yield Refusal(
            "flat_within_noise",
            f"the losses go from {losses.min():.3g} to {losses.max():.3g}, no more than their sampling errors of about "
            f"{np.median(errors):.2g} explain (chi-squared {statistic:.1f} at {freedom} degrees of freedom, "
            f"p = {probability:.2g})",
        )
