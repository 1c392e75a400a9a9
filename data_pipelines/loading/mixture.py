"""Several sources in one training mix: which of them each draw of a run comes from.

The draws of a run are numbered, batch s holding the draws [s * batch_size, (s + 1) * batch_size). Every part of the mix
has a share of each draw, its weight over the sum of the weights, both functions of the run's progress. A draw goes to a
part where the part's expected count, the sum of its shares so far, passes the next half, so that no part ever has more
than a few draws more or less than the expected count. Nothing is random: the choice follows from settings and sizes,
and a part's position at any batch is the number of its draws before it. So a batch stays a function of its number.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8, Int64

from data_pipelines.core.errors import SettingConflict, UserError
from data_pipelines.core.json_files import digest_of
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import VQAExample
from data_pipelines.settings import DataConfig, MixPart, PolicyConfig

# Draws decided at once, and draws between two stored counts. Neither changes the result.
_DECIDED = 2**16
_COUNTED = 1024


@dataclass(frozen=True)
class Part:
    """One source of a mix.

    Attributes:
      policy: which regions its examples are shown.
      examples: those that are drawn from, of families of positive weight.
    """

    name: str
    settings: MixPart
    policy: PolicyConfig
    examples: Sequence[VQAExample]


def load_parts(data: DataConfig, *, seed: int, max_regions: int) -> list[Part]:
    """The parts of `data.mix` that are ever drawn from, in the order of the configuration.

    Raises:
      DataError: what `load_examples` raises, or a part without an example; the message names the part.
    """
    parts = []
    for name, settings in data.mix.items():
        if not settings.drawn:
            continue
        policy = settings.policy or data.policy
        root = settings.root or (data.root if settings.source == data.source else "")
        source = dataclasses.replace(
            data, source=settings.source, root=root, languages=settings.languages, policy=policy, mix={},
            boxes=settings.boxes, orientation=settings.orientation,
        )  # fmt: skip
        try:
            examples = load_examples(source, settings.split, seed=seed, max_regions=max_regions)
        except UserError as error:
            raise error.within(f"data.mix.{name}") from None
        if settings.families:
            examples = [example for example in examples if settings.families.get(example.family, 0) > 0]
        if not examples:
            raise SettingConflict(
                f"data.mix.{name}: {settings.source} {settings.split} has no example of "
                f"{', '.join(settings.families) or 'any family'}; name others, or set its weight to 0"
            )
        parts.append(Part(name, settings, policy, examples))
    return parts


def mixed(parts: Sequence[Part]) -> list[VQAExample]:
    """The examples of all parts, one after the other."""
    return [example for part in parts for example in part.examples]


class Schedule:
    """Which part each draw of a run comes from, and its number among that part's draws. A byte a draw is kept.

    Letters: P parts, N draws.
    """

    def __init__(self, parts: Sequence[Part], *, steps: int, batch_size: int, temperature: float = 0.0):
        """Decides every draw of a run.

        Args:
          temperature: `data.mix_temperature`.

        Raises:
          DataError: at some draw no part is left that has a weight; the message names the step.
        """
        self._names = tuple(part.name for part in parts)
        self._sizes = np.array([len(part.examples) for part in parts])
        self._batch_size = batch_size
        draws = steps * batch_size
        # Relative to the largest, so that a small temperature cannot overflow.
        scales = (self._sizes / self._sizes.max()) ** (1 / temperature) if temperature else np.ones(len(parts))
        weights_over_run = [np.array(part.settings.points, float).T for part in parts]
        limits = [
            max(1, round(part.settings.epochs * len(part.examples))) if part.settings.epochs else draws
            for part in parts
        ]
        left, carried = np.array(limits, np.int64), np.zeros(len(parts))
        self._ids = np.empty(draws, np.int8)
        done = 0
        while done < draws:
            block = np.arange(done, min(done + _DECIDED, draws))
            lines = [np.interp(block / draws, *points) for points in weights_over_run]
            weights = np.stack(lines) * scales[:, None] * (left > 0)[:, None]
            empty = np.flatnonzero(weights.sum(axis=0) == 0)
            if empty.size and empty[0] == 0:
                raise SettingConflict(
                    f"data.mix: after step {done // batch_size} of {steps} no part is left to draw from; "
                    "shorten train.duration, give a part more epochs, or one a weight there"
                )
            if empty.size:
                block, weights = block[: empty[0]], weights[:, : empty[0]]
            ids, after = _choose(weights, carried)
            # The first draw at which a part has given all it has: from the next on the others share its weight.
            ends = [
                int(np.flatnonzero(ids == part)[n - 1]) + 1
                for part, n in enumerate(left)
                if 0 < n <= np.count_nonzero(ids == part)
            ]
            if ends:
                ids, after = _choose(weights[:, : min(ends)], carried)
            self._ids[done : done + len(ids)] = ids
            left = left - np.bincount(ids, minlength=len(parts))
            carried, done = after, done + len(ids)
        starts = range(0, draws, _COUNTED)
        counts = [np.bincount(self._ids[start : start + _COUNTED], minlength=len(parts)) for start in starts]
        self._counts = np.concatenate([np.zeros((1, len(parts)), np.int64), np.cumsum(counts, axis=0)])

    def counts(self, draw: int) -> Int64[np.ndarray, " P"]:
        """How many of the draws before `draw` come from each part."""
        block = draw // _COUNTED
        rest = self._ids[block * _COUNTED : draw]
        return self._counts[block] + np.bincount(rest, minlength=len(self._sizes))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """The draw's part, and its number among the part's draws."""
        part = int(self._ids[draw])
        return part, int(self.counts(draw)[part])

    def positions(self, batches: int) -> dict[str, dict[str, int]]:
        """Where each part stands after so many batches: passes through its examples, and examples of the next one."""
        epochs, examples = np.divmod(self.counts(batches * self._batch_size), self._sizes)
        return {
            name: {"epoch": int(epoch), "example": int(example)}
            for name, epoch, example in zip(self._names, epochs, examples, strict=True)
        }

    def shares(self, first: int, last: int) -> dict[str, float]:
        """Each part's share of the examples of the batches [first, last)."""
        drawn = self.counts(last * self._batch_size) - self.counts(first * self._batch_size)
        return dict(zip(self._names, (drawn / ((last - first) * self._batch_size)).tolist(), strict=True))


def _choose(
    weights: Float[np.ndarray, "P n"], carried: Float[np.ndarray, " P"]
) -> tuple[Int8[np.ndarray, " n"], Float[np.ndarray, " P"]]:
    """The part of each draw, part after part: of the draws that those before it left, each takes its share.

    What is decided of a draw depends on the draws up to it alone. Every draw has a positive weight.

    Args:
      carried: of each part, the fraction of its expected count that lies beyond a whole draw.

    Returns:
      The parts, and what is carried on.
    """
    count, draws = weights.shape
    ids, after = np.empty(draws, np.int8), carried.copy()
    left = np.arange(draws)
    for part in range(count):
        share = weights[part, left]
        total = weights[part:, left].sum(axis=0)
        share = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
        expected = np.concatenate([[carried[part]], share]).cumsum()
        passed = np.floor(expected + 0.5)
        # Where nothing else is left it takes the draw, whatever rounding says.
        mine = (passed[1:] > passed[:-1]) | (share == 1)
        ids[left[mine]] = part
        after[part] = expected[-1] - np.floor(expected[-1])
        left = left[~mine]
    return ids, after


def digest(parts: Sequence[Part], temperature: float) -> str:
    """What identifies a mix: its settings, without where its files lie, and the ids of its examples."""
    settings = [
        [part.name, part.settings.families, part.settings.points, part.settings.epochs, [e.id for e in part.examples]]
        for part in parts
    ]
    return digest_of([settings, temperature])[:16]
