"""How often is an answer wrong if it is given only above some confidence? Upper bounds that hold with a stated chance.

Selective classification with guaranteed risk (Geifman & El-Yaniv, 2017, "Selective classification for deep neural
networks"): the error rate among the answers given is bounded by inverting the binomial tail, at a level divided by the
number of thresholds that are tried. They search for one threshold by bisection and divide by the steps of the search;
here twenty thresholds are fixed in advance by the share of questions that they answer, so that all bounds hold at once
and any risk can be asked afterwards, at the same price (log2 of 1,000 questions is ten steps).

Axes: N questions.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import beta  # type: ignore[import-untyped]

from rllava_jax.evaluation.intervals import Values
from rllava_jax.inference.calibration import Stop, calibrated

COVERAGES = 20


def binomial_upper_bound(wrong: float, answered: float, failure_chance: float) -> float:
    """Largest error rate at which so few errors have a chance of `failure_chance` (Clopper & Pearson, 1934).

    One-sided; 1 where every answer is wrong or none is given. Counts may be fractions, as Korn & Graubard's are.
    """
    if wrong >= answered:
        return 1.0
    return float(beta.ppf(1 - failure_chance, wrong + 1, answered - wrong))


def design_effect(correct: Values, images: Sequence[str]) -> float:
    """By how much the variance of the error rate exceeds that of as many independent questions; at least 1.

    The linearised variance between images (Kish, 1965) over the binomial one. Questions divided by it are the effective
    sample size, with which exact binomial bounds are used for clustered samples (Korn & Graubard, 1998, "Confidence
    intervals for proportions with small expected number of positive counts estimated from survey data").
    """
    wrong = 1 - correct
    rate, n = wrong.mean(), len(wrong)
    names, member = np.unique(np.asarray(images, dtype=str), return_inverse=True)
    count = len(names)
    if count < 2 or rate in (0, 1):
        return 1.0
    excess = np.bincount(member, weights=wrong - rate)
    between = count / (count - 1) * (excess**2).sum()
    return max(1.0, float(between / (n * rate * (1 - rate))))


def stops(
    log_prob: Values, correct: Values, images: Sequence[str], *, temperature: float, bias: float, failure_chance: float
) -> tuple[Stop, ...]:
    """Thresholds that answer 5, 10 … 100 % of the questions, with bounds that all hold with 1 - `failure_chance`.

    A threshold is the log-probability of the surest question that it withholds. Given it, those above are a sample of
    all that lie above, so that the binomial bound is exact for independent questions. Where several are equally sure
    they are withheld together, and a threshold that then answers none is left out.
    """
    names = np.asarray(images, dtype=str)
    of_all = design_effect(correct, images)
    ordered = np.sort(log_prob)[::-1]
    found: dict[int, Stop] = {}
    for step in range(1, COVERAGES + 1):
        place = -(-len(ordered) * step // COVERAGES)
        above = float(ordered[place]) if place < len(ordered) else None
        given = log_prob > (-np.inf if above is None else above)
        answered, wrong = int(given.sum()), int((1 - correct[given]).sum())
        if not answered or answered in found:
            continue
        # Not below that of all questions: of few answers or few errors it is a poor estimate.
        effect = max(of_all, design_effect(correct[given], names[given].tolist()))
        bound = binomial_upper_bound(wrong / effect, answered / effect, failure_chance / COVERAGES)
        confidence = 0.0 if above is None else float(calibrated(np.array([above]), temperature, bias)[0])
        found[answered] = Stop(above, confidence, answered, wrong, bound, effect)
    return tuple(found.values())
