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

from collections.abc import Iterator
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
            for condition, metric, value, n, interval in _cells(answers, members, estimator):
                rows.append(make_row(first.dataset, first.split, subset, condition, metric, value, n, interval))
            if subset == "all":
                rows += _counts(answers, first.dataset, first.split)
    return rows


def _cells(answers: Answers, members: Bool[np.ndarray, " Q"], estimator: Estimator) -> Iterator[_Cell]:
    yield from _summary_cells(answers, members, estimator)
    held = {name: found.among(members) for name, found in answers.by_variant.items()}
    held = {name: found for name, found in held.items() if len(found.index)}
    for name, found in held.items():
        images = answers.images(found.index)
        yield PREFIX + name, "accuracy", *estimator.mean(found.correct, images)
        if not np.isnan(found.iou).any():
            yield PREFIX + name, "iou", float(found.iou.mean()), len(found.iou), None
        yield from _hint_cells(answers, name, found, estimator)
        if answers.has_confidence:
            figures = confidence_figures(_CONFIDENCE, found.confidence, found.correct, images, estimator)
            yield from ((PREFIX + name, metric, *figure) for metric, figure in figures)
    for reference in ("right", "none"):
        for name, found in held.items():
            if name not in ("right", "none") or (reference, name) == ("right", "none"):
                yield from _difference_cells(answers, reference, name, found, estimator)
    yield from _iou_cells(answers, held, estimator)


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


def _hint_cells(answers: Answers, name: str, found: VariantAnswers, estimator: Estimator) -> Iterator[_Cell]:
    """How often a right answer is lost, and how often a wrong hint is followed."""
    if name not in ("right", "none"):
        for reference, metric in (("right", "lost"), ("none", "lost_from_none")):
            had = answers.dense(reference)[found.index] == 1
            if had.any():
                images = answers.images(found.index[had])
                yield PREFIX + name, metric, *estimator.mean(1 - found.correct[had], images)
    if found.implied.any():
        told = found.index[found.implied]
        images = answers.images(told)
        yield PREFIX + name, "followed", *estimator.mean(found.followed[found.implied].astype(float), images)
        anyway = _followed_anyway(answers, name, told)
        if anyway is not None:
            yield PREFIX + name, "followed_anyway", *estimator.mean(anyway, images)


def _followed_anyway(answers: Answers, name: str, told: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"] | None:
    """Whether the question was answered as the hint implies without it; None where that was not asked of all."""
    texts = answers.texts.get("right" if name == "contradicted" else "none", {})
    questions = [answers.questions[i] for i in told]
    if any(question.id not in texts for question in questions):
        return None
    implied = [normalise_answer(question.variants[VARIANTS.index(name)].implied) for question in questions]
    return np.array([float(texts[q.id] == answer) for q, answer in zip(questions, implied, strict=True)])


def _difference_cells(
    answers: Answers, reference: str, name: str, found: VariantAnswers, estimator: Estimator
) -> Iterator[_Cell]:
    """Accuracy, and confidence, of the reference less the variant's, over the questions answered under both."""
    if reference not in answers.by_variant:
        return
    base = answers.by_variant[reference]
    place = np.full(len(answers.questions), -1)
    place[base.index] = np.arange(len(base.index))
    both = place[found.index] >= 0
    if not both.any():
        return
    other, images = place[found.index[both]], answers.images(found.index[both])
    pairs = [("accuracy", base.correct[other] - found.correct[both])]
    if answers.has_confidence:
        pairs.append(("confidence", base.confidence[other] - found.confidence[both]))
    for metric, values in pairs:
        yield f"{PREFIX}{reference}-{name}", metric, *estimator.mean(values, images, bounds=(-1.0, 1.0))


def _iou_cells(answers: Answers, held: dict[str, VariantAnswers], estimator: Estimator) -> Iterator[_Cell]:
    """Every variant of one box, by its actual IoU with the right one: a question counts with each of its variants."""
    found = [held[name] for name in _ONE_BOX if name in held]
    if not found:
        return
    iou = np.concatenate([f.iou for f in found])
    correct = np.concatenate([f.correct for f in found])
    index = np.concatenate([f.index for f in found])
    bins = {"0": iou == 0}
    for low, high in pairwise(IOU_EDGES):
        # (0, 0.2), then [low, high); the last is closed above, and so holds the right boxes.
        above = iou > low if low == 0 else iou >= low
        bins[f"{low:g}-{high:g}"] = above & ((iou <= high) if high == 1 else (iou < high))
    for name, inside in bins.items():
        if inside.any():
            yield f"{PREFIX}iou={name}", "accuracy", *estimator.mean(correct[inside], answers.images(index[inside]))


def _counts(answers: Answers, dataset: str, split: str) -> list[Row]:
    rows, total = [], len(answers.questions)
    for metric, counts in (("unavailable", answers.unavailable), ("not_asked", answers.not_asked)):
        for name, count in counts.items():
            rows.append(make_row(dataset, split, "all", PREFIX + name, metric, float(count), total, None))
    return rows
