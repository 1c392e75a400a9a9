"""Scores of one answer against its reference.

Strict on purpose. Published evaluators count "abnormal" as "no", credit "yes no" to every closed question, and count
repeated words twice; each of those is a test of this module.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from data_pipelines.core.errors import DataError
from data_pipelines.regions.boxes import boxes_from_text, iou

LOCALISE_IOU = 0.5
_REMEMBERED = 1 << 17  # texts: the answers of a data set are few and come again and again

_NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_DASHES = str.maketrans("‐‑‒–—−", "------")
# Signs that carry medical meaning stay: "HER2+" is not "HER2-", "-5" is not "5", "3.5" is not "35", "<5" is not ">5".
_BETWEEN_WORDS = re.compile(r"(?<=\w)[-/_](?=\w)")
_PUNCTUATION = re.compile(r"[^\w\s.+%<>=°-]|(?<=[^\W\d])\.|\.(?!\d)")
_LOOSE_DASH = re.compile(r"(?<!\w)-(?!\d)")
_IDEOGRAPH = re.compile(r"([\u3400-\u9fff])")


class Answered(Protocol):
    """What scoring needs to know of an answered question: a `Prediction` does, and an `Item` of a protocol."""

    @property
    def id(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def answer_type(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def accepted(self) -> tuple[str, ...]: ...
    @property
    def prediction(self) -> str: ...


class Overlap(NamedTuple):
    """Words of a reference and of a prediction, and those they share, each counted as often as both have it."""

    shared: int
    wanted: int
    given: int


@lru_cache(maxsize=_REMEMBERED)
def normalise_answer(text: str) -> str:
    """The form in which two answers are compared.

    Unicode NFKC, lower case, punctuation that carries no meaning and doubled blanks removed, a leading article dropped
    when something follows it, number words up to ten as digits (as the VQA evaluator of Antol et al., 2015, does).
    """
    text = unicodedata.normalize("NFKC", text).translate(_DASHES).casefold()
    text = text.replace("'", "").replace("’", "")
    text = _BETWEEN_WORDS.sub(" ", text)
    text = _PUNCTUATION.sub(" ", text)
    words = _LOOSE_DASH.sub(" ", text).split()
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(_NUMBER_WORDS.get(word, word) for word in words)


def answer_tokens(text: str) -> list[str]:
    """Words of the normalised answer; each Chinese character is a word of its own."""
    return _IDEOGRAPH.sub(r" \1 ", normalise_answer(text)).split()


def exact_match(answer: str, prediction: str) -> bool:
    """Normalised equality. An empty reference is matched by an empty prediction only."""
    return normalise_answer(answer) == normalise_answer(prediction)


def token_overlap(answer: str, prediction: str) -> Overlap:
    """The counts behind token recall, precision and F1."""
    wanted, given = _counts(answer), _counts(prediction)
    return Overlap((wanted & given).total(), wanted.total(), given.total())


def token_recall(answer: str, prediction: str) -> float:
    """Share of the reference's words that the prediction has, each counted as often as both have it.

    With an empty reference: 1 for an empty prediction, else 0.
    """
    return _recall(token_overlap(answer, prediction))


def token_precision(answer: str, prediction: str) -> float:
    """Share of the prediction's words that the reference has, each counted as often as both have it.

    With an empty prediction: 1 for an empty reference, else 0.
    """
    return _precision(token_overlap(answer, prediction))


def token_f1(answer: str, prediction: str) -> float:
    """Harmonic mean of clipped token precision and recall (as in SQuAD, Rajpurkar et al., 2016).

    2 overlap / (words of the reference + words of the prediction); both empty gives 1.
    """
    return _f1(token_overlap(answer, prediction))


def _recall(overlap: Overlap) -> float:
    return overlap.shared / overlap.wanted if overlap.wanted else float(not overlap.given)


def _precision(overlap: Overlap) -> float:
    return overlap.shared / overlap.given if overlap.given else float(not overlap.wanted)


def _f1(overlap: Overlap) -> float:
    total = overlap.wanted + overlap.given
    return 2 * overlap.shared / total if total else 1.0


@lru_cache(maxsize=_REMEMBERED)
def _counts(text: str) -> Counter[str]:
    return Counter(answer_tokens(text))


def localisation_iou(prediction: Answered) -> float:
    """IoU of the first box of the prediction with the reference's box; 0 where the prediction has no complete box.

    The first and not the best: a model must not gain by writing many.

    Raises:
      DataError: the reference has no box.
    """
    wanted = boxes_from_text(prediction.answer)
    if not wanted:
        raise DataError(
            f"prediction {prediction.id!r}: answer is {prediction.answer!r}, expected four loc tokens and a name"
        )
    given = boxes_from_text(prediction.prediction)
    return float(iou(wanted[0], given[0])) if given else 0.0


def score(prediction: Answered) -> dict[str, float]:
    """Every score of one answer, 0..1.

    `accuracy` is always there: normalised equality, or for localise an IoU of at least 0.5. An open ordinary question
    adds exact_match (the same number under its published name), recall, precision and f1; localise adds accuracy@0.5
    and iou. Where the data set accepts further answers, each score is the best over all of them, by itself: recall and
    precision may be those of two of them.
    """
    if prediction.family == "localise":
        overlap = localisation_iou(prediction)
        hit = float(overlap >= LOCALISE_IOU)
        return {"accuracy": hit, "accuracy@0.5": hit, "iou": overlap}
    references = (prediction.answer, *prediction.accepted)
    right = float(any(exact_match(reference, prediction.prediction) for reference in references))
    if prediction.family == "vqa" and prediction.answer_type == "open":
        return {"accuracy": right, "exact_match": right, **_token_scores(references, prediction.prediction)}
    return {"accuracy": right}


def _token_scores(references: Sequence[str], prediction: str) -> dict[str, float]:
    overlaps = [token_overlap(reference, prediction) for reference in references]
    return {
        "recall": max(map(_recall, overlaps)),
        "precision": max(map(_precision, overlaps)),
        "f1": max(map(_f1, overlaps)),
    }
