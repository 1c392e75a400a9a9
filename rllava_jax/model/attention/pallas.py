"""Flash attention for TPU: a Pallas kernel, forward and backward, for what PaliGemma's towers need.

The logits of one block of queries against one block of keys live in on-chip memory only; the softmax is accumulated
over the blocks of keys (FlashAttention-2, arXiv 2307.08691). The backward pass keeps each query's largest logit and sum
of exponentials, and computes the weights again. Nothing of size [B, N, Q, S] exists.

It also keeps what rounding the output to the compute type cut off. The softmax's gradient subtracts Σ out · gradient
from every logit of a query; from the rounded output alone, as other implementations take it, the gradients of query and
key in bfloat16 are 1.3 to 1.5 times as noisy as XLA's. It costs as much memory as the output.

Why not a library. PaliGemma asks for one boolean mask per example, shared by its heads, with grouped heads, a soft cap,
and gradients. In JAX 0.10.2 `pallas.ops.tpu.flash_attention` has neither grouped heads nor a cap, and takes a mask only
as a bias [B, N, Q, S]. Its `splash_attention` and tokamax 0.0.12 (which builds on it) have both, but a mask that is the
same for the whole batch; tokamax refuses one per example, and a bias.

Layout. Logits are held as [keys, queries]. A softmax then reduces over sublanes, which is cheaper than over lanes, and
what belongs to a query is a row that needs no padding in memory. The mask is read as int8, block by block, by every
head. No block is skipped: in a prefix-LM all but the last few dozen tokens see each other, so nearly every one counts.

Block sizes: 512 × 512, or less where that pads less (`_block`). With heads of 256, in bfloat16, the largest of the
three kernels (gradients of keys and values) needs 3.5 MiB for its seven double-buffered operands, 1 MiB for two float32
sums and about 6 MiB for blocks of logits: 10.5 of the 16 MiB that Mosaic grants a kernel unless asked for more. Blocks
of 1024 × 512 would not fit; smaller ones read keys and values more often for the same arithmetic.

Axes: B batch, Q query positions, S key positions, N heads, K key-value heads, G = N / K, H head dim.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

# The reference's masked value: close to the least float32, and finite, so that a row that sees nothing has no NaN: it
# attends to all keys equally.
MASKED = -2.3819763e38

_LANES = 128
_LARGEST_BLOCK = 512


def flash_attention(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B Q S"] | None,
    *,
    cap: float = 0.0,
    interpret: bool = False,
) -> Float[Array, "B Q N H"]:
    """Grouped-query attention over an already scaled query, on one device; equals `attend(kind="xla")`.

    Any lengths and head dim: they are padded with zeros that change nothing. Softmax and sums are float32; matrix
    products take their operands in the query's type, float32 ones in full precision.

    Args:
      mask: true where the key may be seen; None where every key may.
      cap: soft cap on the logits, `cap * tanh(logits / cap)`; 0 is none.
      interpret: run the kernel as ordinary JAX operations, anywhere and slowly: for tests.
    """
    return _flash(query, key, value, mask, cap, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _flash(query: Array, key: Array, value: Array, mask: Array | None, cap: float, interpret: bool) -> Array:
    return _forward(query, key, value, mask, cap, interpret)[0]


def _forward(
    query: Array, key: Array, value: Array, mask: Array | None, cap: float, interpret: bool
) -> tuple[Array, tuple[Any, ...]]:
    """The attended values, and what is kept for the backward pass.

    That is, beside these and the arguments, what rounding cut off the values; of every query [B, N, Q] the largest
    logit and the sum.
    """
    batch, queries, heads, dim = query.shape
    keys, group = key.shape[1], heads // key.shape[2]
    block_q, block_s = _block(queries), _block(keys)
    q, k, v_t = _heads_first(query, block_q), _heads_first(key, block_s), _heads_first(value, block_s).mT
    padded_q, padded_s, wide = q.shape[2], k.shape[2], q.shape[3]
    row = pl.BlockSpec((None, None, 1, block_q), lambda b, n, i, j: (b, n, 0, i))
    column = pl.BlockSpec((None, None, wide, block_q), lambda b, n, i, j: (b, n, 0, i))
    out, rounded, largest, total = pl.pallas_call(
        functools.partial(_forward_kernel, cap=cap, keys=keys),
        grid=(batch, heads, padded_q // block_q, padded_s // block_s),
        in_specs=[
            pl.BlockSpec((None, None, block_q, wide), lambda b, n, i, j: (b, n, i, 0)),
            pl.BlockSpec((None, None, block_s, wide), lambda b, n, i, j: (b, n // group, j, 0)),
            pl.BlockSpec((None, None, wide, block_s), lambda b, n, i, j: (b, n // group, 0, j)),
            None if mask is None else pl.BlockSpec((None, block_s, block_q), lambda b, n, i, j: (b, j, i)),
        ],
        out_specs=[column, column, row, row],
        out_shape=[
            *[jax.ShapeDtypeStruct((batch, heads, wide, padded_q), query.dtype)] * 2,
            *[jax.ShapeDtypeStruct((batch, heads, 1, padded_q), jnp.float32)] * 2,
        ],
        scratch_shapes=[pltpu.VMEM((wide, block_q), jnp.float32)],
        compiler_params=_parallel(3, of=4),
        interpret=interpret,
        name="flash_attention_forward",
    )(q, k, v_t, _keys_first(mask, padded_q, padded_s))
    out, rounded = (_heads_last(x.mT, queries, dim) for x in (out, rounded))
    # The mask is kept as it came: a scan over layers then keeps one for all of them.
    return out, (query, key, value, mask, out, rounded, largest[:, :, 0, :queries], total[:, :, 0, :queries])


def _forward_kernel(
    q: Any, k: Any, v_t: Any, mask: Any, out: Any, rounded: Any, largest: Any, total: Any, sums: Any, **options: Any
) -> None:
    """Grid: batch, head, block of queries, block of keys. `sums` [H, q] and both rows live over the last axis."""
    step = pl.program_id(3)

    @pl.when(step == 0)
    def start() -> None:
        sums[...] = jnp.zeros_like(sums)
        largest[...] = jnp.full_like(largest, -jnp.inf)
        total[...] = jnp.zeros_like(total)

    logits, _, _ = _logits(k[...], q[...], mask, step, **options)
    before = largest[...]
    largest[...] = jnp.maximum(before, logits.max(axis=0, keepdims=True))
    weights = jnp.exp(logits - largest[...])
    shrink = jnp.exp(before - largest[...])
    total[...] = shrink * total[...] + weights.sum(axis=0, keepdims=True)
    sums[...] = shrink * sums[...] + _dot("HS,SQ->HQ", v_t[...], weights.astype(v_t.dtype))

    @pl.when(step == pl.num_programs(3) - 1)
    def finish() -> None:
        exact = sums[...] / total[...]
        out[...] = exact.astype(out.dtype)
        rounded[...] = (exact - out[...].astype(jnp.float32)).astype(rounded.dtype)


def _backward(cap: float, interpret: bool, kept: tuple[Any, ...], gradient: Array) -> tuple[Array, Array, Array, None]:
    """Gradients of query, key and value."""
    query, key, value, mask, out, rounded, largest, total = kept
    batch, queries, heads, dim = query.shape
    keys, kv_heads = key.shape[1], key.shape[2]
    group = heads // kv_heads
    block_q, block_s = _block(queries), _block(keys)
    q, g = _heads_first(query, block_q), _heads_first(gradient.astype(query.dtype), block_q)
    k, v = _heads_first(key, block_s), _heads_first(value, block_s)
    padded_q, padded_s, wide = q.shape[2], k.shape[2], q.shape[3]
    # What the softmax's gradient subtracts from every logit of a query: Σ weights · their gradients = Σ out · gradient.
    exact = out.astype(jnp.float32) + rounded.astype(jnp.float32)
    shared = (exact * gradient.astype(jnp.float32)).sum(axis=-1).mT
    edge = ((0, 0), (0, 0), (0, padded_q - queries))
    rows = [jnp.pad(row, edge, constant_values=1)[:, :, None] for row in (largest, total, shared)]
    arrays = (q, g, k, v, *rows, _keys_first(mask, padded_q, padded_s))
    options: dict[str, Any] = {"cap": cap, "keys": keys}

    q_spec = pl.BlockSpec((None, None, block_q, wide), lambda b, n, i, j: (b, n, i, 0))
    k_spec = pl.BlockSpec((None, None, block_s, wide), lambda b, n, i, j: (b, n // group, j, 0))
    row = pl.BlockSpec((None, None, 1, block_q), lambda b, n, i, j: (b, n, 0, i))
    mask_spec = None if mask is None else pl.BlockSpec((None, block_s, block_q), lambda b, n, i, j: (b, j, i))
    dq = pl.pallas_call(
        functools.partial(_query_gradient_kernel, **options),
        grid=(batch, heads, padded_q // block_q, padded_s // block_s),
        in_specs=[
            *(q_spec, q_spec, k_spec, k_spec, row, row, row, mask_spec),
            pl.BlockSpec((None, None, wide, block_s), lambda b, n, i, j: (b, n // group, 0, j)),
        ],
        out_specs=pl.BlockSpec((None, None, wide, block_q), lambda b, n, i, j: (b, n, 0, i)),
        out_shape=jax.ShapeDtypeStruct((batch, heads, wide, padded_q), query.dtype),
        scratch_shapes=[pltpu.VMEM((wide, block_q), jnp.float32)],
        compiler_params=_parallel(3, of=4),
        interpret=interpret,
        name="flash_attention_query_gradient",
    )(*arrays, k.mT)

    q_spec = pl.BlockSpec((None, None, block_q, wide), lambda b, h, j, n, i: (b, h * group + n, i, 0))
    k_spec = pl.BlockSpec((None, None, block_s, wide), lambda b, h, j, n, i: (b, h, j, 0))
    row = pl.BlockSpec((None, None, 1, block_q), lambda b, h, j, n, i: (b, h * group + n, 0, i))
    mask_spec = None if mask is None else pl.BlockSpec((None, block_s, block_q), lambda b, h, j, n, i: (b, j, i))
    dk, dv = pl.pallas_call(
        functools.partial(_key_value_gradient_kernel, **options),
        grid=(batch, kv_heads, padded_s // block_s, group, padded_q // block_q),
        in_specs=[q_spec, q_spec, k_spec, k_spec, row, row, row, mask_spec],
        out_specs=[k_spec, k_spec],
        out_shape=[jax.ShapeDtypeStruct(k.shape, key.dtype), jax.ShapeDtypeStruct(v.shape, value.dtype)],
        scratch_shapes=[pltpu.VMEM((block_s, wide), jnp.float32)] * 2,
        compiler_params=_parallel(3, of=5),
        interpret=interpret,
        name="flash_attention_key_value_gradient",
    )(*arrays)
    return _heads_last(dq.mT, queries, dim), _heads_last(dk, keys, dim), _heads_last(dv, keys, dim), None


_flash.defvjp(_forward, _backward)


def _query_gradient_kernel(
    q: Any, g: Any, k: Any, v: Any, largest: Any, total: Any, shared: Any, mask: Any, k_t: Any, dq: Any, sums: Any,
    **options: Any,
) -> None:  # fmt: skip
    """Grid: batch, head, block of queries, block of keys; `sums` [H, q] lives over the last axis."""
    step = pl.program_id(3)

    @pl.when(step == 0)
    def start() -> None:
        sums[...] = jnp.zeros_like(sums)

    _, dlogits = _weights_and_gradient(q, g, k, v, largest, total, shared, mask, step, **options)
    sums[...] += _dot("HS,SQ->HQ", k_t[...], dlogits.astype(k_t.dtype))

    @pl.when(step == pl.num_programs(3) - 1)
    def finish() -> None:
        dq[...] = sums[...].astype(dq.dtype)


def _key_value_gradient_kernel(
    q: Any, g: Any, k: Any, v: Any, largest: Any, total: Any, shared: Any, mask: Any, dk: Any, dv: Any,
    key_sums: Any, value_sums: Any, **options: Any,
) -> None:  # fmt: skip
    """Grid: batch, kv head, block of keys, head of its group, block of queries; sums [s, H] live over the last two."""
    step = pl.program_id(3) * pl.num_programs(4) + pl.program_id(4)
    last = pl.num_programs(3) * pl.num_programs(4) - 1

    @pl.when(step == 0)
    def start() -> None:
        key_sums[...] = jnp.zeros_like(key_sums)
        value_sums[...] = jnp.zeros_like(value_sums)

    weights, dlogits = _weights_and_gradient(q, g, k, v, largest, total, shared, mask, pl.program_id(2), **options)
    value_sums[...] += _dot("SQ,QH->SH", weights.astype(g.dtype), g[...])
    key_sums[...] += _dot("SQ,QH->SH", dlogits.astype(q.dtype), q[...])

    @pl.when(step == last)
    def finish() -> None:
        dk[...] = key_sums[...].astype(dk.dtype)
        dv[...] = value_sums[...].astype(dv.dtype)


def _weights_and_gradient(
    q: Any, g: Any, k: Any, v: Any, largest: Any, total: Any, shared: Any, mask: Any, step: Any,
    *, cap: float, keys: int,
) -> tuple[Array, Array]:  # fmt: skip
    """The softmax's weights of a block, and the loss's gradient by its logits before cap and mask: both [s, q]."""
    logits, capped, visible = _logits(k[...], q[...], mask, step, cap=cap, keys=keys)
    weights = jnp.exp(logits - largest[...]) / total[...]
    dlogits = weights * (_dot("SH,QH->SQ", v[...], g[...]) - shared[...])
    if cap:
        dlogits *= 1 - jnp.square(capped / cap)
    if visible is not None:
        # A row that sees nothing has weights; but no logit moves them.
        dlogits = jnp.where(visible, dlogits, 0)
    return weights, dlogits


def _logits(k: Array, q: Array, mask: Any, step: Array, *, cap: float, keys: int) -> tuple[Array, Array, Array | None]:
    """Logits [s, q] of block number `step` of the keys: capped and masked; capped only; and where they are visible."""
    capped = _dot("SH,QH->SQ", k, q)
    if cap:
        capped = cap * jnp.tanh(capped / cap)
    logits, visible = capped, None
    if mask is not None:
        visible = mask[...].astype(jnp.int32) != 0
        logits = jnp.where(visible, logits, MASKED)
    block = logits.shape[0]
    if keys % block:
        # Padding of the keys is not hidden but absent: a row that sees nothing does not attend to it either.
        position = step * block + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
        logits = jnp.where(position < keys, logits, -jnp.inf)
    return logits, capped, visible


def _dot(equation: str, a: Array, b: Array) -> Array:
    """A matrix product, summed in float32; of float32 in full precision, as whoever asks for float32 means it."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def _parallel(axes: int, *, of: int) -> pltpu.CompilerParams:
    """The first axes of the grid in any order, the others one after another."""
    return pltpu.CompilerParams(dimension_semantics=[pltpu.PARALLEL] * axes + [pltpu.ARBITRARY] * (of - axes))


def _block(length: int) -> int:
    """Of the blocks of whole lanes up to the largest, the one that pads least; of several, the largest."""
    return min(range(_LARGEST_BLOCK, 0, -_LANES), key=lambda block: -(-length // block) * block)


def _heads_first(x: Array, block: int) -> Array:
    """[B, S, N, H] as [B, N, S, H], with zeros up to whole blocks of positions and whole lanes of the head dim."""
    x = x.transpose(0, 2, 1, 3)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, -x.shape[3] % _LANES)))


def _heads_last(x: Array, length: int, dim: int) -> Array:
    """The inverse of `_heads_first`."""
    return x[:, :, :length, :dim].transpose(0, 2, 1, 3)


def _keys_first(mask: Array | None, queries: int, keys: int) -> Array | None:
    """[B, Q, S] as int8 [B, S, Q], with zeros up to the padded lengths."""
    if mask is None:
        return None
    mask = mask.astype(jnp.int8).mT
    return jnp.pad(mask, ((0, 0), (0, keys - mask.shape[1]), (0, queries - mask.shape[2])))
