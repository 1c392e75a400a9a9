"""Few text lengths for the prompts of an evaluation, so that short ones cost less and little is compiled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

# A length is a program of its own to compile, so it must serve some batches.
FEWEST_BATCHES = 8
_LENGTHS = 4
_MULTIPLE = 8


def text_lengths(longest: int) -> tuple[int, ...]:
    """The lengths that text is padded to, at most four: 16, 32 and 40 for a `longest` (T) of 40."""
    step = math.ceil(longest / _LENGTHS / _MULTIPLE) * _MULTIPLE
    return (*range(step, longest, step), longest)


def length_for(tokens: int, longest: int) -> int:
    """The shortest of `text_lengths` that holds so many tokens."""
    return next(length for length in text_lengths(longest) if length >= tokens)


def batch_lengths(tokens: Sequence[int], batch_size: int, longest: int) -> list[int]:
    """The text length of each batch of prompts of so many tokens.

    A length that fewer than `FEWEST_BATCHES` would have is left out, and its batches take the next one that is used.
    The greatest that is needed is always used.
    """
    starts = range(0, len(tokens), batch_size)
    needed = [length_for(max(tokens[start : start + batch_size]), longest) for start in starts]
    counts = Counter(needed)
    taken: dict[int, int] = {}
    waiting = 0
    for length in sorted(counts):
        waiting += counts[length]
        if waiting >= FEWEST_BATCHES or length == max(counts):
            taken[length], waiting = length, 0
    return [next(length for length in sorted(taken) if length >= own) for own in needed]
