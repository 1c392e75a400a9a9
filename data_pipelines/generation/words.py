"""Words of a text as the filters compare them: case, punctuation and blanks do not count."""

import re

# Chinese characters and Japanese kana stand without blanks between words: each counts as one.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff"
# A point or comma inside a number and an apostrophe inside a word part nothing: "3.5", "Crohn's".
_WORD = re.compile(rf"[{_IDEOGRAPH}]|\d+(?:[.,]\d+)+|[^\W{_IDEOGRAPH}]+(?:['’][^\W{_IDEOGRAPH}]+)*")


def words(text: str) -> tuple[str, ...]:
    """The words in lower case: "T2-weighted, 3.5 cm" has t2, weighted, 3.5 and cm."""
    return tuple(_WORD.findall(text.casefold().replace("’", "'")))


def contains(text: tuple[str, ...], part: tuple[str, ...]) -> bool:
    """Whether the words of `part` stand in `text` one after another. No words are in no text."""
    return bool(part) and f" {' '.join(part)} " in f" {' '.join(text)} "


def is_ideograph(character: str) -> bool:
    """Whether it is a Chinese character or Japanese kana, which counts as a word."""
    return re.match(rf"[{_IDEOGRAPH}]", character) is not None
