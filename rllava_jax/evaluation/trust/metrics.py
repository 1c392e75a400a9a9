"""From answers to rows: one number each, as in `evaluation/metrics.py`, with 95 % intervals by image.

subset     all, and family=vqa, identify, verify, choose
condition  trust:VARIANT                 as in `data_pipelines/conditions.py`
           trust:right-VARIANT           the difference on the same questions; trust:none-VARIANT likewise
           trust:iou=0.2-0.4             every variant of one box together, by its actual IoU (trust:iou=0: none)
           trust                         the summary, `summary.py`
metric     accuracy                      normalised equality, as strict as everywhere
           iou                           mean of what was shown with the right box
           lost                          share of wrong answers among the questions answered right with the right box
           lost_from_none                the same among those answered right without a box
           followed                      share that answers what the wrong hint implies, among the questions where the
                                         annotations tell what that is and it is not the right answer
           followed_anyway               share of the same that answers so without the hint: without a box, and for
                                         `contradicted` with the right box and no sentence
           confidence, brier, ece_equal_mass, auroc, aurc
           confident_errors              answers that are wrong and of confidence 0.9 or more, among all
           unavailable, not_asked        questions that cannot have the variant, and that need more boxes than the model
                                         takes; n is that of all
           trust_score, use, resistance  of region trust
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.regions.perturbations import FAMILIES, PREFIX, VARIANTS
from rllava_jax.evaluation.answers import normalise_answer
from rllava_jax.evaluation.intervals import Estimator, Interval
from rllava_jax.evaluation.metrics import Row, confidence_figures, make_row
from rllava_jax.evaluation.trust.joined import Answers, VariantAnswers
from rllava_jax.evaluation.trust.summary import FIGURES, asked_both, trust_figures, wrong_box

SUMMARY = "trust"
_CONFIDENCE = ("confidence", "brier", "confident_errors", "ece_equal_mass", "auroc", "aurc")
IOU_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_ONE_BOX = tuple(name for name in VARIANTS if name not in ("none", "two", "contradicted"))
_Cell = tuple[str, str, float, int, Interval | None]
_Values = tuple[str, Float[np.ndarray, " N"], Int[np.ndarray, " N"]]  # a name, 0..1 of each question, which these are


def trust_rows(answers: Answers, *, bootstrap: int = 1000, seed: int = 0) -> list[Row]:
    """Every figure of the benchmark.

    Args:
      bootstrap: resamples behind each interval; 0 leaves the intervals out.
      seed: of the resampling.
    """
    estimator = Estimator(bootstrap, seed)
    first, rows = answers.questions[0], []
    families = np.array([question.family for question in answers.questions])
    subsets = {"all": np.ones(len(families), bool)} | {f"family={name}": families == name for name in FAMILIES}
    for subset, members in subsets.items():
        if members.any():
            cells = [*_cells(answers, members, estimator), *(_counts(answers) if subset == "all" else ())]
            rows += [make_row(first.dataset, first.split, subset, *cell) for cell in cells]
    return rows


def _cells(answers: Answers, members: Bool[np.ndarray, " Q"], estimator: Estimator) -> Iterator[_Cell]:
    def means(condition: str, sets: Iterable[_Values], **bounds: tuple[float, float]) -> Iterator[_Cell]:
        for metric, values, index in sets:
            if index.size:
                yield PREFIX + condition, metric, *estimator.mean(values, answers.images(index), **bounds)

    yield from _summary_cells(answers, members, estimator)
    held = {name: found.among(members) for name, found in answers.by_variant.items()}
    held = {name: found for name, found in held.items() if len(found.index)}
    for name, found in held.items():
        yield from means(name, [("accuracy", found.correct, found.index)])
        if not np.isnan(found.iou).any():
            yield PREFIX + name, "iou", float(found.iou.mean()), len(found.iou), None
        yield from means(name, _hints(answers, name, found))
        if answers.has_confidence:
            images = answers.images(found.index)
            figures = confidence_figures(_CONFIDENCE, found.confidence, found.correct, images, estimator)
            yield from ((PREFIX + name, metric, *figure) for metric, figure in figures)
    for reference in ("right", "none"):
        for name, found in held.items():
            if name not in ("right", "none") or (reference, name) == ("right", "none"):
                yield from means(f"{reference}-{name}", _differences(answers, reference, found), bounds=(-1.0, 1.0))
    for name, values, index in _by_iou([held[name] for name in _ONE_BOX if name in held]):
        yield from means(f"iou={name}", [("accuracy", values, index)])


def _summary_cells(answers: Answers, members: Bool[np.ndarray, " Q"], estimator: Estimator) -> Iterator[_Cell]:
    keep = np.flatnonzero(members & asked_both(answers))
    if not keep.size:
        return
    parts = {"right": answers.dense("right")[keep], "none": answers.dense("none")[keep],
             "wrong": wrong_box(answers)[keep], "prior": answers.prior[keep]}  # fmt: skip
    images = answers.images(keep)
    for column, metric in enumerate(FIGURES):

        def statistic(weights: Float[np.ndarray, "S N"], column: int = column) -> Float[np.ndarray, " S"]:
            return trust_figures(weights, **parts)[:, column]

        figure = estimator.statistic(statistic, images)
        if figure is not None:
            value, n, interval = figure
            n = int(np.isfinite(parts["wrong"]).sum()) if metric == "resistance" else n
            yield SUMMARY, metric, value, n, interval


def _hints(answers: Answers, name: str, found: VariantAnswers) -> Iterator[_Values]:
    """How often a right answer is lost, and how often a wrong hint is followed."""
    if name not in ("right", "none"):
        for reference, metric in (("right", "lost"), ("none", "lost_from_none")):
            had = answers.dense(reference)[found.index] == 1
            yield metric, 1 - found.correct[had], found.index[had]
    told = found.index[found.implied]
    yield "followed", found.followed[found.implied].astype(float), told
    texts = answers.texts.get("right" if name == "contradicted" else "none", {})
    questions = [answers.questions[i] for i in told]
    if all(question.id in texts for question in questions):
        implied = [normalise_answer(question.variants[VARIANTS.index(name)].implied) for question in questions]
        anyway = [float(texts[q.id] == answer) for q, answer in zip(questions, implied, strict=True)]
        yield "followed_anyway", np.array(anyway), told


def _differences(answers: Answers, reference: str, found: VariantAnswers) -> Iterator[_Values]:
    """Accuracy, and confidence, of the reference less the variant's, over the questions answered under both."""
    fields = {"accuracy": "correct"} | ({"confidence": "confidence"} if answers.has_confidence else {})
    for metric, field in fields.items():
        values = answers.dense(reference, field)[found.index] - getattr(found, field)
        both = np.isfinite(values)
        yield metric, values[both], found.index[both]


def _by_iou(found: Sequence[VariantAnswers]) -> Iterator[_Values]:
    """Variants of one box by the actual IoU with the right one: a question counts with each of its variants.

    None, (0, 0.2), then [low, high); the last is closed above, and so holds the right boxes.
    """
    if found:
        fields = ("iou", "correct", "index")
        iou, correct, index = (np.concatenate([getattr(one, field) for one in found]) for field in fields)
        place = np.where(iou == 0, 0, 1 + np.digitize(iou, IOU_EDGES[1:-1]))
        for number, name in enumerate(["0", *(f"{low:g}-{high:g}" for low, high in pairwise(IOU_EDGES))]):
            yield name, correct[place == number], index[place == number]


def _counts(answers: Answers) -> Iterator[_Cell]:
    for metric, counts in (("unavailable", answers.unavailable), ("not_asked", answers.not_asked)):
        for name, count in counts.items():
            yield PREFIX + name, metric, float(count), len(answers.questions), None
