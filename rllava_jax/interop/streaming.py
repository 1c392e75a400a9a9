"""Arrays that are written to and read from an Orbax checkpoint block by block, so that no array need fit in memory.

A block is a run of rows of axis 0 (layers of a stack, rows of the token embedding). Orbax stores an array in chunks;
one written here has one chunk a block, as if it had lain sharded over devices, and any reader of Orbax restores it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

# Orbax's public face has no way to build the storage spec of an array that is not in memory.
from orbax.checkpoint._src.serialization import ocdbt_utils, tensorstore_utils
from tqdm import tqdm

from data_pipelines.core.errors import reason_of
from data_pipelines.core.paths import absolute
from rllava_jax.checkpoint.errors import DamagedCheckpoint

_BLOCK_BYTES = 2**27


@dataclass(frozen=True)
class StreamedArray:
    """An array that is produced block by block.

    Attributes:
      rows: length of each block along axis 0; the last one may be shorter.
      blocks: yields the blocks in order. Called once for each pass over the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: int
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Size of the whole array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def whole(self) -> np.ndarray:
        """All of it, in memory."""
        return np.concatenate(list(self.blocks()))

    def mapped(self, change: Callable[[np.ndarray, int], np.ndarray], **fields: Any) -> Self:
        """The array whose blocks `change` makes of these blocks and the number of their first row.

        Args:
          fields: that are others then.
        """

        def blocks() -> Iterator[np.ndarray]:
            start = 0
            for block in self.blocks():
                yield change(block, start)
                start += len(block)

        return dataclasses.replace(self, blocks=blocks, **fields)


def rows_per_block(shape: Sequence[int], itemsize: int) -> int:
    """How many rows of axis 0 make a block: at least one, and at most 128 MiB where a row allows it."""
    row = int(np.prod(shape[1:], dtype=np.int64)) * itemsize
    return int(min(max(1, _BLOCK_BYTES // max(row, 1)), max(shape[0], 1)))


def with_progress(arrays: Mapping[str, StreamedArray]) -> dict[str, StreamedArray]:
    """The same arrays; reading them moves one progress bar, in bytes."""
    total = sum(array.nbytes for array in arrays.values())
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=None)

    def watched(block: np.ndarray, _: int) -> np.ndarray:
        bar.update(block.nbytes)
        if bar.n >= total:
            bar.close()
        return block

    return {name: array.mapped(watched) for name, array in arrays.items()}


class StreamedArrayHandler(ocp.type_handlers.NumpyHandler):
    """Writes `StreamedArray` leaves one after another, block by block. Reading is NumpyHandler's."""

    async def serialize(
        self, values: Sequence[StreamedArray], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> list[ocp.future.Future]:
        """Starts the writes; Orbax awaits them before it gives the checkpoint its name."""

        async def write() -> None:
            for value, info in zip(values, infos, strict=True):
                await info.await_path_creation()
                spec = tensorstore_utils.build_array_write_spec(
                    info=info,
                    global_shape=value.shape,
                    local_shape=(value.rows, *value.shape[1:]),  # the chunks' shape
                    dtype=value.dtype,
                    use_ocdbt=info.is_ocdbt_checkpoint,
                    process_index=ocdbt_utils.get_process_index_for_subdir(use_ocdbt=info.is_ocdbt_checkpoint),
                )
                store = await ts.open(ts.Spec(spec.json), create=True, open=True, context=info.ts_context)
                start = 0
                for block in value.blocks():
                    await store[start : start + len(block)].write(block)
                    start += len(block)
                if start != value.shape[0]:
                    raise ValueError(f"{info.name}: {start} rows were produced of {value.shape[0]}")

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="streamed_arrays")]


def streaming_handler() -> ocp.PyTreeCheckpointHandler:
    """A handler that saves a dict of `StreamedArray`."""
    registry = ocp.type_handlers.create_type_handler_registry((StreamedArray, StreamedArrayHandler()))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def stored_array(folder: Path, name: str) -> StreamedArray:
    """The array `name` of the Orbax item in `folder`. Each stored chunk is read once, however many blocks it makes.

    Raises:
      ValueError: there is no such array, or it is a scalar. CheckpointError (when streamed): it is damaged.
    """
    spec = tensorstore_utils.ArrayReadSpec(
        str(absolute(folder)), name, use_zarr3=False, use_ocdbt=ocp.type_handlers.is_ocdbt_checkpoint(folder)
    )
    store = ts.open(ts.Spec(spec.json), read=True, context=tensorstore_utils.get_ts_context()).result()
    shape, dtype = tuple(store.shape), store.dtype.numpy_dtype
    if not shape:
        raise ValueError("a scalar has no rows")
    stored = store.chunk_layout.read_chunk.shape
    chunk = (stored[0] if stored else None) or shape[0]
    rows = rows_per_block(shape, dtype.itemsize)
    at_once = max(chunk, rows // chunk * chunk)

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, shape[0], at_once):
            try:
                read = store[first : min(first + at_once, shape[0])].read().result()
            except ValueError as error:  # what TensorStore raises for a missing, cut or altered chunk
                fault = f"cannot be read ({reason_of(error)})"
                raise DamagedCheckpoint(f"{folder}: {name}: {fault}; take another step") from None
            for start in range(0, len(read), rows):
                yield read[start : start + rows]

    return StreamedArray(shape, dtype, rows, blocks)
