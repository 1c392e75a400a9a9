"""The subsets of questions that have rows of their own (`metrics.py` lists them), for a run's answers and anyone's."""

from data_pipelines.records import FAMILIES
from rllava_jax.evaluation.answers import normalise_answer
from rllava_jax.evaluation.predictions import Answered

_ORDER = ("all", "family=", "has_region=", "answer_type=closed", "answer_type=yes_no", "answer_type=open",
          "content_type=", "modality=")  # fmt: skip
_FAMILY_PLACES = {f"family={family}": place for place, family in enumerate(FAMILIES)}
# In the order of the headline table; the first that was evaluated is also the one of the report's tiles.
HEADLINE = ("family=identify", "family=verify", "family=choose", "has_region=yes", "family=vqa", "family=localise")


def subsets_of(question: Answered) -> tuple[str, ...]:
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


def rank(subset: str) -> tuple[int, int, str]:
    """Sorts subsets into the order of their rows: families in their own, others of a kind by name, and kinds that a
    protocol alone has last."""
    place = next((i for i, prefix in enumerate(_ORDER) if subset.startswith(prefix)), len(_ORDER))
    return place, _FAMILY_PLACES.get(subset, 0), subset


def has_confidence_rows(subset: str) -> bool:
    """Whether the subset has rows on what the confidence of its answers is worth."""
    return subset == "all" or subset.startswith("family=")
