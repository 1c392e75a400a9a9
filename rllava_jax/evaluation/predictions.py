"""The record of one answered question, and its line in predictions.jsonl; and anyone's answer to a reference."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, Strict, with_config

from data_pipelines.conditions import ALL as CONDITIONS
from data_pipelines.core.errors import DataError, DuplicateId, InvalidValue
from data_pipelines.core.paths import path_of
from data_pipelines.records import AnswerType, Family
from data_pipelines.regions.boxes import boxes_from_text
from rllava_jax.evaluation.json_records import Number, NumberBox, Text, parsed_lines, record_of

_LOG_PROB_ROUNDING = 1e-3  # rounding may lift a sum of float32 logarithms above 0


def _known_condition(name: str) -> str:
    if name not in CONDITIONS:
        raise ValueError(f"expected one of {', '.join(CONDITIONS[:7])} …")
    return name


@with_config(ConfigDict(extra="forbid"))
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

    id: Text
    dataset: Text
    split: Text
    image_id: Text
    question: Text
    answer: Text
    prediction: Text
    confidence: Annotated[Number, Field(ge=0, le=1)]
    log_prob: Annotated[Number, Field(le=_LOG_PROB_ROUNDING, allow_inf_nan=False)]
    family: Family
    answer_type: AnswerType
    condition: Annotated[Text, AfterValidator(_known_condition)]
    content_type: Text = ""
    modality: Text = ""
    shown_kind: Text = "none"
    boxes: tuple[NumberBox, ...] = ()
    box_labels: tuple[Text, ...] = ()
    right_boxes: tuple[NumberBox, ...] = ()
    choices: tuple[Text, ...] = ()
    provenance: Text = ""
    accepted: tuple[Text, ...] = ()

    @property
    def has_region(self) -> bool:
        """Whether the question is about a marked region."""
        return bool(self.right_boxes)

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.answer, *self.accepted)

    @property
    def predictions(self) -> tuple[str, ...]:
        """The answer as the only one of its runs."""
        return (self.prediction,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A question of the references, and what was predicted for it under one condition.

    Attributes:
      accepted: further answers that count as right.
      has_region: the question is about a marked region.
      condition: under which it was asked (`data_pipelines/conditions.py`); "" where the file names none.
      shown_kind: what was really shown, where the references say it.
      predictions: the answers given, in the order of the runs: one, or several under a protocol whose `runs` is
        above 1. Empty where the file has no answer in words for this question; then `scored` gives 0 in every metric.
      confidence: of the (first) answer, 0..1; None where the file has none.
      fields: what else stands in the (first) prediction's line.
      answers_letters: the file's answers name options by their letters (`protocols/multiple_choice.py`).
    """

    id: Text
    dataset: Text
    split: Text
    image_id: Text
    question: Text
    answer: Text
    answer_type: AnswerType = "open"
    family: Family = "vqa"
    content_type: Text = ""
    modality: Text = ""
    language: Text = "en"
    choices: tuple[Text, ...] = ()
    accepted: tuple[Text, ...] = ()
    has_region: Annotated[bool, Strict()] = False
    condition: str = ""
    shown_kind: str = ""
    predictions: tuple[str, ...] = ()
    confidence: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    answers_letters: bool = False

    @property
    def prediction(self) -> str:
        """The first answer; "" where there is none."""
        return self.predictions[0] if self.predictions else ""

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer."""
        return (self.answer, *self.accepted)


Answered = Prediction | Response  # what scoring needs to know of an answered question, both have
Key = tuple[str, str, str, str]


def key_of(answer: Answered) -> Key:
    """What makes two answers answers to the same question: data set, split, id and condition."""
    return answer.dataset, answer.split, answer.id, answer.condition


def by_key(predictions: Iterable[Prediction], where: str = "") -> dict[Key, Prediction]:
    """Predictions by `key_of`. Raises DataError, whose line begins with `where`, for a question answered twice."""
    found: dict[Key, Prediction] = {}
    for p in predictions:
        if key_of(p) in found:
            raise DuplicateId(
                f"{where}prediction {p.id!r}: answered twice under condition {p.condition!r}; ids must be unique"
            )
        found[key_of(p)] = p
    return found


def common_fields(record: object, kind: Any, **others: Any) -> dict[str, Any]:
    """The fields of the dataclass `kind` that a record has as well, and others: what one record hands to the next."""
    names = (f.name for f in dataclasses.fields(kind))
    return {name: getattr(record, name) for name in names if hasattr(record, name)} | others


def to_json(prediction: Prediction) -> dict[str, Any]:
    """Plain JSON types, every field present."""
    return dataclasses.asdict(prediction)


def from_json(fields: Mapping[str, Any]) -> Prediction:
    """Inverse of `to_json`, and how every prediction is made: a value out of range would silently leave a denominator.

    Raises:
      DataError: not an object, or a field is unknown, missing, of another type or out of range.
    """
    if not isinstance(fields, Mapping):
        return record_of(Prediction, fields, "prediction")
    # Scores stand in predictions.jsonl for human readers; they follow from the rest and are computed anew.
    given = {name: value for name, value in fields.items() if name != "scores"}
    if "region" in given:  # its older name, in answers to the trust benchmark that others gave
        given.setdefault("condition", given.pop("region"))
    where = f"prediction {given.get('id', 'without id')!r}"
    found = record_of(Prediction, given, where)
    check_box(found, where)
    return found


def check_box(answer: Answered, where: str) -> None:
    """Raises DataError for a question of the family localise whose reference has no box."""
    if answer.family == "localise" and not boxes_from_text(answer.answer):
        raise InvalidValue(
            f"{where}: answer is {answer.answer!r}, expected four loc tokens and a name, its family being localise"
        )


def read_predictions(path: str | Path) -> list[Prediction]:
    """Reads a predictions.jsonl, so that a finished run can be scored again without the model.

    Raises:
      DataError: the file cannot be read, or a line is not UTF-8, not JSON or not a prediction; the message names file
        and line.
    """
    found = []
    for where, fields in parsed_lines(path_of(path)):
        try:
            found.append(from_json(fields))
        except DataError as error:
            raise error.within(where) from error
    return found
