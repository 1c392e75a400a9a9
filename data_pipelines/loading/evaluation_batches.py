"""Examples to batches of evaluation: every one once, under one condition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from data_pipelines.core.errors import MeshMismatch
from data_pipelines.loading.batch_shapes import Shape, batch_shapes, length_for
from data_pipelines.loading.controls import ShuffledImages
from data_pipelines.loading.preprocess import Arrays, Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.regions.policy import Shown, regions_under
from data_pipelines.settings import WrongKind

_TEXT = ("text", "mask_ar", "mask_loss", "mask_input")


class _Asked(NamedTuple):
    """An example, what it is asked with (another image, perhaps), the regions shown, and tokens of its prompt."""

    example: VQAExample
    pictured: VQAExample
    shown: Shown
    tokens: int


def evaluation_batches(
    examples: Sequence[VQAExample],
    preprocessor: Preprocessor,
    condition: str,
    wrong_kinds: Sequence[WrongKind],
    batch_size: int,
    *,
    images: ShuffledImages | None = None,
    alike: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[Arrays, list[tuple[VQAExample, Shown]]]]:
    """The examples under one condition, in batches of few static shapes (`loading/batch_shapes.py`).

    The last batch is filled up with its last example. Hosts share each batch as in training; all yield equally many.

    Args:
      images: of the whole split, for the condition "shuffled"; None takes those of `examples`.
      alike: questions that show a region together, and those that show none; among them prompts of like length, and
        answers of like length, so that a batch holds little padding and its rows are finished at about the same time.
        Else in order. The data set's answer decides a question's neighbours in the batch and nothing else.

    Yields:
      The batch, with `example_valid` bool[B], false on the filling; and each valid row's example and what it was shown.

    Raises:
      DataError: a batch that the hosts cannot share, no such condition, or as the preprocessor.
    """
    if batch_size % process_count:
        raise MeshMismatch(
            f"evaluation.batch_size = {batch_size} is no multiple of the {process_count} hosts; make it one"
        )
    asked = _asked(examples, preprocessor, condition, wrong_kinds, images)
    longest, encode = preprocessor.data.text_length, preprocessor.tokenizer.encode
    if alike:

        def likeness(one: _Asked) -> tuple[bool, int, int]:
            return bool(one.shown.regions), length_for(one.tokens, longest), len(encode(one.example.answer))

        asked.sort(key=likeness)
    shapes = batch_shapes(
        [one.tokens for one in asked],
        [len(one.shown.regions) for one in asked],
        batch_size,
        longest=longest,
        slots=preprocessor.regions.max_regions,
    )
    batches = stacked_batches(
        [(one.pictured, one.shown) for one in asked],
        shapes,
        preprocessor,
        batch_size,
        condition=condition,
        process_index=process_index,
        process_count=process_count,
    )
    for arrays, valid in batches:
        yield arrays, [(asked[position].example, asked[position].shown) for position in valid]


def stacked_batches(
    asked: Sequence[tuple[VQAExample, Shown]],
    shapes: Sequence[Shape],
    preprocessor: Preprocessor,
    batch_size: int,
    *,
    condition: str = "right",
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[Arrays, list[int]]]:
    """Questions in their order, `batch_size` at a time; prepared by threads while the one before is answered.

    Args:
      asked: examples with the image that is shown, and the regions.
      shapes: of each batch.
      condition: as `Preprocessor.evaluation`.

    Yields:
      As `evaluation_batches`, with the positions in `asked` of the valid rows.
    """

    def prepare(position: int) -> tuple[Arrays, int]:
        pictured, shown = asked[min(position, len(asked) - 1)]
        return preprocessor.evaluation(pictured, shown, condition=condition), position

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
        arrays["example_valid"] = np.array([position < len(asked) for _, position in batch])
        yield arrays, [position for _, position in batch if position < len(asked)]


def _asked(
    examples: Sequence[VQAExample],
    preprocessor: Preprocessor,
    condition: str,
    wrong_kinds: Sequence[WrongKind],
    images: ShuffledImages | None,
) -> list[_Asked]:
    if condition == "shuffled" and images is None:
        images = ShuffledImages(examples)
    asked = []
    for example in examples:
        pictured = images.under(example) if images is not None and condition == "shuffled" else example
        shown = regions_under(pictured, condition, wrong_kinds)
        asked.append(_Asked(example, pictured, shown, preprocessor.prompt_tokens(pictured, shown)))
    return asked
