"""The record of one answered question, and its line in predictions.jsonl."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from data_pipelines.conditions import ALL as CONDITIONS
from data_pipelines.records import FAMILIES, AnswerType, Box, DataError
from rllava_jax.paths import path_of

_TEXT_FIELDS = ("id", "dataset", "split", "image_id", "question", "answer", "prediction", "shown_kind")
_BOX_FIELDS = ("boxes", "right_boxes")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model answered to one question under one condition.

    A question is asked once per condition; `(dataset, split, id, region)` is unique.

    Attributes:
      confidence: probability of the decoded answer, eos included, 0..1.
      log_prob: its natural logarithm, as the decoder summed it.
      region: the condition of the evaluation: right, none, wrong, blank or another of `data_pipelines/conditions.py`.
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
    region: str
    content_type: str = ""
    modality: str = ""
    shown_kind: str = "none"
    boxes: tuple[Box, ...] = ()
    box_labels: tuple[str, ...] = ()
    right_boxes: tuple[Box, ...] = ()
    choices: tuple[str, ...] = ()
    provenance: str = ""
    accepted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A value outside these would silently leave a denominator (VQA-RAD has "CLOSED " and answers that are numbers).
        for name in _TEXT_FIELDS:
            _require(isinstance(getattr(self, name), str), self.id, name, getattr(self, name), "a string")
        _require(self.family in FAMILIES, self.id, "family", self.family, f"one of {', '.join(FAMILIES)}")
        _require(self.answer_type in get_args(AnswerType), self.id, "answer_type", self.answer_type, "open or closed")
        _require(self.region in CONDITIONS, self.id, "region", self.region, f"one of {', '.join(CONDITIONS[:7])} …")
        in_range = math.isfinite(self.confidence) and 0 <= self.confidence <= 1
        _require(in_range, self.id, "confidence", self.confidence, "a probability, 0 to 1")


def _require(holds: bool, prediction_id: object, field: str, value: object, expected: str) -> None:
    if not holds:
        raise DataError(f"prediction {prediction_id!r}: {field} is {value!r}, expected {expected}")


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Plain JSON types, every field present."""
    return dataclasses.asdict(prediction)


def from_json(fields: Mapping[str, Any]) -> Prediction:
    """Inverse of `to_json`.

    Raises:
      DataError: a field is unknown, missing or out of range.
    """
    known = {f.name: f for f in dataclasses.fields(Prediction)}
    # Scores stand in predictions.jsonl for human readers; they follow from the rest and are computed anew.
    given = {name: value for name, value in fields.items() if name != "scores"}
    name_of = given.get("id", "without id")
    unknown = sorted(given.keys() - known.keys())
    required = {n for n, f in known.items() if f.default is dataclasses.MISSING}
    missing = sorted(required - given.keys())
    if unknown or missing:
        raise DataError(f"prediction {name_of!r}: unknown fields {unknown}, missing fields {missing}")
    for name in _BOX_FIELDS:
        given[name] = tuple(tuple(float(v) for v in box) for box in given.get(name, ()))
    for name in ("box_labels", "choices", "accepted"):
        given[name] = tuple(given.get(name, ()))
    return Prediction(**given)


def read_predictions(path: str | Path) -> list[Prediction]:
    """Reads a predictions.jsonl, so that a finished run can be scored again without the model.

    Raises:
      DataError: a line is not JSON or not a prediction; the message names file and line.
    """
    found = []
    with path_of(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                found.append(from_json(json.loads(line)))
            except ValueError as error:  # DataError and JSONDecodeError both are
                raise DataError(f"{path}, line {number}: {error}") from error
    return found
