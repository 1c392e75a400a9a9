"""The record of one answered question, and its line in predictions.jsonl."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

from data_pipelines.conditions import ALL as CONDITIONS
from data_pipelines.core.errors import DataError
from data_pipelines.core.paths import path_of
from data_pipelines.records import FAMILIES, AnswerType, Box
from data_pipelines.regions.boxes import boxes_from_text
from rllava_jax.evaluation.answer_files import is_encodable, text_lines
from rllava_jax.evaluation.answers import Answered

_TEXT_FIELDS = ("id", "dataset", "split", "image_id", "question", "answer", "prediction", "family", "answer_type",
                "condition", "content_type", "modality", "shown_kind", "provenance")  # fmt: skip
_LIST_FIELDS = ("box_labels", "choices", "accepted")
_BOX_FIELDS = ("boxes", "right_boxes")
_LOG_PROB_ROUNDING = 1e-3  # rounding may lift a sum of float32 logarithms above 0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model answered to one question under one condition.

    A question is asked once per condition; `(dataset, split, id, condition)` is unique.

    Attributes:
      confidence: probability of the decoded answer, eos included, 0..1.
      log_prob: its natural logarithm, as the decoder summed it.
      condition: right, none, wrong, blank or another of `data_pipelines/conditions.py`.
      shown_kind: what was really shown, e.g. "right", "none" (also a question without a region under "right"),
        "wrong:shifted".
      boxes: the shown boxes, (y0, x0, y1, x1) normalised to the image.
      box_labels: what truly lies in each of them, "" where unknown.
      right_boxes: the regions the question is about; empty for a question without one.
      accepted: further answers that the data set counts as right.
    """

    id: str
    dataset: str
    split: str
    image_id: str
    question: str
    answer: str
    prediction: str
    confidence: float
    log_prob: float
    family: str
    answer_type: AnswerType
    condition: str
    content_type: str = ""
    modality: str = ""
    shown_kind: str = "none"
    boxes: tuple[Box, ...] = ()
    box_labels: tuple[str, ...] = ()
    right_boxes: tuple[Box, ...] = ()
    choices: tuple[str, ...] = ()
    provenance: str = ""
    accepted: tuple[str, ...] = ()

    @property
    def has_region(self) -> bool:
        """Whether the question is about a marked region."""
        return bool(self.right_boxes)

    @property
    def predictions(self) -> tuple[str, ...]:
        """The answer as the only one of its runs."""
        return (self.prediction,)

    def __post_init__(self) -> None:
        # A value outside these would silently leave a denominator (VQA-RAD has "CLOSED " and answers that are numbers).
        for name in _TEXT_FIELDS:
            _require(_is_text(getattr(self, name)), self.id, name, getattr(self, name), "a string that UTF-8 can hold")
        _require(self.family in FAMILIES, self.id, "family", self.family, f"one of {', '.join(FAMILIES)}")
        _require(self.answer_type in get_args(AnswerType), self.id, "answer_type", self.answer_type, "open or closed")
        _require(
            self.condition in CONDITIONS, self.id, "condition", self.condition, f"one of {', '.join(CONDITIONS[:7])} …"
        )
        in_range = _is_finite(self.confidence) and 0 <= self.confidence <= 1
        _require(in_range, self.id, "confidence", self.confidence, "a probability, 0 to 1")
        in_range = _is_finite(self.log_prob) and self.log_prob <= _LOG_PROB_ROUNDING
        _require(in_range, self.id, "log_prob", self.log_prob, "the finite logarithm of a probability, 0 or below")


Key = tuple[str, str, str, str]


def key_of(answer: Answered) -> Key:
    """What makes two answers answers to the same question: data set, split, id and condition."""
    return answer.dataset, answer.split, answer.id, answer.condition


def by_key(predictions: Iterable[Prediction], where: str = "") -> dict[Key, Prediction]:
    """Predictions by `key_of`. Raises DataError, whose line begins with `where`, for a question answered twice."""
    found: dict[Key, Prediction] = {}
    for p in predictions:
        if key_of(p) in found:
            raise DataError(
                f"{where}prediction {p.id!r}: answered twice under condition {p.condition!r}; ids must be unique",
                code="data.duplicate-id",
            )
        found[key_of(p)] = p
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_encodable(value)


def _is_finite(value: object) -> TypeGuard[float]:
    # A comparison, which holds for NaN never, and takes whole numbers that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _require(holds: bool, prediction_id: object, field: str, value: object, expected: str) -> None:
    if not holds:
        raise DataError(
            f"prediction {prediction_id!r}: {field} is {value!r}, expected {expected}", code="data.invalid-value"
        )


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Plain JSON types, every field present."""
    return dataclasses.asdict(prediction)


def from_json(fields: Mapping[str, Any]) -> Prediction:
    """Inverse of `to_json`.

    Raises:
      DataError: not an object, or a field is unknown, missing, of another type or out of range.
    """
    if not isinstance(fields, Mapping):
        raise DataError(
            f"is {type(fields).__name__}, expected an object, one prediction a line", code="data.invalid-value"
        )
    known = {f.name: f for f in dataclasses.fields(Prediction)}
    # Scores stand in predictions.jsonl for human readers; they follow from the rest and are computed anew.
    given = {name: value for name, value in fields.items() if name != "scores"}
    if "region" in given:  # its older name, in answers to the trust benchmark that others gave
        given.setdefault("condition", given.pop("region"))
    name_of = given.get("id", "without id")
    unknown = sorted(given.keys() - known.keys())
    required = {n for n, f in known.items() if f.default is dataclasses.MISSING}
    missing = sorted(required - given.keys())
    if unknown or missing:
        raise DataError(
            f"prediction {name_of!r}: unknown fields {unknown}, missing fields {missing}", code="data.unknown-field"
        )
    for name in _BOX_FIELDS:
        boxes = given.get(name, ())
        fits = isinstance(boxes, list | tuple) and all(map(_is_box, boxes))
        _require(fits, name_of, name, boxes, "a list of boxes, each four numbers")
        given[name] = tuple(tuple(float(v) for v in box) for box in boxes)
    for name in _LIST_FIELDS:
        texts = given.get(name, ())
        fits = isinstance(texts, list | tuple) and all(map(_is_text, texts))
        _require(fits, name_of, name, texts, "a list of strings")
        given[name] = tuple(texts)
    if given["family"] == "localise" and _is_text(given["answer"]):
        fits = bool(boxes_from_text(given["answer"]))
        _require(fits, name_of, "answer", given["answer"], "four loc tokens and a name, its family being localise")
    return Prediction(**given)


def _is_box(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_is_finite, value))


def read_predictions(path: str | Path) -> list[Prediction]:
    """Reads a predictions.jsonl, so that a finished run can be scored again without the model.

    Raises:
      DataError: the file cannot be read, or a line is not UTF-8, not JSON or not a prediction; the message names file
        and line.
    """
    found = []
    for number, line in text_lines(path_of(path)):
        try:
            found.append(from_json(json.loads(line)))
        except DataError as error:
            raise error.within(f"{path}, line {number}") from error
        except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
            raise DataError(f"{path}, line {number}: {error}", code="file.malformed") from error
    return found
