"""Few shapes for the batches of an evaluation: short prompts and questions without a region cost less, and little is
compiled."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

# A shape is a program of its own to compile, so it must serve some batches.
FEWEST_BATCHES = 8
_LENGTHS = 4
_MULTIPLE = 8


class Shape(NamedTuple):
    """Region slots and text length of a batch."""

    slots: int
    length: int


def text_lengths(longest: int) -> tuple[int, ...]:
    """The lengths that text is padded to, at most four: 16, 32 and 40 for a `longest` (T) of 40."""
    step = math.ceil(longest / _LENGTHS / _MULTIPLE) * _MULTIPLE
    return (*range(step, longest, step), longest)


def length_for(tokens: int, longest: int) -> int:
    """The shortest of `text_lengths` that holds so many tokens."""
    return next(length for length in text_lengths(longest) if length >= tokens)


def batch_shapes(
    tokens: Sequence[int], regions: Sequence[int], batch_size: int, *, longest: int, slots: int
) -> list[Shape]:
    """The shape of each batch of prompts.

    Batches that show no region have no slots, others all. Of those that have as many slots, a text length that fewer
    than `FEWEST_BATCHES` would have is left out, and its batches take the next one that is used; the greatest that is
    needed is always used. Fewer batches than that without a region keep their slots.

    Args:
      tokens, regions: of each prompt, in the order in which they are asked.
      longest: T, the greatest text length.
      slots: R.
    """
    starts = range(0, len(tokens), batch_size)
    lengths = [length_for(max(tokens[start : start + batch_size]), longest) for start in starts]
    needed = [slots if any(regions[start : start + batch_size]) else 0 for start in starts]
    if needed.count(0) < FEWEST_BATCHES:
        needed = [slots] * len(needed)
    used = {some: _used([one for one, own in zip(lengths, needed, strict=True) if own == some]) for some in set(needed)}
    return [
        Shape(own, next(length for length in used[own] if length >= one))
        for one, own in zip(lengths, needed, strict=True)
    ]


def _used(lengths: Sequence[int]) -> list[int]:
    """Of the lengths that batches need, those that enough of them, with those of shorter ones left out, would have."""
    counts = Counter(lengths)
    used, waiting = [], 0
    for length in sorted(counts):
        waiting += counts[length]
        if waiting >= FEWEST_BATCHES or length == max(counts):
            used.append(length)
            waiting = 0
    return used
