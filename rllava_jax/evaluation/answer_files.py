"""Reading anyone's predictions: whatever a line holds, it is counted and never stops the reading.

A line is an object with `id` and `answer`, or with `id` and `prediction`, which a run's own predictions.jsonl has
(there `answer` is the reference). `confidence` and `condition`, under which the question was asked, are optional;
`region` is an older name of it. Files of answers that LLaVA's scripts write, and samples that lmms-eval logs, are read
as they are.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.core.errors import DataError, MalformedFile, NoExamples, listed
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.values import Settled, is_number, number_as_text
from rllava_jax.evaluation.json_records import raw_lines

_NAMED = 5  # of each kind of bad line
# The field that names the question, and those that hold the answer; the first that a line has.
_FORMS = {
    "id": ("prediction", "answer"),
    "question_id": ("text", "prediction", "answer"),  # LLaVA: llava/eval/model_vqa.py
    "doc_id": ("filtered_resps", "resps"),  # lmms-eval: --log_samples
}
_END_MARK = re.compile(r"(</s>|<eos>|<end_of_turn>|<\|(im_end|endoftext|eot_id|end)\|>)\s*$", re.IGNORECASE)


class GivenAnswer(NamedTuple):
    """One answer of a file; `text` is None where its line has none in words."""

    text: str | None
    confidence: float | None
    fields: Mapping[str, Any]


class Findings(dict[str, list[str]]):
    """What was found that the reader ought to know, in words ("empty answers"), and where, each time."""

    def add(self, what: str, name: str) -> None:
        """Adds one case of it."""
        self.setdefault(what, []).append(name)

    def lines(self) -> list[str]:
        """For people: one line each."""
        return [f"{len(names):,} {what}: {listed(names, _NAMED)}" for what, names in self.items()]


UNREADABLE = "lines that are not a JSON object with an id (what they answered counts as missing)"
NO_TEXT = "answers that are no text (null, NaN, true, a list, an object or not there; counted as wrong)"
NUMBERS = "answers that are numbers (read as text)"
EMPTY = "empty answers (right only where the reference is empty)"
END_MARKS = "answers that end in a model's end mark, e.g. </s> (scored as written; take it out of the file)"
NOT_FINITE = "values that are NaN or infinite (counted as not there)"
NO_CONFIDENCE = "confidences that are no number from 0 to 1 (not used)"


@dataclass(frozen=True)
class AnswerFile:
    """The answers of a file by question and condition, in the file's order.

    Attributes:
      answers: (id, condition) → what its lines say; condition is "" where they name none.
      findings: what was odd.
    """

    answers: Mapping[tuple[str, str], Sequence[GivenAnswer]]
    findings: Findings

    @property
    def conditions(self) -> list[str]:
        """The conditions that the file names, in its order; [""] where it names none."""
        return list(dict.fromkeys(condition for _, condition in self.answers))


def read_answers(path: Path, *, lists: bool) -> AnswerFile:
    """Reads a JSONL of predictions.

    Args:
      lists: an answer may be a list of texts, the runs of a model that samples.

    Raises:
      DataError: no such file, a JSON list instead of lines, or not one line with an id.
    """
    findings = Findings()
    answers: dict[tuple[str, str], list[GivenAnswer]] = {}
    for number, line in _values(path, findings):
        key = _key(line)
        if key is None:
            findings.add(UNREADABLE, f"line {number}")
            continue
        answers.setdefault(key, []).extend(_answers(line, key[0], findings, lists=lists))
    if not answers:
        bad = len(findings.get(UNREADABLE, ()))
        raise NoExamples(
            f"{path}: has no prediction ({bad:,} unreadable lines); write one object a line: id and answer "
            "(or question_id and text, as LLaVA does, or doc_id and filtered_resps, as lmms-eval)"
        )
    return AnswerFile(answers, findings)


def _values(path: Path, findings: Findings) -> Iterator[tuple[int, Any]]:
    """The lines' values with their numbers; None for what is no JSON."""
    settled = Settled(str(path), infinite_too=True)
    for place, (number, line) in enumerate(raw_lines(path)):
        if place == 0 and line.lstrip()[:1] == b"[":
            raise MalformedFile(
                f"{path}: is a JSON list; write one object a line (jq -c '.[]' turns one into the other)"
            )
        try:
            yield number, parse_json(line.decode(), str(path), remedy="", settled=settled, half_characters=True)
        except (DataError, UnicodeDecodeError):
            yield number, None
    for field, count in settled.absent.items():
        findings.setdefault(NOT_FINITE, []).extend([field] * count)


def _key(fields: Any) -> tuple[str, str] | None:
    if not isinstance(fields, dict):
        return None
    name, condition = fields.get(_form_of(fields)), fields.get("condition", fields.get("region"))
    if is_number(name):
        name = number_as_text(name)
    if not isinstance(name, str) or not name or not (condition is None or isinstance(condition, str)):
        return None
    return _encodable(name), _encodable(condition or "")


def _form_of(fields: Mapping[str, Any]) -> str:
    """The field that names the question, of `_FORMS`."""
    return next((name for name in _FORMS if name in fields), "id")


def _answers(fields: Mapping[str, Any], name: str, findings: Findings, *, lists: bool) -> list[GivenAnswer]:
    form = _form_of(fields)
    given = next((fields[field] for field in _FORMS[form] if field in fields), None)
    while form == "doc_id" and isinstance(given, list) and len(given) == 1:  # a list of requests of lists of repeats
        given = given[0]
    confidence = _confidence(fields.get("confidence"), name, findings)
    runs = given if lists and isinstance(given, list) and given else [given]
    return [GivenAnswer(_text(run, name, findings), confidence, fields) for run in runs]


def _text(value: object, name: str, findings: Findings) -> str | None:
    if isinstance(value, str):
        if not value.strip():
            findings.add(EMPTY, repr(name))
        if _END_MARK.search(value):
            findings.add(END_MARKS, repr(name))
        return _encodable(value)
    if is_number(value):
        findings.add(NUMBERS, repr(name))
        return number_as_text(value)
    findings.add(NO_TEXT, repr(name))
    return None


def _encodable(text: str) -> str:
    """Half a surrogate pair, which JSON may escape and UTF-8 cannot hold, as a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _confidence(value: object, name: str, findings: Findings) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    findings.add(NO_CONFIDENCE, repr(name))
    return None
