"""What an evaluation measures: every metric once, and the rows of metrics.json that it stands in.

To add a metric, add it to `METRICS`. A row is one number:
{dataset, split, subset, condition, metric, value, n, ci_low, ci_high}.

subset     all                         every question, all families
           family=identify, …          one question family; family=vqa are the data set's own questions
           has_region=yes              ordinary questions that have a region: the only ones on which right, none and
                                       wrong differ
           answer_type=closed|open     ordinary questions; closed is the published score, over *all* closed ones
           answer_type=yes_no          the closed ones whose reference is yes or no
           content_type=…, modality=…  ordinary questions
condition  right, none, wrong, blank   or another of `data_pipelines/conditions.py` that was evaluated
           wrong:shifted, …            those of the wrong condition that were shown this kind
           right-none, …               the difference on the same questions, question by question
           right-detected, …           against the box that the model found itself
metric     a key of `METRICS`
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from typing_extensions import TypedDict  # of which pydantic reads rows, before Python 3.12

from data_pipelines.conditions import DETECTED, MAIN
from data_pipelines.records import FAMILIES
from rllava_jax.evaluation import answers
from rllava_jax.evaluation.confidence import calibration
from rllava_jax.evaluation.intervals import Clusters, Estimated, Estimator, Interval, Resampled, Values, Weights
from rllava_jax.evaluation.predictions import Answered

CONDITIONS = MAIN  # those of every evaluation
_ORDER = ("all", "family=", "has_region=", "answer_type=closed", "answer_type=yes_no", "answer_type=open",
          "content_type=", "modality=")  # fmt: skip
_FAMILY_PLACES = {f"family={family}": place for place, family in enumerate(FAMILIES)}
# In the order of the headline table; the first that was evaluated is also the one of the report's tiles.
HEADLINE = ("family=identify", "family=verify", "family=choose", "has_region=yes", "family=vqa", "family=localise")

_Statistic = Callable[[Weights, Values, Values], Resampled]


@dataclass(frozen=True)
class Metric:
    """A metric, and how it comes from answers; without a function its row is made by the module that names it.

    Attributes:
      better: "" where neither more nor less is.
      of_answer: the score of an answered question. Its row is the mean, and it stands in predictions.jsonl.
      subset: of the questions that have `of_answer`, and of the rows it stands in; "" is every one but `not_in`.
      not_in: subsets that have scores of their own in its place.
      of_confidence: (confidence, correct) → a value of each question; the row is their mean.
      statistic: (weights, confidence, correct) → a value of each resample.
      most: greatest possible value of `of_confidence`.
      always: a metric of confidence that every evaluation reports.
      label: what reports call it, where that is not its name.
    """

    better: Literal["higher", "lower", ""]
    of_answer: Callable[[Answered], float] | None = None
    subset: str = ""
    not_in: tuple[str, ...] = ()
    of_confidence: Callable[[Values, Values], Values] | None = None
    statistic: _Statistic | None = None
    most: float = 1.0
    always: bool = False
    label: str = ""


_OPEN, _LOCALISE = "answer_type=open", "family=localise"

METRICS: dict[str, Metric] = {
    "accuracy": Metric("higher", answers.is_right, not_in=(_OPEN, _LOCALISE)),  # normalised equality
    "exact_match": Metric("higher", answers.is_right, _OPEN, label="exact match"),
    "recall": Metric("higher", answers.best(answers.token_recall), _OPEN, label="token recall"),
    "precision": Metric("higher", answers.best(answers.token_precision), _OPEN, label="token precision"),
    "f1": Metric("higher", answers.best(answers.token_f1), _OPEN, label="token F1"),
    "accuracy@0.5": Metric("higher", answers.is_right, _LOCALISE, label="IoU of at least 0.5"),
    "iou": Metric("higher", answers.localisation_iou, _LOCALISE, label="mean IoU"),
    "confidence": Metric("", of_confidence=lambda confidence, correct: confidence, always=True),
    "brier": Metric("lower", of_confidence=calibration.brier_score, always=True),
    "nll": Metric("lower", of_confidence=calibration.negative_log_likelihood, most=np.inf),
    "confident_errors": Metric("lower", of_confidence=calibration.confident_error),
    "ece": Metric("lower", statistic=calibration.expected_calibration_error, always=True),
    "ece_equal_mass": Metric("lower", statistic=calibration.ece_equal_mass),
    "auroc": Metric("higher", statistic=calibration.auroc, always=True),
    "aurc": Metric("lower", statistic=calibration.aurc),
    **dict.fromkeys(("box_found", "box_iou"), Metric("higher")),  # detected_regions.py
    **dict.fromkeys(("trust_score", "use", "resistance"), Metric("higher")),  # trust/
    **dict.fromkeys(("lost", "lost_from_none", "followed"), Metric("lower")),
    **dict.fromkeys(("followed_anyway", "unavailable", "not_asked"), Metric("")),
}
CONFIDENCE_METRICS = tuple(name for name, metric in METRICS.items() if metric.always)


def subsets_of(question: Answered) -> tuple[str, ...]:
    """Those that a question belongs to."""
    names = ["all", f"family={question.family}"]
    if question.family == "vqa":
        if question.has_region:
            names.append("has_region=yes")
        names.append(f"answer_type={question.answer_type}")
        if question.answer_type == "closed" and answers.normalise_answer(question.answer) in ("yes", "no"):
            names.append("answer_type=yes_no")
        if question.content_type:
            names.append(f"content_type={question.content_type}")
        if question.modality:
            names.append(f"modality={question.modality}")
    return tuple(names)


def rank(subset: str) -> tuple[int, int, str]:
    """Sorts subsets into the order of their rows: families in their own, others of a kind by name, and kinds that a
    protocol alone has last."""
    place = next((i for i, prefix in enumerate(_ORDER) if subset.startswith(prefix)), len(_ORDER))
    return place, _FAMILY_PLACES.get(subset, 0), subset


def has_confidence_rows(subset: str) -> bool:
    """Whether the subset has rows on what the confidence of its answers is worth."""
    return subset == "all" or subset.startswith("family=")


def metrics_of(subset: str) -> tuple[str, ...]:
    """The scores that a subset reports, its main one first."""
    return tuple(
        name
        for name, metric in METRICS.items()
        if metric.of_answer and metric.subset in ("", subset) and subset not in metric.not_in
    )


def confidence_figures(
    names: Sequence[str], confidence: Values, correct: Values, images: Clusters, estimator: Estimator
) -> Iterator[tuple[str, Estimated]]:
    """The named metrics of a confidence (of `METRICS`); an undefined one (no AUROC where all are right) is left
    out."""
    for name in names:
        metric = METRICS[name]
        if metric.of_confidence is not None:
            values = metric.of_confidence(confidence, correct)
            yield name, estimator.mean(values, images, bounds=(0.0, metric.most))
        elif (of := metric.statistic) is not None:

            def statistic(weights: Weights, of: _Statistic = of) -> Resampled:
                return of(weights, confidence, correct)

            figure = estimator.statistic(statistic, images)
            if figure is not None:
                yield name, figure


def scores_of(prediction: Answered) -> dict[str, float]:
    """Every score of one answer, 0 to 1.

    `accuracy` is always there: normalised equality, or for localise an IoU of at least 0.5. An open ordinary question
    adds exact_match (the same number under its published name), recall, precision and f1; localise adds accuracy@0.5
    and iou. Where the data set accepts further answers, each score is the best over all of them, by itself: recall and
    precision may be those of two of them.
    """
    subsets = ("", *subsets_of(prediction))
    return {
        name: metric.of_answer(prediction)
        for name, metric in METRICS.items()
        if metric.of_answer is not None and metric.subset in subsets
    }


class Measured(TypedDict):
    """What a number is of."""

    dataset: str
    split: str
    subset: str
    condition: str
    metric: str


class Row(Measured):
    """One number of a result. ci_low and ci_high are None where no interval could be drawn."""

    value: float
    n: int
    ci_low: float | None
    ci_high: float | None


def make_row(
    dataset: str, split: str, subset: str, condition: str, metric: str, value: float, n: int, interval: Interval | None
) -> Row:
    """A row; without an interval both its ends are None."""
    low, high = interval or (None, None)
    return Row(
        dataset=dataset, split=split, subset=subset, condition=condition, metric=metric,
        value=value, n=n, ci_low=low, ci_high=high,
    )  # fmt: skip


class Contrast(NamedTuple):
    """A difference `first - second` of two conditions on the same questions.

    needs_region: only questions that have a region take part, because for the others both conditions show the same.
    """

    first: str
    second: str
    needs_region: bool


CONTRASTS = (
    Contrast("right", "none", True),
    Contrast("none", "wrong", True),
    Contrast("right", "blank", False),
    Contrast("right", "noise", False),
    Contrast("right", "shuffled", False),
    Contrast("none", "question_only", False),
)
DETECTED_CONTRASTS = (Contrast("right", DETECTED, True), Contrast(DETECTED, "none", True))
