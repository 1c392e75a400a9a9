"""Classification: an answer names one of several classes."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from data_pipelines.core.errors import InvalidValue, MissingField
from data_pipelines.core.values import is_number
from rllava_jax.evaluation import classification as statistics
from rllava_jax.evaluation.answers import exact_match, normalise_answer
from rllava_jax.evaluation.intervals import Statistic
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol


def _classes(items: Sequence[Response]) -> tuple[list[str], np.ndarray]:
    """Every reference, normalised, in alphabetical order; and the number of each item's."""
    names, wanted = np.unique([normalise_answer(item.answer) for item in items], return_inverse=True)
    return names.tolist(), wanted


def _macro(
    of_classes: Callable[..., np.ndarray], items: Sequence[Response], everyone: Sequence[Response] = ()
) -> Statistic:
    """The mean over classes of a statistic of answers."""
    names, wanted = _classes(items)
    number = {name: place for place, name in enumerate(names)}
    predicted = np.array([number.get(normalise_answer(item.prediction), -1) for item in items])
    return lambda weights: statistics.macro(of_classes(weights, predicted, wanted, len(names)))


def _auc_macro(items: Sequence[Response], everyone: Sequence[Response] = ()) -> Statistic:
    """NaN where the file has no `scores`. A question without an answer is ranked last for its class, first for others.

    Raises:
      DataError: some answers have scores and others none, or not for every class.
    """
    names, wanted = _classes(items)
    answered = [item for item in everyone or items if item.predictions]
    lacking = [item for item in answered if "scores" not in item.fields]
    if len(lacking) == len(answered):
        return lambda weights: np.full(len(weights), np.nan)
    if lacking:
        raise MissingField(
            f"prediction {lacking[0].id!r}: lacks scores, which others have; give every prediction its scores, or none"
        )
    scores = np.array([_class_scores(item, names) for item in items])
    return lambda weights: statistics.macro(statistics.class_auc(weights, scores, wanted))


def _class_scores(item: Response, names: Sequence[str]) -> list[float]:
    if not item.predictions:
        return [-math.inf if name == normalise_answer(item.answer) else math.inf for name in names]
    given = item.fields["scores"]
    if not isinstance(given, Mapping):
        raise InvalidValue(f"prediction {item.id!r}: scores is {given!r}, expected an object of class and number")
    by_name = {normalise_answer(name): value for name, value in given.items()}
    if lacking := [name for name in names if name not in by_name]:
        # A run's own predictions.jsonl has what each answer scored under this name.
        raise MissingField(
            f"prediction {item.id!r}: scores is of {', '.join(map(repr, by_name)) or 'nothing'}, and lacks the class "
            f"{lacking[0]!r}; write a number for each of the {len(names)} classes, or take the field scores out of all "
            "lines, which leaves out AUC"
        )
    for name in names:
        value = by_name[name]
        if not is_number(value):
            raise InvalidValue(
                f"prediction {item.id!r}: scores[{name!r}] is {value!r}, expected a number for every class"
            )
    return [float(by_name[name]) for name in names]


CLASSIFICATION = Protocol(
    name="classification",
    about="One class of several: accuracy, macro F1, balanced accuracy, and macro AUC of each class against the rest "
    "where predictions carry scores, an object of class and number. The classes are the references; the rows "
    "class=NAME are each class's recall.",
    source="this project; F1 and balanced accuracy as scikit-learn defines them, AUC by Hanley & McNeil, Radiology "
    "1982",
    faults=(
        "An answer that is no class counts as wrong, and against the F1 of the reference's class alone.",
        "For AUC a question without an answer is ranked last for its own class and first for every other.",
        "A class that no reference names does not exist: its false alarms cost nothing but the right answer.",
    ),
    score=lambda item: {"accuracy": float(exact_match(item.answer, item.prediction))},
    metrics={"": ("accuracy",), "all": ("accuracy", "f1_macro", "balanced_accuracy", "auc_macro")},
    subsets=lambda item: ("all", f"class={normalise_answer(item.answer)}"),
    corpus={
        "f1_macro": partial(_macro, statistics.class_f1),
        "balanced_accuracy": partial(_macro, statistics.class_accuracy),
        "auc_macro": _auc_macro,
    },
)
