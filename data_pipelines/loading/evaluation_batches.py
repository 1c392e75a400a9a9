"""Requests to batches of evaluation: every one once."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from data_pipelines.core.errors import MeshMismatch
from data_pipelines.loading.controls import ShuffledImages
from data_pipelines.loading.preprocess import Arrays, Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.regions.policy import Shown, regions_under
from data_pipelines.settings import WrongKind

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


_TEXT = ("text", "mask_ar", "mask_loss", "mask_input")


class EvaluationRequest(NamedTuple):
    """One question to a model.

    Attributes:
      shown: the regions, whatever the example's own.
      condition: of `conditions.py`; what becomes of the picture, as `Preprocessor.evaluation`.
      other: another question, whose image is shown in place of the example's.
    """

    example: VQAExample
    shown: Shown
    condition: str
    other: VQAExample | None = None

    @property
    def pictured(self) -> VQAExample:
        """The example with the image that is shown."""
        return self.other or self.example


def requests_under(
    examples: Sequence[VQAExample],
    condition: str,
    wrong_kinds: Sequence[WrongKind],
    images: ShuffledImages | None = None,
) -> list[EvaluationRequest]:
    """The examples as a condition has them.

    Args:
      images: of the whole split, for the condition "shuffled"; None takes those of `examples`.
    """
    shuffled = (images or ShuffledImages(examples)) if condition == "shuffled" else None
    return [
        EvaluationRequest(example, regions_under(other or example, condition, wrong_kinds), condition, other)
        for example in examples
        for other in [shuffled.under(example) if shuffled else None]
    ]


def evaluation_batches(
    requests: Sequence[EvaluationRequest],
    preprocessor: Preprocessor,
    batch_size: int,
    *,
    alike: bool = False,
    one_shape: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[Arrays, list[EvaluationRequest]]]:
    """The requests in batches of few static shapes (`batch_shapes`), prepared by threads.

    The last batch is filled up with its last request. Hosts share each batch as in training; all yield equally many.

    Args:
      alike: questions that show a region together, and those that show none; among them prompts of like length, and
        answers of like length, so that a batch holds little padding and its rows are finished at about the same time.
        Else in order. The data set's answer decides a question's neighbours in the batch and nothing else.
      one_shape: every batch has all region slots and `data.text_length`.

    Yields:
      The batch, and the requests of its valid rows, which come first.

    Raises:
      DataError: a batch that the hosts cannot share, no such condition, or as the preprocessor.
    """
    if batch_size % process_count:
        raise MeshMismatch(
            f"evaluation.batch_size = {batch_size} is no multiple of the {process_count} hosts; make it one"
        )
    longest, slots = preprocessor.data.text_length, preprocessor.regions.max_regions
    encode = preprocessor.tokenizer.encode
    counted = [(request, preprocessor.prompt_tokens(request.pictured, request.shown)) for request in requests]

    def likeness(one: tuple[EvaluationRequest, int]) -> tuple[bool, int, int]:
        request, tokens = one
        return bool(request.shown.regions), length_for(tokens, longest), len(encode(request.example.answer))

    if alike:
        counted.sort(key=likeness)
    ordered = [request for request, _ in counted]
    regions = [len(request.shown.regions) for request in ordered]
    shapes = batch_shapes([n for _, n in counted], regions, batch_size, longest=longest, slots=slots)
    if one_shape:
        shapes = [Shape(slots, longest)] * len(shapes)

    def prepare(position: int) -> tuple[Arrays, int]:
        request = ordered[min(position, len(ordered) - 1)]
        return preprocessor.evaluation(request.pictured, request.shown, condition=request.condition), position

    mine = range(process_index, len(shapes) * batch_size, process_count)
    rows = batch_size // process_count
    threads = preprocessor.data.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * rows, threads))
    prepared = iter(grain.MapDataset.source(mine).map(prepare).to_iter_dataset(options))
    for shape in shapes:
        batch = [next(prepared) for _ in range(rows)]
        arrays = {name: np.stack([row[name] for row, _ in batch]) for name in batch[0][0]}
        arrays |= {name: arrays[name][:, : shape.length] for name in _TEXT}
        arrays |= {name: arrays[name][:, : shape.slots] for name in arrays if name.startswith("region")}
        yield arrays, [ordered[position] for _, position in batch if position < len(ordered)]
