"""Checksums of arrays where they live: on the devices, in any sharding, without a copy to the host.

The sum of an array's bits as 8, 16 or 32-bit words, each times an odd number that depends on its place, modulo 2^32.
An odd factor is invertible, so a single changed bit always changes the sum, and other damage escapes with a chance of
2^-32. Integers modulo 2^32 add in any order, so the sum is the same on every mesh and number of hosts. Orbax has no
such option: zarr 3 as it writes it checks only its index, OCDBT only its tree, and zstd is told to store no checksum.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

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
    # Knuth's multiplicative hash spreads the places; 2 n + 1 is odd and differs for all n below 2^31.
    return jnp.sum(words * (jnp.uint32(2654435761) * (2 * place + 1)), dtype=jnp.uint32)
