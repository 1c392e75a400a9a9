"""The answers of a run beside the boxes they were asked with, as arrays: what every figure is computed from.

Axes: N questions of one variant, Q questions of the run.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.core.errors import DataError, UnknownName
from data_pipelines.regions.perturbations import PREFIX, VARIANTS, Variant
from rllava_jax.evaluation.answers import exact_match, is_right, normalise_answer
from rllava_jax.evaluation.predictions import Prediction, by_key
from rllava_jax.evaluation.trust.boxes_file import BoxesFile, TrustQuestion
from rllava_jax.evaluation.trust.run import Run, askable, chosen


@dataclass(frozen=True, eq=False)
class VariantAnswers:
    """The questions answered under one variant.

    Attributes:
      index: of each in `Answers.questions`.
      implied: whether the annotations tell what one would answer who takes the wrong hint for the truth.
      followed: whether that was answered; false where not implied.
      iou: of what was shown with the right box; NaN where nothing was shown.
      named: whether a structure is annotated where the boxes are.
    """

    index: Int[np.ndarray, " N"]
    correct: Float[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    implied: Bool[np.ndarray, " N"]
    followed: Bool[np.ndarray, " N"]
    iou: Float[np.ndarray, " N"]
    named: Bool[np.ndarray, " N"]

    def among(self, members: Bool[np.ndarray, " Q"]) -> Self:
        """Those of some questions."""
        keep = members[self.index]
        return replace(self, **{name: value[keep] for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Answers:
    """Attributes:
    by_variant: those that were asked of any question, in the order of `VARIANTS`.
    texts: variant → id → normalised answer.
    prior: [Q], 1 where the most common right answer of the question's kind is its own (see `_prior`).
    unavailable, not_asked: questions that lack a variant, and that have it with more boxes than the model takes.
    has_confidence: False leaves every figure of confidence out.
    """

    questions: tuple[TrustQuestion, ...]
    by_variant: dict[str, VariantAnswers]
    texts: dict[str, dict[str, str]]
    prior: Float[np.ndarray, " Q"]
    unavailable: dict[str, int]
    not_asked: dict[str, int]
    has_confidence: bool

    def images(self, index: Int[np.ndarray, " N"]) -> list[str]:
        """The image of each question."""
        return [self.questions[i].image_id for i in index]

    def dense(self, variant: str, field: str = "correct") -> Float[np.ndarray, " Q"]:
        """Correctness, or another field, by question; NaN where the variant was not asked."""
        found = np.full(len(self.questions), np.nan)
        if variant in self.by_variant:
            held = self.by_variant[variant]
            found[held.index] = getattr(held, field)
        return found


def join(boxes: BoxesFile, predictions: Iterable[Prediction], run: Run) -> Answers:
    """Joins answers and boxes by id.

    Raises:
      DataError: the answers are of other boxes, to a question twice, to unknown ones, or some are missing.
    """
    if run.boxes_sha256 != boxes.sha256:
        raise DataError(f"the answers belong to the boxes {run.boxes_sha256[:12]}…, the file is {boxes.sha256[:12]}…; "
                        "give the file that was asked", code="trust.other-boxes")  # fmt: skip
    questions = chosen(boxes, run.most_questions)
    answered = {(p.id, p.condition): p for p in by_key(predictions, where="answers.jsonl: ").values()}
    _check_references(questions, answered)
    known = {(q.id, PREFIX + v.name) for q in questions for v in q.variants if not v.unavailable}
    unknown = sorted(answered.keys() - known)
    if unknown:
        raise UnknownName(f"answers.jsonl: {len(unknown)} answers are to no question of the boxes file, the first to "
                        f"{unknown[0][0]!r} under {unknown[0][1]!r}")  # fmt: skip
    place = {question.id: i for i, question in enumerate(questions)}
    by_variant, texts, unavailable, not_asked = {}, {}, {}, {}
    for number, name in enumerate(VARIANTS):
        pairs = askable(questions, name, run.most_regions)
        missing = [q.id for q, _ in pairs if (q.id, PREFIX + name) not in answered]
        if missing:
            raise DataError(f"answers.jsonl: {len(missing)} of {len(pairs)} questions under {PREFIX + name} have no "
                            f"answer, the first {missing[0]!r}; finish the run", code="trust.unfinished")  # fmt: skip
        unavailable[name] = sum(bool(q.variants[number].unavailable) for q in questions)
        not_asked[name] = len(questions) - unavailable[name] - len(pairs)
        if pairs:
            held = [answered[q.id, PREFIX + name] for q, _ in pairs]
            by_variant[name] = _answered([place[q.id] for q, _ in pairs], [v for _, v in pairs], held)
            texts[name] = {p.id: normalise_answer(p.prediction) for p in held}
    return Answers(
        tuple(questions), by_variant, texts, _prior(questions), unavailable, not_asked, run.has_confidence is not False
    )


def _check_references(questions: Sequence[TrustQuestion], answered: dict[tuple[str, str], Prediction]) -> None:
    """An answer is scored by the reference in its own line, which must be that of the boxes file."""
    known = {question.id: question for question in questions}
    for (name, condition), p in answered.items():
        question = known.get(name)
        for field in ("answer", "accepted", "family", "answer_type", "image_id"):
            if question is not None and getattr(p, field) != getattr(question, field):
                raise DataError(
                    f"answers.jsonl: {name!r} under {condition!r} has {field} {getattr(p, field)!r}, the boxes file "
                    f"{getattr(question, field)!r}; take these fields from the boxes file",
                    code="trust.other-boxes",
                )


def _answered(index: Sequence[int], variants: Sequence[Variant], held: Sequence[Prediction]) -> VariantAnswers:
    implied = np.array([bool(v.implied) for v in variants])
    return VariantAnswers(
        index=np.array(index, dtype=int),
        correct=np.array([is_right(p) for p in held]),
        confidence=np.array([p.confidence for p in held]),
        implied=implied,
        followed=implied & [exact_match(v.implied, p.prediction) for v, p in zip(variants, held, strict=True)],
        iou=np.array([np.nan if v.iou is None else v.iou for v in variants]),
        named=np.array([any(v.labels) for v in variants]),
    )


def _prior(questions: Sequence[TrustQuestion]) -> Float[np.ndarray, " Q"]:
    """1 where a question's answer is the most common one of its family and answer type: what a guess is worth."""
    kinds: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for q in questions:
        kinds[q.family, q.answer_type][normalise_answer(q.answer)] += 1
    likeliest = {kind: min(counts, key=lambda a: (-counts[a], a)) for kind, counts in kinds.items()}
    return np.array([float(normalise_answer(q.answer) == likeliest[q.family, q.answer_type]) for q in questions])
