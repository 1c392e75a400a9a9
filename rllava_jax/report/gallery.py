"""The report's example questions: which ones are shown, in which order, and what a wrong box did to each."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from PIL import Image

from data_pipelines.conditions import ALL
from rllava_jax.evaluation.answers import exact_match, is_right
from rllava_jax.evaluation.predictions import Prediction

# The image a prediction is about: decoded, or its encoded bytes.
ImageOf = Callable[[Prediction], "Image.Image | bytes"]

# What a wrong box did, the gravest first, and how the report says it.
EFFECTS = {
    "followed": "followed: the answer names what is in the wrong box",
    "lost": "lost: right without a box, wrong with it",
    "kept": "kept: right without a box and with it",
    "fixed": "fixed: wrong without a box, right with it",
    "wrong anyway": "wrong anyway, with it and without",
}
# How the chapters choose their cases.
_RULES = {
    "Drawn at random": "No selection: what an ordinary case looks like.",
    "Decided by the region": "Right with the region, wrong without it; the most confident first.",
    "Misled by a wrong region": "Right without a region, wrong with a wrong one; the most confident first.",
    "Worst: confident and wrong": "Wrong with everything in its favour: the image, and the right region where the "
    "question has one.",
    "Best: confident and right": "Right with the image, and the right region where the question has one.",
}
# Trust variants that show no wrong box, or a right one beside it.
_NOT_WRONG = ("trust:right", "trust:none", "trust:two", "trust:contradicted")


class Case(NamedTuple):
    """One question with its prediction under each condition that it was evaluated under."""

    by_condition: dict[str, Prediction]

    @property
    def first(self) -> Prediction:
        """Under the condition that stands first in every table: the right region, where that was evaluated."""
        return next(self.by_condition[c] for c in ALL if c in self.by_condition)

    def under(self, condition: str) -> Prediction | None:
        """Under a condition, or under the trust benchmark's own form of it (`trust:right`, `trust:none`)."""
        return self.by_condition.get(condition) or self.by_condition.get(f"trust:{condition}")

    def right(self, condition: str) -> bool | None:
        """Whether the answer was right, None where it was not evaluated."""
        p = self.under(condition)
        return None if p is None else bool(is_right(p))

    @property
    def wrong_boxes(self) -> list[Prediction]:
        """The predictions under a box that is wrong, in the order of `conditions.ALL`."""
        return [p for c in ALL if (p := self.by_condition.get(c)) and p.boxes and _is_wrong_box(p)]

    def effect(self, p: Prediction) -> str:
        """What the wrong box of a prediction did (a key of EFFECTS), or "" where no answer without a box is known."""
        if not is_right(p) and any(label and exact_match(label, p.prediction) for label in p.box_labels):
            return "followed"
        match self.right("none"):
            case True:
                return "kept" if is_right(p) else "lost"
            case False:
                return "fixed" if is_right(p) else "wrong anyway"
        return ""

    @property
    def gravest(self) -> Prediction | None:
        """Of the wrong boxes, that which did most harm; the most confident answer of equal ones."""
        order = [*EFFECTS, ""]
        wrong = self.wrong_boxes
        return min(wrong, key=lambda p: (order.index(self.effect(p)), -p.confidence)) if wrong else None


def _is_wrong_box(p: Prediction) -> bool:
    return p.shown_kind.startswith("wrong:") or (p.condition.startswith("trust:") and p.condition not in _NOT_WRONG)


class Chapter(NamedTuple):
    """A group of cases, chosen by one stated rule."""

    title: str
    rule: str
    cases: list[Case]


def cases_of(predictions: Iterable[Prediction]) -> list[Case]:
    """Gathers the predictions by question."""
    found: dict[tuple[str, str, str], Case] = {}
    for p in predictions:
        found.setdefault((p.dataset, p.split, p.id), Case({})).by_condition[p.condition] = p
    return list(found.values())


def worst_first(case: Case) -> tuple[int, float, str]:
    """Sorts the worst cases first.

    First those answered wrong with everything in their favour (the image, and the right region), the most confident
    first; then those that a wrong box misled, the most confident first; then the right ones, the least confident first.
    """
    if not is_right(case.first):
        return 0, -case.first.confidence, case.first.id
    worst = case.gravest
    if worst is not None and case.effect(worst) in ("followed", "lost"):
        return 1, -worst.confidence, case.first.id
    return 2, case.first.confidence, case.first.id


def choose_chapters(cases: Sequence[Case], *, size: int, seed: int = 0) -> list[Chapter]:
    """At most `size` cases in five chapters. A case stands in one chapter only; a chapter avoids repeating an image.

    The first chapter is a plain random draw: the others are picked to show something, and alone would mislead. What a
    chapter cannot fill of its share goes to those after it.
    """
    shuffled = sorted(cases, key=lambda case: case.first.id)
    random.Random(seed).shuffle(shuffled)
    surest = sorted(shuffled, key=lambda case: -p.confidence if (p := case.under("right")) else 0.0)
    misled = sorted(filter(_misled, shuffled), key=lambda case: -max(p.confidence for p in case.wrong_boxes))
    of_right = {True: [c for c in surest if c.right("right")], False: [c for c in surest if c.right("right") is False]}
    decided = [c for c in of_right[True] if (p := c.under("right")) and p.boxes and c.right("none") is False]
    candidates = (shuffled, decided, misled, of_right[False], of_right[True])
    taken: set[str] = set()
    chapters = []
    for number, ((title, rule), held) in enumerate(zip(_RULES.items(), candidates, strict=True)):
        share = -(-(size - len(taken)) // (len(_RULES) - number))
        chosen = new_images_first([c for c in held if c.first.id not in taken])[:share]
        taken.update(case.first.id for case in chosen)
        if chosen:
            chapters.append(Chapter(title, rule, chosen))
    return chapters


def _misled(case: Case) -> bool:
    return case.right("none") is True and not all(map(is_right, case.wrong_boxes))


def new_images_first(cases: Sequence[Case]) -> list[Case]:
    """In the same order, but with the first case of each image before any second one."""
    first_of_image = {case.first.image_id: id(case) for case in reversed(cases)}
    return sorted(cases, key=lambda case: first_of_image[case.first.image_id] != id(case))
