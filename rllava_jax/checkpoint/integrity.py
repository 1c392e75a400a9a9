"""Checksums of arrays where they live: on the devices, in any sharding, without a copy to the host.

The sum of an array's bits as 8, 16 or 32-bit words, each times an odd number that depends on its place, modulo 2^32.
An odd factor is invertible, so a single changed bit always changes the sum, and other damage escapes with a chance of
2^-32. Integers modulo 2^32 add in any order, so the sum is the same on every mesh and number of hosts. Orbax has no
such option: zarr 3 as it writes it checks only its index, OCDBT only its tree, and zstd is told to store no checksum.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

# Knuth's multiplicative hash spreads the places; 2 n + 1 is odd and differs for all n below 2^31.
_SPREAD = 2654435761
_PIECE = 2**20  # words that are summed at once on the host
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def checksums(tree: Any) -> dict[str, int]:
    """One number by path (`jax.tree_util.keystr`) for every array of the tree. All hosts must ask.

    Reading them waits until the arrays are computed.
    """
    groups: dict[frozenset[jax.Device], dict[str, Array]] = {}  # one program works on one set of devices
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        groups.setdefault(frozenset(leaf.sharding.device_set), {})[jax.tree_util.keystr(path)] = leaf
    sums = jax.device_get([_sums(leaves) for leaves in groups.values()])
    return {name: int(value) for group in sums for name, value in group.items()}


@jax.jit
def _sums(leaves: Mapping[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: _sum(leaf) for name, leaf in leaves.items()}


@jax.jit  # within the other, so that arrays of one shape are traced once
def _sum(x: Array) -> UInt32[Array, ""]:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(words * (jnp.uint32(_SPREAD) * (2 * place + 1)), dtype=jnp.uint32)


def key_of(parameter: str) -> str:
    """The name under which a checkpoint's `checksums.json` has the sum of a parameter."""
    return jax.tree_util.keystr((jax.tree_util.DictKey("params"), jax.tree_util.DictKey(parameter)))


def summed(blocks: Iterable[np.ndarray], into: dict[str, int], name: str) -> Iterator[np.ndarray]:
    """Yields blocks, an array's rows in order, and then puts the array's sum into `into`, as `checksums` has it."""
    total, place = 0, 0
    for block in blocks:
        words = np.ascontiguousarray(block).reshape(-1).view(np.dtype(f"u{block.dtype.itemsize}"))
        for start in range(0, len(words), _PIECE):
            piece = words[start : start + _PIECE].astype(np.uint32)
            places = (np.arange(len(piece), dtype=np.uint64) + place).astype(np.uint32)
            total += int(np.sum(piece * (np.uint32(_SPREAD) * (2 * places + 1)), dtype=np.uint32))
            place += len(piece)
        yield block
    into[name] = total % 2**32
