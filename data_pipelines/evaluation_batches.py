"""Examples to batches of evaluation: every one once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from data_pipelines.policy import Shown, regions_under
from data_pipelines.preprocess import Arrays, Preprocessor
from data_pipelines.records import DataError, VQAExample
from rllava_jax.config import Condition, WrongKind


def evaluation_batches(
    examples: Sequence[VQAExample],
    preprocessor: Preprocessor,
    condition: Condition,
    wrong_kinds: Sequence[WrongKind],
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[Arrays, list[tuple[VQAExample, Shown]]]]:
    """The examples in order, under one condition, in batches of one static shape.

    The last batch is filled up with its last example. Hosts share each batch as in training; all yield equally many.

    Yields:
      The batch, with `example_valid` bool[B], false on the filling; and each valid row's example and what it was shown.
    """
    if batch_size % process_count:
        raise DataError(
            f"evaluation.batch_size = {batch_size} is no multiple of the {process_count} hosts; make it one"
        )

    def prepare(position: int) -> tuple[Arrays, VQAExample, Shown, bool]:
        example = examples[min(position, len(examples) - 1)]
        shown = regions_under(example, condition, wrong_kinds)
        arrays = preprocessor.evaluation(example, shown, blank=condition == "blank")
        return arrays, example, shown, position < len(examples)

    total = -(-len(examples) // batch_size) * batch_size
    mine = range(process_index, total, process_count)
    rows = batch_size // process_count
    threads = preprocessor.data.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * rows, threads))
    prepared = iter(grain.MapDataset.source(mine).map(prepare).to_iter_dataset(options))
    for _ in range(0, len(mine), rows):
        batch = [next(prepared) for _ in range(rows)]
        arrays = {name: np.stack([row[0][name] for row in batch]) for name in batch[0][0]}
        arrays["example_valid"] = np.array([valid for *_, valid in batch])
        yield arrays, [(example, shown) for _, example, shown, valid in batch if valid]
