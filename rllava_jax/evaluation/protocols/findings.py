"""Findings: yes or no for each, on every image."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from data_pipelines.core.errors import InvalidValue
from data_pipelines.core.values import is_number
from rllava_jax.evaluation import classification as statistics
from rllava_jax.evaluation.answers import exact_match, normalise_answer
from rllava_jax.evaluation.intervals import Statistic
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol


def probability_of_yes(item: Response) -> float | None:
    """`probability_yes` of the line, else its confidence (of an answer no its complement); None where it has neither.

    Raises:
      DataError: `probability_yes` is no number from 0 to 1.
    """
    given = item.fields.get("probability_yes")
    if given is not None:
        if not is_number(given) or not 0 <= given <= 1:
            raise InvalidValue(f"prediction {item.id!r}: probability_yes is {given!r}, expected a number from 0 to 1")
        return float(given)
    called = normalise_answer(item.prediction)
    if item.confidence is None or called not in ("yes", "no"):
        return None
    return item.confidence if called == "yes" else 1 - item.confidence


def _per_finding(
    compute: Callable[[Sequence[Response], np.ndarray], np.ndarray],
    items: Sequence[Response],
    everyone: Sequence[Response] = (),
) -> Statistic:
    """The mean over findings of a statistic of each one's items; of a single finding, the statistic itself."""
    of_finding = [item.content_type for item in items]
    places = [np.flatnonzero([name == finding for name in of_finding]) for finding in sorted(set(of_finding))]

    def statistic(weights: np.ndarray) -> np.ndarray:
        columns = [compute([items[p] for p in at.tolist()], weights[:, at]) for at in places]
        return statistics.macro(np.stack(columns, axis=1))

    return statistic


def _f1_of_finding(items: Sequence[Response], weights: np.ndarray) -> np.ndarray:
    called = np.array([normalise_answer(item.prediction) == "yes" for item in items])
    return statistics.binary_f1(weights, called, _positive(items))


def _auc(items: Sequence[Response], everyone: Sequence[Response] = ()) -> Statistic:
    """NaN where the whole file has not one probability. Were it each finding's own, one that nobody answered would
    leave the mean, which may rise by that."""
    if all(probability_of_yes(item) is None for item in everyone or items):
        return lambda weights: np.full(len(weights), np.nan)
    return _per_finding(_auc_of_finding, items)


def _auc_of_finding(items: Sequence[Response], weights: np.ndarray) -> np.ndarray:
    scores = [probability_of_yes(item) for item in items]
    positive = _positive(items)
    # What has no probability counts as wrong: ranked last if positive, first if not.
    ranked = [(-np.inf if p else np.inf) if s is None else s for s, p in zip(scores, positive, strict=True)]
    return statistics.binary_auc(weights, np.array(ranked), positive)


def _positive(items: Sequence[Response]) -> np.ndarray:
    return np.array([normalise_answer(item.answer) == "yes" for item in items])


FINDINGS = Protocol(
    name="findings",
    about="Yes or no for each finding (content_type), as zero-shot recognition on chest radiographs is scored: AUC, F1 "
    "of the answer yes and accuracy of each finding, and under all the means of AUC and F1 over findings.",
    source="this project; the measures of LLaVA-RadZ and of CheXpert's and ChestX-ray14's papers. AUC by Hanley & "
    "McNeil, Radiology 1982",
    faults=(
        "F1 is that of the answers as given. Papers often choose a threshold for each finding on the very test set, "
        "which lifts it.",
        "AUC takes probability_yes, or else the confidence of the whole answer (for no, its complement), which shares "
        "its probability with other wordings; what has neither counts as wrong: ranked last if positive, first if not.",
        "A finding whose references have no positive, or no negative, has no AUC and is not in the mean.",
        "A finding that no answer gives a probability has an AUC of 0, as long as any other has one.",
        "Accuracy under all is over questions and not over findings.",
    ),
    score=lambda item: {"accuracy": float(exact_match(item.answer, item.prediction))},
    metrics={"": ("auc", "f1", "accuracy")},
    counts=lambda item: bool(item.content_type) and normalise_answer(item.answer) in ("yes", "no"),
    subsets=lambda item: ("all", f"content_type={item.content_type}"),
    corpus={"auc": _auc, "f1": partial(_per_finding, _f1_of_finding)},
)
