"""The form in which the VQA evaluator compares answers (Antol et al., 2015; github.com/GT-Vision-Lab/VQA, vqaEval.py).

Rebuilt with its faults, because scores of that name are compared with published ones:

- A punctuation mark becomes a blank, or goes without one where it stands beside a blank *anywhere* in the answer, or
  where the answer has a number with a comma: "t1/t2" is "t1 t2", but "t1/t2 / flair" is "t1t2 flair".
- A minus, "<" and "+" go like any other mark: "-5" is "5", "HER2+" is "HER2-".
- A full stop goes unless a digit follows. (The pattern means to look for a digit before it, and does not.)
- "none" is "0", and articles go wherever they stand, so that "a" alone is no answer.
"""

import re
from functools import lru_cache

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_STOPS = 32  # the original hands re.UNICODE, which is 32, to the parameter that says how many to replace
_DIGITS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
# Where the original repairs a lost apostrophe. Its entries with a capital never match, since answers are in lower case
# by then, and are not here.
_CONTRACTION_LIST = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_REPAIRED = {broken: word for word in _CONTRACTION_LIST.split() for broken in _without_one_apostrophe(word)}
_REPAIRED["somebody'd"] = "somebodyd"  # the wrong way round in the original


def vqa_normalised(answer: str) -> str:
    """An answer as the VQA evaluator compares it."""
    return vqa_words(answer.replace("\n", " ").replace("\t", " ").strip())


@lru_cache(maxsize=1 << 17)
def vqa_words(text: str) -> str:
    """As `vqa_normalised`, of a text whose line ends and outer blanks stay: LLaVA-Med's scripts compare this.

    What becomes of a mark depends on the whole text, so that twice is not once.
    """
    found = text
    for mark in _MARKS:
        beside_a_blank = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside_a_blank or _NUMBER_WITH_COMMA.search(text) else " ")
    found = _FULL_STOP.sub("", found, count=_MOST_STOPS)
    words = [_DIGITS.get(word, word) for word in found.lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)
