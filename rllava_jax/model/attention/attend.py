"""Attention as both towers use it: grouped heads, float32 logits and softmax, and a hook on the weights.

Here stands the plain form, XLA's, which runs everywhere and is what the others must equal; `fused.py` has
those that never hold the weights of a whole sequence.

Axes: B batch, Q query positions, S key positions, N heads, K key-value heads, G = N / K, H head dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rllava_jax.config import AttentionKind
from rllava_jax.model.attention.fused import fused_attention
from rllava_jax.model.attention.pallas import MASKED

# Called with the weights [B, N, Q, S] and the layer's number while tracing; returns the weights to use and whatever is
# to be collected, which comes back stacked over layers. Returning changed weights is how a relevancy method takes
# gradients with respect to them.
AttentionHook = Callable[[Array, Array], tuple[Array, Any]]


def attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B Q S"] | None,
    *,
    cap: float = 0.0,
    kind: AttentionKind = "xla",
    recompute: bool = False,
    hook: AttentionHook | None = None,
    layer: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B Q N H"], Any]:
    """Grouped-query attention over an already scaled query.

    Args:
      mask: true where the key may be seen; None where every key may.
      cap: soft cap on the logits, `cap * tanh(logits / cap)` (Gemma 2); 0 is none.
      kind: which implementation; see `config.ModelConfig`. A hook and a single query position (one-token decoding)
        always take XLA's: a fused kernel has no weights to show, and one row of them is nothing to save.
      recompute: keep query, key and value for the backward pass, and not the weights. A fused kernel always does so.
      hook: see `AttentionHook`. None adds nothing to the compiled program.
      layer: handed to the hook.

    Returns:
      The attended values, and what the hook collected (None without one).
    """
    if kind != "xla" and hook is None and query.shape[1] > 1:
        key, value = key.astype(query.dtype), value.astype(query.dtype)
        return fused_attention(kind, query, key, value, mask, cap=cap), None
    if recompute:
        # With the barriers against common-subexpression elimination: where layers are apart and not scanned, nothing
        # else keeps the compiler from taking the forward pass's weights, and so from keeping them.
        again = jax.checkpoint(functools.partial(attend, cap=cap, hook=hook), prevent_cse=True)
        return again(query, key, value, mask, layer=layer)
    batch, queries, heads, dim = query.shape
    kv_heads = key.shape[2]
    key, value = key.astype(query.dtype), value.astype(query.dtype)  # a cache may be kept in a smaller type
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, dim)
    logits = jnp.einsum("BQKGH,BSKH->BKGQS", grouped, key, preferred_element_type=jnp.float32)
    if cap:
        logits = cap * jnp.tanh(logits / cap)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1)
    collected = None
    if hook is not None:
        flat = weights.reshape(batch, heads, queries, key.shape[1])
        flat, collected = hook(flat, jnp.asarray(layer))
        weights = flat.reshape(weights.shape)
    out = jnp.einsum("BKGQS,BSKH->BQKGH", weights.astype(value.dtype), value)
    return out.reshape(batch, queries, heads, dim), collected
