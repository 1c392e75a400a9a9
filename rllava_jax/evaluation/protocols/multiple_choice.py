"""Multiple choice over five sampled runs, with MedM's rule of consistency."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from data_pipelines.core.errors import InvalidValue
from rllava_jax.evaluation.answer_files import Findings
from rllava_jax.evaluation.answers import normalise_answer
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores

RUNS = 5
# With so many runs that differ from the most frequent answer there is no credit.
TOO_MANY_DIFFERENT = 3

AS_LETTERS = "answers that are an option's letter and another one's text (read as letters, as most of the file are)"
AS_TEXTS = "answers that are an option's letter and another one's text (read as texts: most of the file are no letters)"

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LETTERED = re.compile(r"\([A-Za-z]\)|[A-Za-z]([).:]|$)")
_LABELLED = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s*(\S.*)", re.DOTALL)


def resolve(answer: str, choices: Sequence[str], *, letters_first: bool = False) -> int | None:
    """Which option an answer names: its place, or None where it names none for certain.

    In this order: an option's text as written, but for letter case and blanks; a letter and an option's text
    ("B: liver", "(B) liver", "B) liver"), which must be the same option's; a letter alone ("B", "(b)", "B.", "B)",
    "B:"); an option's text as `normalise_answer` compares it. Nothing is searched for within a longer answer: "the
    answer is B", "A or B" and "liver, not spleen" name none. Of options with the same text the first is named.

    Args:
      letters_first: a letter alone is the letter of an option even where it is another one's text.
    """
    written = _plain(answer)
    if not written:
        return None
    if letters_first and (place := _by_letter(written, choices)) is not None:
        return place
    for place, choice in enumerate(choices):
        if _plain(choice) == written:
            return place
    if labelled := _LABELLED.fullmatch(written):
        first, second, text = labelled.groups()
        place = _place(first or second)
        if place < len(choices) and text and normalise_answer(choices[place]) == normalise_answer(text):
            return place
        if place == 0:  # normalising would take "A: liver" for "a liver", whichever option the liver is
            return None
    if _LETTER.fullmatch(written):
        return _by_letter(written, choices)
    normal = normalise_answer(answer)
    return next((place for place, choice in enumerate(choices) if normal and normalise_answer(choice) == normal), None)


def _by_letter(written: str, choices: Sequence[str]) -> int | None:
    letter = _LETTER.fullmatch(written)
    place = _place(letter[1]) if letter else len(choices)
    return place if place < len(choices) else None


def read_letters(items: Sequence[Response], findings: Findings) -> list[Response]:
    """Settles what answers mean that are one option's letter and another one's text: "D" of the options B; A; D; C.

    A model that was shown letters answers letters: where of the file's other answers more are letters, alone or before
    an option's text, than are texts of options, such an answer is a letter, else a text.
    """
    letters = texts = 0
    unclear = []
    for item in items:
        for answer in item.predictions:
            by_text, by_letter = (resolve(answer, item.choices, letters_first=first) for first in (False, True))
            if by_text != by_letter:
                unclear.append(item.id)
            elif by_text is not None and _LETTERED.match(" ".join(answer.split())):
                letters += 1
            else:
                texts += by_text is not None
    as_letters = letters > texts
    for name in unclear:
        findings.add(AS_LETTERS if as_letters else AS_TEXTS, repr(name))
    return [dataclasses.replace(item, answers_letters=True) for item in items] if as_letters else list(items)


def consistency_credit(named: Sequence[int | None], right: int) -> float:
    """MedM's credit for one question: 0 where three or more of five runs differ from the most frequent answer.

    Else, so where three, four or five runs name the same option, 1 if that option is right. A run that names no option
    differs from every other. The rule comes to: 1 where at least three runs name the right option.
    """
    most_frequent, count = max(_counted(named).items(), key=lambda entry: entry[1], default=(None, 0))
    return float(RUNS - count < TOO_MANY_DIFFERENT and most_frequent == right)


def agreement(named: Sequence[int | None]) -> float:
    """Share of the five runs that name the most frequent option."""
    return max(_counted(named).values(), default=0) / RUNS


def _counted(named: Sequence[int | None]) -> Counter[int]:
    return Counter(option for option in named if option is not None)


def _score(item: Response) -> Scores:
    if len(item.predictions) > RUNS:
        raise InvalidValue(f"prediction {item.id!r}: has {len(item.predictions)} runs; give {RUNS}, numbered 0 to 4")
    right = resolve(item.answer, item.choices)
    assert right is not None  # else it does not count
    named = [resolve(answer, item.choices, letters_first=item.answers_letters) for answer in item.predictions]
    # Options of the same text are the same answer.
    texts = [_plain(choice) for choice in item.choices]
    same = [option is not None and texts[option] == texts[right] for option in named]
    named = [right if is_right else option for option, is_right in zip(named, same, strict=True)]
    return {
        "consistent_accuracy": consistency_credit(named, right),
        "mean_accuracy": sum(same) / RUNS,
        "agreement": agreement(named),
        "named_an_option": sum(option is not None for option in named) / RUNS,
    }


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _place(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


MULTIPLE_CHOICE = Protocol(
    name="multiple_choice",
    about="Questions with options, each answered in five sampled runs: credit where at least three runs name the right "
    "option (consistent_accuracy), the mean accuracy of a run (mean_accuracy), how far runs agree, and how "
    "often an answer names an option at all. Questions without options, or whose reference is none of them, are "
    "left out and counted.",
    source="MedM: no credit where the answers of five sampled runs disagree in three or more. Read as: three or more "
    "runs differ from the most frequent answer",
    faults=(
        "The published rule does not say whom the runs disagree with; read as three or more different answers, it "
        "would give none to A A A B C, which has credit here.",
        "Sampling rewards a model that is sure: the score depends on the temperature, which must be reported with it.",
        "With four options a model that guesses has 1/4 per run, and 0.10 by the rule: not comparable with plain "
        "accuracy.",
        "An answer that explains itself names no option; named_an_option tells how many that were.",
        "Where options are letters themselves (B; A; D; C), what D means is told by the file's other answers: a letter "
        "if more of these are letters than texts of options, else a text.",
    ),
    score=_score,
    metrics={"": ("consistent_accuracy", "mean_accuracy", "agreement", "named_an_option")},
    counts=lambda item: len(item.choices) > 1 and resolve(item.answer, item.choices) is not None,
    runs=RUNS,
    settle=read_letters,
)
