"""Examples to batches: a deterministic, resumable Grain pipeline for training, and ordered batches for evaluation."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np
from absl import flags
from tqdm import tqdm

from data_pipelines.policy import Shown, regions_under
from data_pipelines.preprocess import Arrays, Preprocessor
from data_pipelines.prompt import count_tokens
from data_pipelines.records import FAMILIES, DataError, ImageError, ImageSource, MaskFile, VQAExample
from rllava_jax.config import Condition, DataConfig, WrongKind

logger = logging.getLogger(__name__)

# Names listed in one message before "and N more".
_LISTED = 10


def training_iterator(
    examples: Sequence[VQAExample],
    preprocessor: Preprocessor,
    *,
    families: Mapping[str, float],
    batch_size: int,
    seed: int,
    data: DataConfig,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainingIterator:
    """Endless batches of a mixture of question families, the same for the same seed, examples and settings.

    Each family is shuffled anew every time it has been gone through; the mixture interleaves them by weight. Global
    batch s is the mixture's positions [s * batch_size, (s + 1) * batch_size), however many hosts share it: host p reads
    every process_count-th of them, from the p-th. What is random about an example depends on seed and position alone.

    Args:
      examples: of all families; those of weight 0 are left out.
      families: weight by family.
      batch_size: over all hosts; a multiple of process_count.
      data: `workers`, `threads` and `prefetch` are read here; they change the speed, never the batches.

    Returns:
      An iterator over this host's batches: the preprocessor's arrays with a leading axis of batch_size / process_count,
      and `index` int64[B], each example's place in `examples`.

    Raises:
      DataError: an unknown family, a negative weight, no examples for a positive one, or an uneven batch size.
    """
    if batch_size % process_count:
        raise DataError(f"train.batch_size = {batch_size} is no multiple of the {process_count} hosts; make it one")
    groups = _by_family(examples, families)
    seeds = np.random.SeedSequence(seed).generate_state(len(FAMILIES) + 1)
    parts = [
        grain.MapDataset.source(group).shuffle(seed=int(seeds[FAMILIES.index(family)])).repeat()
        for family, group in groups.items()
    ]
    mixture = grain.MapDataset.mix(parts, weights=[families[family] for family in groups])
    prepared = mixture.random_map(_Prepare(tuple(examples), preprocessor), seed=int(seeds[-1]))
    batches = prepared.slice(slice(process_index, None, process_count)).batch(
        batch_size // process_count, drop_remainder=True
    )
    identity = {"seed": seed, "batch_size": batch_size, "examples": _digest(examples, families)}
    return TrainingIterator(batches, data, identity)


class _Prepare:
    """Grain's random map from a place in `examples` to arrays. Pickles to worker processes."""

    def __init__(self, examples: tuple[VQAExample, ...], preprocessor: Preprocessor):
        self._examples = examples
        self._preprocessor = preprocessor

    def __call__(self, index: int, rng: np.random.Generator) -> Arrays:
        arrays = self._preprocessor.training(self._examples[index], rng)
        return {**arrays, "index": np.array(index, np.int64)}


class TrainingIterator(grain.DatasetIterator):
    """This host's batches. Its state is the number of the next batch, so it resumes on any number of hosts and workers.

    Grain's own iterator state holds positions per worker process, which ties a checkpoint to their number. Here every
    batch can be computed from its number alone, so the pipeline is rebuilt from there. Use with
    `grain.checkpoint.CheckpointSave` and `CheckpointRestore`, or `get_state` and `set_state`.
    """

    def __init__(self, batches: grain.MapDataset, data: DataConfig, identity: dict[str, Any]):
        super().__init__()
        self._batches = batches
        self._data = data
        self._identity = identity
        self._next_batch = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Arrays:
        self.start_prefetch()
        assert self._running is not None
        batch = next(self._running)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """JSON-able: the number of the next batch, and what identifies the sequence that it counts."""
        return {"next_batch": self._next_batch, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved place, forwards or back.

        Raises:
          DataError: the state counts the batches of another seed, batch size or set of examples.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise DataError(
                    f"the saved data position has {name} = {state.get(name)!r}, this run has {value!r}: "
                    "its batches are others; resume with the run's own data and settings, or start a new workdir"
                )
        self._stop()
        self._next_batch = int(state["next_batch"])

    def start_prefetch(self) -> None:
        """Starts threads and workers before the first batch is asked for."""
        if self._running is None:
            self._running = _run(self._batches.slice(slice(self._next_batch, None)), self._data)
            self._running.start_prefetch()

    def close(self) -> None:
        """Ends threads and workers."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        # Also reached from the base class's __del__, after an __init__ that failed.
        running, self._running = getattr(self, "_running", None), None
        if running is not None:
            running.close()


def _run(batches: grain.MapDataset, data: DataConfig) -> grain.DatasetIterator:
    buffer = max(data.prefetch, data.threads, 1)
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=buffer))
    if data.workers > 0:
        # Grain reads absl flags in its workers; they are unparsed unless the program is an absl.app.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=max(data.prefetch, 1)),
            worker_init_fn=_outlive_signals,
        )
    return iter(dataset)


def _outlive_signals(index: int, count: int) -> None:
    """Leaves Ctrl-C and SIGTERM, which reach the whole group, to the training process: it needs the batch under way to
    stop in order, and ends its workers itself. One whose training process is gone, however it went, ends too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=follow, name="parent", daemon=True).start()


def _by_family(examples: Sequence[VQAExample], families: Mapping[str, float]) -> dict[str, list[int]]:
    """Places of the examples of each family of positive weight, in the order of FAMILIES."""
    for family, weight in families.items():
        if family not in FAMILIES or weight < 0:
            raise DataError(f"data.families[{family!r}] = {weight}: use {', '.join(FAMILIES)}, weights of 0 or more")
    groups: dict[str, list[int]] = {family: [] for family in FAMILIES if families.get(family, 0) > 0}
    if not groups:
        raise DataError("data.families has no positive weight; give at least one family some")
    for index, example in enumerate(examples):
        if example.family in groups:
            groups[example.family].append(index)
    for family, group in groups.items():
        if not group:
            raise DataError(
                f"data.families[{family!r}] = {families[family]}, but no training example is of it; set it to 0"
            )
    return groups


def _digest(examples: Sequence[VQAExample], families: Mapping[str, float]) -> str:
    content = json.dumps([dict(families), [example.id for example in examples]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def examples_per_epoch(examples: Sequence[VQAExample], families: Mapping[str, float]) -> int:
    """Draws that make an epoch: as many as there are examples in families of positive weight.

    With weights unlike the families' sizes, a small heavy family is seen more than once in it, a light one in part.
    """
    return sum(len(group) for group in _by_family(examples, families).values())


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


def verify_images(
    examples: Sequence[VQAExample], preprocessor: Preprocessor, *, allowed: int, progress: bool = True
) -> list[VQAExample]:
    """Decodes every image and mask once, before work starts, and leaves out the examples whose image is unreadable.

    Done up front so that a corrupt file cannot change which examples later batches hold, and every worker agrees on it.
    What is decoded stays in the preprocessor's cache as far as it fits.

    Args:
      allowed: `data.corrupt_images_allowed`; so many unreadable images are skipped, counted and listed in a warning.

    Raises:
      DataError: more unreadable images than allowed; the message lists them.
    """
    masks = preprocessor.regions.outlines
    owners: dict[ImageSource | MaskFile, str] = {}
    for example in examples:
        for key in _files(example, masks=masks):
            owners.setdefault(key, example.image_id)

    def problem(key: ImageSource | MaskFile) -> str | None:
        cache = preprocessor.cache
        try:
            cache.mask(key, owners[key]) if isinstance(key, MaskFile) else cache.image(key, owners[key])
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(1, preprocessor.data.threads)) as pool:
        # disable=None: no bar where the output is no terminal.
        found = tqdm(
            pool.map(problem, owners), total=len(owners), desc="checking images", disable=None if progress else True
        )
        problems = {key: message for key, message in zip(owners, found, strict=True) if message is not None}
    if not problems:
        return list(examples)
    listing = _list([message.split(";")[0] for message in problems.values()])
    if len(problems) > allowed:
        raise DataError(
            f"{len(problems)} unreadable images, data.corrupt_images_allowed = {allowed}: {listing}; "
            "replace the files, or raise the number to train without them"
        )
    kept = [example for example in examples if problems.keys().isdisjoint(_files(example, masks=masks))]
    logger.warning(
        "skipped %d unreadable images, and with them %d of %d examples: %s",
        len(problems),
        len(examples) - len(kept),
        len(examples),
        listing,
    )
    return kept


def _files(example: VQAExample, *, masks: bool) -> list[ImageSource | MaskFile]:
    """The example's image, and its masks where they are shown, in a fixed order."""
    regions = (*example.regions, *example.distractors) if masks else ()
    return [example.image, *(region.mask for region in regions if region.mask is not None)]


def check_lengths(examples: Sequence[VQAExample], preprocessor: Preprocessor, *, answers: bool = True) -> None:
    """Tokenises every example, with its regions shown, before work starts.

    Args:
      answers: count the answer too (training); evaluation needs room for the prompt alone.

    Raises:
      DataError: some do not fit in data.text_length; the message names the longest and the length needed. Also what
        `prompt.format_prefix` raises.
    """
    limit = preprocessor.data.text_length
    too_long = []
    for example in examples:
        prefix = preprocessor.prefix(example, [region.box for region in example.regions])
        used = count_tokens(preprocessor.tokenizer, prefix, example.answer if answers else None)
        if used > limit:
            too_long.append((used, example.id))
    if too_long:
        too_long.sort(key=lambda item: (-item[0], item[1]))
        raise DataError(
            f"{len(too_long)} examples do not fit in data.text_length = {limit}: "
            f"{_list([f'{name} ({used} tokens)' for used, name in too_long])}; raise it to {too_long[0][0]}"
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
