"""Exact and near duplicates among pairs, in the order in which they come: the first is kept."""

import itertools
from typing import Literal

from data_pipelines.core.optional_packages import optional_package
from data_pipelines.generation.pairs import GeneratedPair
from data_pipelines.generation.words import words

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
