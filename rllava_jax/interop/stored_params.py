"""A checkpoint on disk, opened to be written elsewhere: its parameters as streams, merged or in another type."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np

from rllava_jax.checkpoint.errors import CheckpointError, CheckpointMismatch, DamagedCheckpoint
from rllava_jax.checkpoint.integrity import key_of, summed
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.checkpoint.orbax_files import stored_checksums
from rllava_jax.config import LoraConfig, LoraTarget
from rllava_jax.interop.layout import EMBEDDING, by_array, spellings
from rllava_jax.interop.streaming import StreamedArray, stored_array
from rllava_jax.model.lora import TARGETS, LoraSite, delta, is_adapter
from rllava_jax.model.published_names import Spelling
from rllava_jax.model.sizes import PaliGemmaConfig, model_size


class StoredCheckpoint(OpenedCheckpoint):
    """A checkpoint, opened, and its arrays as streams."""

    @cached_property
    def arrays(self) -> dict[str, StreamedArray]:
        """Every parameter by name, read block by block when streamed, and compared with its checksum at the end.

        Raises (when streamed):
          CheckpointError: a parameter is not as it was saved, of those that have a checksum.
        """
        try:
            sums = stored_checksums(self.where)
        except ValueError as error:
            raise DamagedCheckpoint(str(error)) from None
        arrays = {name: stored_array(self.where / "params", name) for name in self.shapes}
        return {name: self._verified(name, array, sums) for name, array in arrays.items()} if sums else arrays

    def _verified(self, name: str, array: StreamedArray, sums: Mapping[str, int]) -> StreamedArray:
        def blocks() -> Iterator[np.ndarray]:
            found: dict[str, int] = {}
            yield from summed(array.blocks(), found, name)
            if found[name] != sums.get(key_of(name)):
                fault = "not the numbers that were saved, by their checksum"
                raise DamagedCheckpoint(f"{self.where}: {name}: {fault}; take another step")

        return dataclasses.replace(array, blocks=blocks)

    @property
    def size(self) -> PaliGemmaConfig:
        """The model's, with the rows of its token embedding."""
        return model_size(self.config.model, vocab=self.shapes[EMBEDDING].shape[0])


def merged_streams(arrays: Mapping[str, StreamedArray], lora: LoraConfig) -> dict[str, StreamedArray]:
    """The arrays without adapters, each adapter added to its projection, in float32 where one is added.

    Raises:
      CheckpointError: an adapter that is not added anywhere.
    """
    used: set[str] = set()
    out = {}
    for name, array in arrays.items():
        if is_adapter(name):
            continue
        sites: dict[LoraTarget, LoraSite] = {
            target: site
            for target, site in TARGETS.items()
            if site.base == name and target in lora.targets and f"{site.adapter}/a" in arrays
        }
        used |= {f"{site.adapter}/{part}" for site in sites.values() for part in "ab"}
        out[name] = _merged(array, sites, arrays, lora.alpha / lora.rank) if sites else array
    left = sorted(name for name in arrays if is_adapter(name) and name not in used)
    if left:
        raise CheckpointMismatch(
            f"{', '.join(left[:4])}: adapters that the run's lora.targets do not name; nothing is written"
        )
    return out


def _merged(
    base: StreamedArray, sites: Mapping[LoraTarget, LoraSite], arrays: Mapping[str, StreamedArray], scale: float
) -> StreamedArray:
    @cache
    def factors(adapter: str) -> tuple[np.ndarray, np.ndarray]:
        return arrays[f"{adapter}/a"].whole(), arrays[f"{adapter}/b"].whole()

    def summed(block: np.ndarray, start: int) -> np.ndarray:
        total = block.astype(np.float32)
        rows = slice(start, start + len(block))
        for target, site in sites.items():
            a, b = factors(site.adapter)
            # Of a stack, only these layers' factors; `head` has no layers, and its rows are sliced afterwards.
            added = delta(target, a[rows], b[rows], scale) if site.stacked else delta(target, a, b, scale)[rows]
            if site.index is None:
                total += added
            else:
                total[:, site.index] += added
        return total

    return base.mapped(summed, dtype=np.dtype(np.float32))


def spelled_tensors(
    arrays: Mapping[str, StreamedArray], size: PaliGemmaConfig
) -> Iterator[tuple[Spelling, str, np.ndarray]]:
    """Hugging Face's tensors of our arrays: spelling, canonical name and value, a layer at a time."""
    for ours, spelled in by_array(spellings(size, arrays)).items():
        array = arrays[ours]
        if not spelled[0].layered:
            yield spelled[0], spelled[0].theirs, spelled[0].export(array.whole())
            continue
        layers = (layer for block in array.blocks() for layer in block)
        for number, layer in enumerate(layers):
            for spelling in spelled:
                yield spelling, spelling.theirs.format(layer=number), spelling.export(spelling.part(layer))


def in_dtype(array: StreamedArray, dtype: np.dtype[Any], name: str) -> StreamedArray:
    """The array in another type, rounded to nearest.

    Raises (when streamed):
      CheckpointError: a number that the type cannot hold (float16 ends at 65,504).
    """
    if array.dtype == dtype:
        return array

    def cast(block: np.ndarray, _: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            rounded = block.astype(dtype)
        if np.isfinite(block.astype(np.float32)).all() and not np.isfinite(rounded.astype(np.float32)).all():
            raise CheckpointError(
                f"{name}: holds numbers beyond {dtype}'s range; export with --dtype bfloat16",
                code="export.out-of-range",
            )
        return rounded

    return array.mapped(cast, dtype=dtype)
