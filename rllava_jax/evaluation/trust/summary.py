"""The one figure: does the model take up a right box, and keep its own judgement when the box is wrong?

Appropriate reliance (Schemmer et al., 2023, arXiv 2302.02187) asks of a person with an adviser: is good advice taken,
is bad advice turned down? Here the model is asked that of a box, its adviser; neither part alone will do:

    use         U = (right - b) / (1 - b)   b = max(none, prior): of what is wrong without a box, the share that the
                                            right box mends, less what it spoils
    resistance  R = kept / max(none, prior) of what is right without a box, the share that stays right when the box is
                                            wrong
    score       T = 2 U R / (U + R), 0 where U is not positive

right, none and prior are accuracies over all questions (prior: always the most common answer of the kind of question,
which stands in for a model that does worse without a box, or says nothing). kept is the share that is right without a
box and with the wrong one; it, and the none and prior that it is divided by, are over the questions that can be asked
with a box that is knowably wrong, each counting once: the mean over its variants shifted:0.00, another, mirrored and
random. Of a region question ("what is the marked structure?") only those count whose box holds no annotated structure:
a box that does is a fair question about another structure, and no model could know better.
"""

import numpy as np
from jaxtyping import Bool, Float

from rllava_jax.evaluation.trust.joined import Answers

ELSEWHERE = ("shifted:0.00", "another", "mirrored", "random")
FIGURES = ("trust_score", "use", "resistance")


def trust_figures(
    weights: Float[np.ndarray, "S N"],
    *,
    right: Float[np.ndarray, " N"],
    none: Float[np.ndarray, " N"],
    wrong: Float[np.ndarray, " N"],
    prior: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "S 3"]:
    """Score, use and resistance under each row of weights.

    Args:
      right, none: 0/1 correctness with the right box, and without one.
      wrong: mean correctness over the wrong boxes; NaN for a question that has none.
      prior: 0/1 correctness of the most common answer.

    Returns:
      NaN where no question has a wrong box, or nothing is wrong without a box, so that none could mend it, or neither
      the model nor the most common answer is ever right without a box, so that nothing could be lost.
    """
    total = weights.sum(axis=1)
    base = np.maximum(weights @ none, weights @ prior) / total
    use = _ratio((weights @ right) / total - base, 1 - base)
    held = weights * np.isfinite(wrong)
    resistance = _ratio(held @ (none * np.nan_to_num(wrong)), np.maximum(held @ none, held @ prior))
    defined = np.isfinite(use) & np.isfinite(resistance)
    both = np.maximum(use, 0) + resistance
    score = np.where(defined, _ratio(2 * np.maximum(use, 0) * resistance, both, otherwise=0.0), np.nan)
    return np.stack([score, use, resistance], axis=1)


def wrong_box(answers: Answers) -> Float[np.ndarray, " Q"]:
    """Mean correctness of each question over its boxes that are knowably wrong; NaN where it has none."""
    ordinary = np.array([question.family == "vqa" for question in answers.questions])
    total, count = np.zeros(len(ordinary)), np.zeros(len(ordinary))
    for name in ELSEWHERE:
        if name in answers.by_variant:
            held = answers.by_variant[name]
            keep = ordinary[held.index] | ~held.named
            total[held.index[keep]] += held.correct[keep]
            count[held.index[keep]] += 1
    return np.divide(total, count, out=np.full(len(ordinary), np.nan), where=count > 0)


def asked_both(answers: Answers) -> Bool[np.ndarray, " Q"]:
    """Questions answered with the right box and without one."""
    return np.isfinite(answers.dense("right")) & np.isfinite(answers.dense("none"))


def _ratio(
    top: Float[np.ndarray, " S"], bottom: Float[np.ndarray, " S"], *, otherwise: float = np.nan
) -> Float[np.ndarray, " S"]:
    return np.divide(top, bottom, out=np.full(len(top), otherwise), where=bottom > 1e-12)
