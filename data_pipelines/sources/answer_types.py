"""Whether a question is open or closed, from what the published files say, or from its answer."""

from __future__ import annotations

from typing import Any

from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import text_field
from data_pipelines.records import AnswerType


def answer_type_field(entry: dict[str, Any], where: str) -> AnswerType:
    """The `answer_type` field; the published files write "CLOSED", and twice "CLOSED ".

    Raises:
      DataError: anything but open and closed.
    """
    match text_field(entry, "answer_type", where).lower():
        case "open":
            return "open"
        case "closed":
            return "closed"
        case other:
            raise DataError(f"{where}: field 'answer_type' is {other!r}; expected OPEN or CLOSED")


def answer_type_by_answer(answer: str) -> AnswerType:
    """For data sets that do not say which questions are closed: those that are answered yes or no."""
    return "closed" if answer.lower() in ("yes", "no") else "open"
