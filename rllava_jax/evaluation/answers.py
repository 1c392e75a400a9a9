"""Scores of one answer against its reference.

Strict on purpose. Published evaluators count "abnormal" as "no", credit "yes no" to every closed question, and count
repeated words twice; each of those is a test of this module.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from data_pipelines.core.errors import InvalidValue
from data_pipelines.regions.boxes import boxes_from_text, iou
from rllava_jax.evaluation.predictions import Answered

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


@lru_cache(maxsize=_REMEMBERED)
def token_overlap(answer: str, prediction: str) -> tuple[int, int, int]:
    """The counts behind token recall, precision and F1: of the words that both have, each as often as both have it, of
    those of the reference, and of those of the prediction."""
    wanted, given = Counter(answer_tokens(answer)), Counter(answer_tokens(prediction))
    return (wanted & given).total(), wanted.total(), given.total()


def token_recall(answer: str, prediction: str) -> float:
    """Share of the reference's words that the prediction has, each counted as often as both have it.

    With an empty reference: 1 for an empty prediction, else 0.
    """
    shared, wanted, given = token_overlap(answer, prediction)
    return shared / wanted if wanted else float(not given)


def token_precision(answer: str, prediction: str) -> float:
    """Share of the prediction's words that the reference has, each counted as often as both have it.

    With an empty prediction: 1 for an empty reference, else 0.
    """
    shared, wanted, given = token_overlap(answer, prediction)
    return shared / given if given else float(not wanted)


def token_f1(answer: str, prediction: str) -> float:
    """Harmonic mean of clipped token precision and recall (as in SQuAD, Rajpurkar et al., 2016).

    2 overlap / (words of the reference + words of the prediction); both empty gives 1.
    """
    shared, wanted, given = token_overlap(answer, prediction)
    return 2 * shared / (wanted + given) if wanted + given else 1.0


def localisation_iou(prediction: Answered) -> float:
    """IoU of the first box of the prediction with the reference's box; 0 where the prediction has no complete box.

    The first and not the best: a model must not gain by writing many.

    Raises:
      DataError: the reference has no box.
    """
    wanted = boxes_from_text(prediction.answer)
    if not wanted:
        raise InvalidValue(
            f"prediction {prediction.id!r}: answer is {prediction.answer!r}, expected four loc tokens and a name"
        )
    given = boxes_from_text(prediction.prediction)
    return float(iou(wanted[0], given[0])) if given else 0.0


def is_right(prediction: Answered) -> float:
    """1 for an answer that equals the reference or an accepted one, or whose box has an IoU of 0.5; else 0."""
    if prediction.family == "localise":
        return float(localisation_iou(prediction) >= LOCALISE_IOU)
    return float(any(exact_match(reference, prediction.prediction) for reference in prediction.references))


def best(of: Callable[[str, str], float]) -> Callable[[Answered], float]:
    """A score of answer and prediction as that of an answered question: the best over all accepted answers."""
    return lambda prediction: max(of(reference, prediction.prediction) for reference in prediction.references)
