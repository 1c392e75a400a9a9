"""Examples to batches of training: a deterministic, resumable Grain pipeline."""

import functools
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines.core.child_processes import follow_parent
from data_pipelines.core.errors import DataError, SettingConflict
from data_pipelines.core.json_files import digest_of
from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.mixture import Part, Schedule, digest, mixed
from data_pipelines.loading.preprocess import Arrays, Preprocessor
from data_pipelines.records import FAMILIES, VQAExample
from data_pipelines.settings import DataConfig, PolicyConfig

# What takes a seed of its own from the run's, in the order in which they came to be: a new one goes last, so that the
# others keep theirs.
_SEEDED = ("vqa", "identify", "localise", "verify", "choose", "drawing", "caption")


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
) -> "TrainingIterator":
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
      DataError: no examples for a positive weight, or an uneven batch size.
    """
    places = _shuffled(_by_family(examples, families), families, seed)
    prepared = places.random_map(_Prepare(tuple(examples), preprocessor), seed=_seed(seed, "drawing"))
    batches = _batched(prepared, batch_size, process_index, process_count)
    of_examples = digest_of([dict(families), [example.id for example in examples]])[:16]
    identity = {"seed": seed, "batch_size": batch_size, "examples": of_examples}
    return TrainingIterator(batches, data, identity)


def mixed_iterator(
    parts: Sequence[Part],
    preprocessor: Preprocessor,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    data: DataConfig,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainingIterator":
    """The batches of a run on several sources, which `mixture.Schedule` interleaves. As `training_iterator` otherwise.

    Each part is gone through in an order of its own, which depends on the seed and its name alone.

    Args:
      steps: of the run, whose progress the weights may follow; so many batches there are.

    Returns:
      As `training_iterator`; `index` is the place in the examples of all parts, one part after the other.

    Raises:
      DataError: as `training_iterator`, or no part is left to draw from.
    """
    sources, start = [], 0
    for part in parts:
        groups, families = {"": list(range(len(part.examples)))}, {"": 1.0}
        if part.settings.families:
            families = dict(part.settings.families)
            groups = _by_family(part.examples, families, where=f"data.mix.{part.name}.families")
        own = int(rng_for(seed, "mix", part.name).integers(2**32))
        sources.append(_shuffled(groups, families, own, start=start))
        start += len(part.examples)
    schedule = Schedule(parts, steps=steps, batch_size=batch_size, temperature=data.mix_temperature)
    places = grain.MapDataset.source(schedule).map(functools.partial(_place, sources))
    policies = tuple(part.policy for part in parts for _ in part.examples)
    prepare = _Prepare(tuple(mixed(parts)), preprocessor, policies)
    prepared = places.random_map(prepare, seed=_seed(seed, "drawing"))
    batches = _batched(prepared, batch_size, process_index, process_count)
    identity = {"seed": seed, "batch_size": batch_size, "steps": steps, "examples": digest(parts, data.mix_temperature)}
    return TrainingIterator(batches, data, identity, schedule)


def _shuffled(
    groups: Mapping[str, Sequence[int]], weights: Mapping[str, float], seed: int, *, start: int = 0
) -> grain.MapDataset:
    """The places of all groups, endless: each shuffled anew at every pass, interleaved by weight.

    Args:
      start: added to every place.
    """
    parts = [
        grain.MapDataset.source([start + place for place in group]).shuffle(seed=_seed(seed, name)).repeat()
        for name, group in groups.items()
    ]
    return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=[weights[name] for name in groups])


def _seed(seed: int, purpose: str) -> int:
    """The seed of one purpose, which follows from the run's or part's; that of a part without families is its own."""
    words = np.random.SeedSequence(seed).generate_state(len(_SEEDED))
    return int(words[_SEEDED.index(purpose)]) if purpose else seed


def _batched(prepared: grain.MapDataset, batch_size: int, process_index: int, process_count: int) -> grain.MapDataset:
    """This host's share of each global batch."""
    if batch_size % process_count:
        raise SettingConflict(
            f"train.batch_size = {batch_size} is no multiple of the {process_count} hosts; make it one"
        )
    mine = prepared.slice(slice(process_index, None, process_count))
    return mine.batch(batch_size // process_count, drop_remainder=True)


def _place(sources: Sequence[grain.MapDataset], draw: tuple[int, int]) -> int:
    """The place in the examples of all parts of a draw of the schedule."""
    part, number = draw
    place: int = sources[part][number]
    return place


@dataclass(frozen=True)
class _Prepare:
    """Grain's random map from a place in `examples` to arrays. Pickles to worker processes."""

    examples: tuple[VQAExample, ...]
    preprocessor: Preprocessor
    policies: tuple[PolicyConfig, ...] | None = None

    def __call__(self, index: int, rng: np.random.Generator) -> Arrays:
        policy = None if self.policies is None else self.policies[index]
        arrays = self.preprocessor.training(self.examples[index], rng, policy=policy)
        return {**arrays, "index": np.array(index, np.int64)}


class TrainingIterator(grain.DatasetIterator):
    """This host's batches. Its state is the number of the next batch, so it resumes on any number of hosts and workers.

    Grain's own iterator state holds positions per worker process, which ties a checkpoint to their number. Here every
    batch can be computed from its number alone, so the pipeline is rebuilt from there. A checkpoint
    stores what `get_state` gives, and `set_state` takes it back.
    """

    def __init__(
        self, batches: grain.MapDataset, data: DataConfig, identity: dict[str, Any], schedule: Schedule | None = None
    ):
        super().__init__()
        self._batches = batches
        self._data = data
        self._identity = identity
        self._schedule = schedule
        self._next_batch = 0
        self._running: grain.DatasetIterator | None = None

    def __next__(self) -> Arrays:
        self.start_prefetch()
        assert self._running is not None
        batch = next(self._running)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """JSON-able: the number of the next batch, and what identifies the sequence that it counts.

        Of a mix also each part's position, which follows from that number.
        """
        positions = {"parts": self._schedule.positions(self._next_batch)} if self._schedule else {}
        return {"next_batch": self._next_batch, **self._identity, **positions}

    def shares(self, first: int, last: int) -> dict[str, float]:
        """Each part's share of the examples of the batches [first, last); empty for a single source."""
        return self._schedule.shares(first, last) if self._schedule else {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved place, forwards or back.

        Raises:
          DataError: the state counts the batches of another seed, batch size or set of examples.
          ValueError: the state is damaged: something is missing from it.
        """
        missing = [name for name in ("next_batch", *self._identity) if name not in state]
        if missing:
            raise ValueError(f"the saved data position has no {', '.join(missing)}")
        for name, value in self._identity.items():
            if state[name] != value:
                raise DataError(
                    f"the saved data position has {name} = {state[name]!r}, this run has {value!r}: "
                    "its batches are others; resume with the run's own data and settings, or start a new workdir",
                    code="checkpoint.mismatch",
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
        flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=max(data.prefetch, 1)),
            worker_init_fn=_start_worker,
        )
    return iter(dataset)


def _start_worker(index: int, count: int) -> None:
    # The training process needs the batch under way to stop in order, and ends its workers itself.
    follow_parent(signal.SIGINT, signal.SIGTERM)


def _by_family(
    examples: Sequence[VQAExample], families: Mapping[str, float], *, where: str = "data.families"
) -> dict[str, list[int]]:
    """Places of the examples of each family of positive weight, in the order of FAMILIES."""
    groups: dict[str, list[int]] = {family: [] for family in FAMILIES if families.get(family, 0) > 0}
    for index, example in enumerate(examples):
        if example.family in groups:
            groups[example.family].append(index)
    for family, group in groups.items():
        if not group:
            raise SettingConflict(
                f"{where}[{family!r}] = {families[family]}, but no training example is of it; set it to 0"
            )
    return groups


def examples_per_epoch(examples: Sequence[VQAExample], families: Mapping[str, float]) -> int:
    """Draws that make an epoch: as many as there are examples in families of positive weight.

    With weights unlike the families' sizes, a small heavy family is seen more than once in it, a light one in part.
    """
    return sum(len(group) for group in _by_family(examples, families).values())
