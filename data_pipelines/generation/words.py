"""Words of a text as the filters compare them, where case, punctuation and blanks do not count, and its language.

The language is told by langdetect (Shuyo 2010, character n-grams), seeded.
"""

import functools
import re
from typing import Any

from data_pipelines.core.errors import InvalidOption
from data_pipelines.core.optional_packages import optional_package

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


# Under so many letters n-grams tell little: "Is a pleural effusion present?" is taken for French.
LEAST_LETTERS = 30
# An ideograph tells as much as a word.
_LETTERS_OF_IDEOGRAPH = 6
# The wanted language's share. Latin and Greek terms pull English captions towards Romance languages, so a half would
# leave out good ones; text in another language gives the wanted one none at all.
LEAST_PROBABILITY = 0.1


def is_language(text: str, language: str) -> bool:
    """Whether `text` may be in `language`. A text too short to tell passes.

    Raises:
      DataError: langdetect is not installed.
    """
    letters = sum(_LETTERS_OF_IDEOGRAPH if re.match(rf"[{_IDEOGRAPH}]", c) else 1 for c in text if c.isalpha())
    if letters < LEAST_LETTERS:
        return True
    factory = _factory()
    from langdetect.lang_detect_exception import LangDetectException

    detector = factory.create()
    detector.append(text)
    try:
        candidates = detector.get_probabilities()
    except LangDetectException:  # not one known n-gram
        return False
    return any(
        found.prob >= LEAST_PROBABILITY and found.lang.split("-")[0] == language.split("-")[0] for found in candidates
    )


def check_language(language: str) -> None:
    """Raises InvalidOption for a code that langdetect does not know."""
    known = sorted({code.split("-")[0] for code in _factory().get_lang_list()})
    if language not in known:
        raise InvalidOption(f"--language {language}: is not a known code; choose one of {', '.join(known)}")


@functools.cache
def _factory() -> Any:
    detector_factory = optional_package(
        "langdetect.detector_factory", "the filter of languages", otherwise="skip it with --skip-filter language"
    )
    factory = detector_factory.DetectorFactory()
    # langdetect draws at random; unseeded, the same text may be told differently from run to run.
    factory.set_seed(0)
    factory.load_profile(detector_factory.PROFILES_DIRECTORY)
    return factory
