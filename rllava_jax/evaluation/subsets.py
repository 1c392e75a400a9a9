"""The subsets of questions that have rows of their own (`metrics.py` lists them), for a run's answers and anyone's."""

from __future__ import annotations

from typing import Protocol

from rllava_jax.evaluation.answers import normalise_answer

_ORDER = ("all", "family=", "has_region=", "answer_type=closed", "answer_type=yes_no", "answer_type=open",
          "content_type=", "modality=")  # fmt: skip
# In the order of the headline table; the first that was evaluated is also the one of the report's tiles.
HEADLINE = ("family=identify", "family=verify", "family=choose", "has_region=yes", "family=vqa", "family=localise")


class Described(Protocol):
    """What tells the subsets of a question: a `Prediction` does, and an `Item` of a protocol."""

    @property
    def family(self) -> str: ...
    @property
    def answer_type(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def has_region(self) -> bool: ...
    @property
    def content_type(self) -> str: ...
    @property
    def modality(self) -> str: ...


def subsets_of(question: Described) -> tuple[str, ...]:
    """Those that a question belongs to."""
    names = ["all", f"family={question.family}"]
    if question.family == "vqa":
        if question.has_region:
            names.append("has_region=yes")
        names.append(f"answer_type={question.answer_type}")
        if question.answer_type == "closed" and normalise_answer(question.answer) in ("yes", "no"):
            names.append("answer_type=yes_no")
        if question.content_type:
            names.append(f"content_type={question.content_type}")
        if question.modality:
            names.append(f"modality={question.modality}")
    return tuple(names)


def rank(subset: str) -> tuple[int, str]:
    """Sorts subsets into the order of their rows, those of a kind by name; kinds that a protocol alone has are last."""
    place = next((i for i, prefix in enumerate(_ORDER) if subset.startswith(prefix)), len(_ORDER))
    return place, subset


def has_confidence_rows(subset: str) -> bool:
    """Whether the subset has rows on what the confidence of its answers is worth."""
    return subset == "all" or subset.startswith("family=")
