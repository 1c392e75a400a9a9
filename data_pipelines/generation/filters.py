"""What is left out: captions before anything is asked of them, and pairs after. Each fault is counted by its name.

Among pairs the exact and near duplicates too, in the order in which they come: the first is kept.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_pipelines.core.errors import MissingData
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.core.text_files import lines_of
from data_pipelines.generation.captions import Caption
from data_pipelines.generation.pairs import GeneratedPair
from data_pipelines.generation.words import contains, is_language, words

Filter = Literal[
    "pathology", "length", "answer_in_question", "refusal", "mentions_caption", "language", "duplicate"
]  # fmt: skip
PathologyScope = Literal["caption", "pair"]

_REFUSALS = re.compile(
    r"""
    \bas\ an?\ (ai|artificial|language\ model|large\ language)\b
    | \bi(\ am|'m)\ (sorry|unable|not\ able)\b
    | \bi\ (cannot|can't|can\ not|do\ not|don't)\ (determine|tell|see|answer|provide|assist|help|know|have)\b
    | \b(cannot|can't|can\ not|could\ not)\ be\ (determined|answered|assessed|seen\ from|inferred)\b
    | \b(cannot|can't|unable\ to|impossible\ to|not\ possible\ to)\ (determine|tell|say|answer|infer)\b
    | \b(not|isn't|aren't|wasn't)\ (explicitly\ |specifically\ |clearly\ )?
      (mentioned|specified|stated|provided|given|described|indicated|available)\b
    | \b(no|insufficient|not\ enough)\ information\b
    | \A\W*(unknown|n/?a|none\ given|unclear|unspecified)\W*\Z
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MENTIONS_CAPTION = re.compile(
    r"""
    \bcaptions?\b | \blegend\b
    | \b(the|this|that|given|provided)\ ((given|provided|figure|image|accompanying|above)\ )?
      (text|passage|description|context|abstract|paragraph|excerpt|sentences?)\b
    | \b(mentioned|as\ (described|stated|noted|reported|indicated))\b
    | \baccording\ to\ (the|this)\ (figure|report|article|authors?|paper|study)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Filters:
    """The filters in force and their limits, both ends allowed; lengths are in words.

    Attributes:
      skipped: filters that are off.
      terms: of the pathology list, as words; None without a list.
      pathology_scope: what has to name a term.
      language: code of langdetect, e.g. "en".
    """

    skipped: frozenset[Filter]
    terms: tuple[tuple[str, ...], ...] | None
    pathology_scope: PathologyScope
    caption_words: tuple[int, int]
    question_words: tuple[int, int]
    answer_words: tuple[int, int]
    language: str

    def caption_fault(self, caption: Caption) -> str | None:
        """Why nothing is asked of a caption: too_short, too_long, pathology or language."""
        text = words(caption.caption)
        if "length" not in self.skipped and (fault := _length_fault(text, self.caption_words)):
            return fault
        if self.pathology_scope == "caption" and self._lacks_pathology(text):
            return "pathology"
        if "language" not in self.skipped and not is_language(caption.caption, self.language):
            return "language"
        return None

    def pair_fault(self, pair: GeneratedPair) -> str | None:
        """The first fault of a pair; a conversation has the first one of its turns."""
        for turn in pair.turns:
            question, answer = words(turn.question), words(turn.answer)
            fault = _length_fault(question, self.question_words) or _length_fault(answer, self.answer_words)
            if "length" not in self.skipped and fault:
                return fault
            bare = (tuple(word for word in text if word not in _ARTICLES) for text in (question, answer))
            if "answer_in_question" not in self.skipped and pair.kind != "closed" and contains(*bare):
                return "answer_in_question"
            # Refusals before mentions: "not mentioned in the caption" is both, and the first is what happened.
            if "refusal" not in self.skipped and _REFUSALS.search(turn.answer):
                return "refusal"
            if "mentions_caption" not in self.skipped and _MENTIONS_CAPTION.search(f"{turn.question} {turn.answer}"):
                return "mentions_caption"
        if self.pathology_scope == "pair" and self._lacks_pathology(words(pair.text)):
            return "pathology"
        # The yes or no of a closed question is English in every language.
        prose = " ".join(turn.question for turn in pair.turns) if pair.kind == "closed" else pair.text
        if "language" not in self.skipped and not is_language(prose, self.language):
            return "language"
        return None

    def _lacks_pathology(self, text: tuple[str, ...]) -> bool:
        if self.terms is None or "pathology" in self.skipped:
            return False
        return not any(contains(text, term) for term in self.terms)


def read_pathologies(path: str) -> tuple[tuple[str, ...], ...]:
    """The terms of a text file, one a line; empty lines and lines that begin with # are passed over.

    Raises:
      DataError: the file cannot be read or holds no terms.
    """
    lines = [line.strip() for _, line in lines_of(path, remedy="name a text file in UTF-8 with one term a line")]
    terms = tuple(words(line) for line in lines if not line.startswith("#"))
    if not any(terms):
        raise MissingData(f"{path}: holds no terms; write one a line")
    return terms


def _length_fault(text: tuple[str, ...], limits: Sequence[int]) -> str | None:
    least, most = limits
    return "too_short" if len(text) < least else "too_long" if len(text) > most else None


DuplicateScope = Literal["image", "set"]
Bigrams = frozenset[tuple[str, str]]
_PERMUTATIONS = 128


class Duplicates:
    """Remembers the pairs that were kept.

    Exact: the same questions in the same words, whatever the answers, since a second answer to one question is no gain
    and may contradict. Near: the same answers, and questions whose sets of word pairs have a Jaccard similarity of at
    least `threshold`. Equal answers are asked for because one word turns a medical question round: "left" and "right".

    Candidates come from MinHash with banding (Broder 1997; datasketch), which misses a few near the threshold and is
    weighted towards finding them; each is then compared exactly, so nothing is left out by a wrong estimate.
    """

    def __init__(self, scope: DuplicateScope, threshold: float):
        """Starts empty.

        Args:
          scope: image: only pairs of one image are compared, since the same question may be asked of many; set: all.
          threshold: above 0, at most 1.

        Raises:
          DataError: datasketch is not installed.
        """
        datasketch = optional_package(
            "datasketch", "the filter of duplicates", otherwise="skip it with --skip-filter duplicate"
        )
        self._scope = scope
        self._threshold = threshold
        self._minhash = datasketch.MinHash
        self._index = datasketch.MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, weights=(0.1, 0.9))
        self._exact: set[str] = set()
        self._kept: list[Bigrams] = []

    def fault(self, pair: GeneratedPair, image_id: str) -> str | None:
        """duplicate_exact or duplicate_near; a pair that is neither is remembered."""
        # A multiple choice and an open question in the same words are two tasks.
        place = f"{image_id if self._scope == 'image' else ''}\n{'choice' if pair.wrong else ''}"
        questions = [" ".join(words(turn.question)) for turn in pair.turns]
        answers = [" ".join(words(turn.answer)) for turn in pair.turns]
        exact = "\n".join([place, *questions])
        if exact in self._exact:
            return "duplicate_exact"
        bigrams = frozenset(two for question in questions for two in itertools.pairwise(["", *question.split(), ""]))
        # Scope and answers are part of every hashed element, so pairs that differ in them share none.
        common = "\n".join([place, *answers])
        sketch = self._minhash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([f"{common}\n{first} {second}".encode() for first, second in sorted(bigrams)])
        for kept in (self._kept[candidate] for candidate in self._index.query(sketch)):
            if len(kept & bigrams) / len(kept | bigrams) >= self._threshold:
                return "duplicate_near"
        self._exact.add(exact)
        self._index.insert(len(self._kept), sketch)
        self._kept.append(bigrams)
        return None
