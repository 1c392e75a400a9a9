"""The Gemma 1 and Gemma 2 decoders.

Axes: B batch, Q query positions, S key positions, T = B · Q tokens, D width, N heads, K kv heads, H head dim, F mlp,
L layers, V vocabulary.
Attribute names are the published checkpoint's (`llm/layers/attn/q_einsum/w` …), so a path here is a key there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rllava_jax.config import AttentionKind, Layers, Remat
from rllava_jax.model.attention.attend import AttentionHook, attend
from rllava_jax.model.layers import fan_in_normal, over_tokens, scan_layers, stack_layers
from rllava_jax.model.lora import Adapter, adapted
from rllava_jax.model.partition_rules import TENSOR_OR_WHOLE, constrain, register_rules
from rllava_jax.model.sizes import GemmaConfig

_NORM_EPSILON = 1e-6

register_rules(
    "llm",
    {
        r".*scale": (),
        r"embedder/input_embedding": ("tensor", "fsdp"),  # [V, D]
        r"layers/attn/q_einsum/w": (None, "tensor", "fsdp", None),  # [L, N, D, H]
        r"layers/attn/kv_einsum/w": (None, None, TENSOR_OR_WHOLE, "fsdp", None),  # [L, 2, K, D, H]
        r"layers/attn/attn_vec_einsum/w": (None, "tensor", None, "fsdp"),  # [L, N, H, D]
        r"layers/mlp/gating_einsum": (None, None, "fsdp", "tensor"),  # [L, 2, D, F]
        r"layers/mlp/linear": (None, "tensor", "fsdp"),  # [L, F, D]
    },
)


class KVCache(NamedTuple):
    """Keys (after RoPE) and values of every layer: each [L, B, S, K, H]."""

    key: Array
    value: Array


class RMSNorm(nnx.Module):
    """`x̂ · (1 + scale)` in float32; scale starts at 0."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.square(x32).mean(axis=-1, keepdims=True) + _NORM_EPSILON)
        return (normed * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype)


class Einsum(nnx.Module):
    """One weight and an equation."""

    def __init__(self, shape: tuple[int, ...], fan_in: int, rngs: nnx.Rngs):
        self.w = nnx.Param(fan_in_normal(rngs, shape, fan_in))
        self.lora: Adapter | None = None

    def __call__(self, equation: str, x: Array) -> Array:
        return adapted(over_tokens(equation, x, self.w[...]), self.lora, x)


class KeyValue(nnx.Module):
    """The projections to keys and values, in one weight."""

    def __init__(self, config: GemmaConfig, rngs: nnx.Rngs):
        self.w = nnx.Param(fan_in_normal(rngs, (2, config.kv_heads, config.width, config.head_dim), config.width))
        self.lora_k: Adapter | None = None
        self.lora_v: Adapter | None = None

    def __call__(self, x: Array) -> tuple[Array, Array]:
        key, value = jnp.unstack(over_tokens("TD,CKDH->TCKH", x, self.w[...]), axis=2)
        return adapted(key, self.lora_k, x), adapted(value, self.lora_v, x)


def rotate(x: Float[Array, "B S N H"], positions: Int[Array, "B S"], *, base: float) -> Float[Array, "B S N H"]:
    """Rotary position embedding (arXiv 2104.09864) on split halves, not on interleaved pairs."""
    half = x.shape[-1] // 2
    frequency = base ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: GemmaConfig, kind: AttentionKind, *, recompute: bool, rngs: nnx.Rngs):
        self.config = config
        self.kind, self.recompute = kind, recompute
        width, heads, dim = config.width, config.heads, config.head_dim
        self.q_einsum = Einsum((heads, width, dim), width, rngs)
        self.kv_einsum = KeyValue(config, rngs)
        self.attn_vec_einsum = Einsum((heads, dim, width), heads * dim, rngs)

    def __call__(
        self,
        x: Array,
        positions: Array,
        mask: Array,
        cached: KVCache | None,
        slot: Array | None,
        cache_dtype: Any,
        layer: Array,
        hook: AttentionHook | None,
    ) -> tuple[Array, KVCache, Any]:
        config = self.config
        query = constrain(self.q_einsum("TD,NDH->TNH", x), "heads")
        query = rotate(query, positions, base=config.rope_base) * config.query_scale
        key, value = self.kv_einsum(x)
        key = rotate(key, positions, base=config.rope_base)
        if cache_dtype is not None:
            # What is attended to is what is kept: a prefill and the steps after it see the same rounding.
            key, value = key.astype(cache_dtype), value.astype(cache_dtype)
        if cached is not None and slot is not None:
            key = jax.lax.dynamic_update_slice_in_dim(cached.key, key, slot, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(cached.value, value, slot, axis=1)
        attended, collected = attend(
            query,
            key,
            value,
            mask,
            cap=config.attention_cap,
            kind=self.kind,
            recompute=self.recompute,
            hook=hook,
            layer=layer,
        )
        return self.attn_vec_einsum("TNH,NHD->TD", constrain(attended, "heads")), KVCache(key, value), collected


class FeedForward(nnx.Module):
    """`(gelu(x W0) · x W1) W2`."""

    def __init__(self, config: GemmaConfig, rngs: nnx.Rngs):
        self.gating_einsum = nnx.Param(fan_in_normal(rngs, (2, config.width, config.mlp), config.width))
        self.linear = nnx.Param(fan_in_normal(rngs, (config.mlp, config.width), config.mlp))
        self.lora_gate: Adapter | None = None
        self.lora_up: Adapter | None = None
        self.lora_down: Adapter | None = None

    def __call__(self, x: Array) -> Array:
        # Indexed, so that decoding may put a pair of arrays here (`inference.decode.layers_apart`).
        gate, up = (over_tokens("TD,DF->TF", x, self.gating_einsum[part]) for part in (0, 1))
        gate, up = adapted(gate, self.lora_gate, x), adapted(up, self.lora_up, x)
        hidden = constrain(jax.nn.gelu(gate, approximate=True) * up, "hidden")
        return adapted(over_tokens("TF,FD->TD", hidden, self.linear[...]), self.lora_down, hidden)


class Block(nnx.Module):
    """One layer. Gemma 2 also norms each branch before its residual sum."""

    def __init__(self, config: GemmaConfig, attention: AttentionKind, *, recompute: bool, rngs: nnx.Rngs):
        self.post_norms = config.post_norms
        self.pre_attention_norm = RMSNorm(config.width)
        self.attn = Attention(config, attention, recompute=recompute, rngs=rngs)
        self.pre_ffw_norm = RMSNorm(config.width)
        self.mlp = FeedForward(config, rngs)
        if config.post_norms:
            self.post_attention_norm = RMSNorm(config.width)
            self.post_ffw_norm = RMSNorm(config.width)

    def __call__(
        self,
        x: Array,
        positions: Array,
        mask: Array,
        cached: KVCache | None,
        slot: Array | None,
        cache_dtype: Any,
        layer: Array,
        hook: AttentionHook | None,
    ) -> tuple[Array, KVCache, Any]:
        branch, cache, collected = self.attn(
            self.pre_attention_norm(x), positions, mask, cached, slot, cache_dtype, layer, hook
        )
        x = constrain(x + (self.post_attention_norm(branch) if self.post_norms else branch), "states")
        branch = self.mlp(self.pre_ffw_norm(x))
        x = constrain(x + (self.post_ffw_norm(branch) if self.post_norms else branch), "states")
        return x, cache, collected


class Embedder(nnx.Module):
    """The token table, tied to the output layer."""

    def __init__(self, config: GemmaConfig, rngs: nnx.Rngs):
        self.input_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.vocab, config.width)) * config.width**-0.5
        )

    def encode(self, tokens: Int[Array, "B S"], dtype: Any) -> Float[Array, "B S D"]:
        """Rows of the table, scaled by the square root of the width."""
        # Looked up where the table lies, then brought to the examples: else the compiler copies all of either.
        rows = constrain(constrain(jnp.take(self.input_embedding[...], tokens, axis=0).astype(dtype), "rows"), "states")
        return rows * jnp.asarray(rows.shape[-1] ** 0.5, dtype)

    def decode(self, x: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Logits, in float32."""
        # The sum is kept in float32, whatever the compute type.
        flat = x.reshape(-1, x.shape[-1])
        table = self.input_embedding[...].astype(x.dtype)
        logits = jnp.einsum("TD,VD->TV", flat, table, preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:-1], -1)


class DecoderOutput(NamedTuple):
    """States after the final norm [B, Q, D]; the cache, where asked for; what the hook collected."""

    states: Array
    cache: KVCache | None
    collected: Any


class Gemma(nnx.Module):
    """The decoder: embeddings in, states out; `embedder.decode` makes logits of them."""

    def __init__(
        self,
        config: GemmaConfig,
        *,
        remat: Remat = "none",
        layers: Layers = "auto",
        attention: AttentionKind = "xla",
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.remat: Remat = remat
        self.form: Layers = layers

        def block(rngs: nnx.Rngs) -> Block:
            return Block(config, attention, recompute=remat == "attention", rngs=rngs)

        self.embedder = Embedder(config, rngs)
        self.layers = stack_layers(block, config.depth, rngs)
        self.final_norm = RMSNorm(config.width)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        positions: Int[Array, "B Q"],
        mask: Bool[Array, "B Q S"],
        *,
        cache: KVCache | None = None,
        slot: Int[Array, ""] | None = None,
        cache_dtype: Any = None,
        hook: AttentionHook | None = None,
    ) -> DecoderOutput:
        """Runs all layers.

        Args:
          mask: true where query q may see key s. With a cache, S is the cache's length.
          cache: keys and values of earlier positions; the new ones are written at `slot`.
          cache_dtype: return the keys and values in this type (a prefill); implied by `cache`.
          hook: sees the attention weights of every layer (`attention.AttentionHook`).
        """
        if cache is not None:
            cache_dtype = cache.key.dtype

        def apply(block: Block, x: Array, layer: Array, cached: KVCache | None) -> tuple[Array, Any]:
            x, new, collected = block(x, positions, mask, cached, slot, cache_dtype, layer, hook)
            return x, (None if cache_dtype is None else new, collected)

        x, (new_cache, collected) = scan_layers(
            self.layers, apply, x, per_layer=cache, remat=self.remat, form=self.form
        )
        return DecoderOutput(self.final_norm(x), new_cache, collected)
