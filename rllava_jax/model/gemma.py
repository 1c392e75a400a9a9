"""The decoder: Gemma 1 and 2, and families whose layers differ within a stack (`sizes.DecoderFamily`).

Axes: B batch, Q query positions, S key positions, T = B · Q tokens, D width, N heads, K kv heads, H head dim, F mlp,
L layers, V vocabulary.
Attribute names are the published checkpoint's (`llm/layers/attn/q_einsum/w` …), so a path here is a key there.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rllava_jax.config import AttentionKind, Layers, ModelConfig, Remat
from rllava_jax.model.attention.attend import AttentionHook, attend
from rllava_jax.model.layers import fan_in_normal, over_tokens, scan_layers, stack_layers
from rllava_jax.model.lora import Adapter, adapted
from rllava_jax.model.partition_rules import TENSOR_OR_WHOLE, constrain, register_rules
from rllava_jax.model.sizes import GemmaConfig, LayerKind

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


class StackInputs(NamedTuple):
    """What all layers are given alike, beside the states.

    Attributes:
      positions: [B, Q], for RoPE.
      masks: true where query q may see key s, [B, Q, S]; by the layer kind's window.
      slot: where the new keys and values go in a cache.
      cache_dtype: keep keys and values in this type; None keeps none.
      hook: see `attention.attend.AttentionHook`.
    """

    positions: Array
    masks: Mapping[int, Array]
    slot: Array | None
    cache_dtype: Any
    hook: AttentionHook | None


def apply_rope(
    x: Float[Array, "B S N H"], positions: Int[Array, "B S"], *, base: float, factor: float = 1.0
) -> Float[Array, "B S N H"]:
    """Rotary position embedding (arXiv 2104.09864) on split halves, not on interleaved pairs.

    `factor` divides the frequencies, as linear scaling to longer contexts does.
    """
    half = x.shape[-1] // 2
    frequency = base ** -(jnp.arange(half, dtype=jnp.float32) / half)
    if factor != 1:
        frequency = frequency / factor
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def windowed(
    mask: Bool[Array, "B Q S"], queries: Int[Array, "B Q"], keys: Int[Array, "B S"], window: int
) -> Bool[Array, "B Q S"]:
    """The mask of a layer that sees `window` positions back, its own included; 0 leaves the mask as it is.

    Of six causal positions and a window of 3, the last one sees 3, 4 and 5:

        1 . . . . .
        1 1 . . . .
        1 1 1 . . .
        . 1 1 1 . .
        . . 1 1 1 .
        . . . 1 1 1
    """
    return mask & (queries[:, :, None] - keys[:, None, :] < window) if window else mask


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: GemmaConfig, settings: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.kind: AttentionKind = settings.attention
        self.recompute = settings.remat == "attention"
        width, heads, dim = config.width, config.heads, config.head_dim
        self.q_einsum = Einsum((heads, width, dim), width, rngs)
        self.kv_einsum = KeyValue(config, rngs)
        self.attn_vec_einsum = Einsum((heads, dim, width), heads * dim, rngs)
        if config.family.qk_norm:
            self._query_norm, self._key_norm = RMSNorm(dim), RMSNorm(dim)

    def __call__(
        self, x: Array, layer_kind: LayerKind, cached: KVCache | None, layer: Array, given: StackInputs
    ) -> tuple[Array, KVCache, Any]:
        config, cache_dtype, slot = self.config, given.cache_dtype, given.slot
        rope = functools.partial(
            apply_rope, positions=given.positions, base=layer_kind.rope_base, factor=layer_kind.rope_factor
        )
        query = constrain(self.q_einsum("TD,NDH->TNH", x), "heads")
        if config.family.qk_norm:
            query = self._query_norm(query)
        query = rope(query) * config.query_scale
        key, value = self.kv_einsum(x)
        if config.family.qk_norm:
            key = self._key_norm(key)
        key = rope(key)
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
            given.masks[layer_kind.window],
            cap=config.attention_cap,
            kind=self.kind,
            recompute=self.recompute,
            hook=given.hook,
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
        # Indexed, so that decoding may put a pair of arrays here (`inference.decode.unrolled_layers`).
        gate, up = (over_tokens("TD,DF->TF", x, self.gating_einsum[part]) for part in (0, 1))
        gate, up = adapted(gate, self.lora_gate, x), adapted(up, self.lora_up, x)
        hidden = constrain(jax.nn.gelu(gate, approximate=True) * up, "hidden")
        return adapted(over_tokens("TF,FD->TD", hidden, self.linear[...]), self.lora_down, hidden)


class Block(nnx.Module):
    """One layer. Gemma 2 also norms each branch before its residual sum."""

    def __init__(self, config: GemmaConfig, settings: ModelConfig, rngs: nnx.Rngs):
        self.post_norms = config.post_norms
        self.pre_attention_norm = RMSNorm(config.width)
        self.attn = Attention(config, settings, rngs)
        self.pre_ffw_norm = RMSNorm(config.width)
        self.mlp = FeedForward(config, rngs)
        if config.post_norms:
            self.post_attention_norm = RMSNorm(config.width)
            self.post_ffw_norm = RMSNorm(config.width)

    def __call__(
        self, x: Array, kind: LayerKind, cached: KVCache | None, layer: Array, given: StackInputs
    ) -> tuple[Array, KVCache, Any]:
        branch, cache, collected = self.attn(self.pre_attention_norm(x), kind, cached, layer, given)
        x = constrain(x + (self.post_attention_norm(branch) if self.post_norms else branch), "states")
        branch = self.mlp(self.pre_ffw_norm(x))
        x = constrain(x + (self.post_ffw_norm(branch) if self.post_norms else branch), "states")
        return x, cache, collected


class Embedder(nnx.Module):
    """The token embedding, tied to the output layer."""

    def __init__(self, config: GemmaConfig, rngs: nnx.Rngs):
        self.scale = config.family.embedding_scale or config.width**0.5
        self.input_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.vocab, config.width)) * config.width**-0.5
        )

    def encode(self, tokens: Int[Array, "B S"], dtype: Any) -> Float[Array, "B S D"]:
        """The tokens' embeddings, times the family's scale (the square root of the width)."""
        # Looked up where the embedding lies, then brought to the examples: else the compiler copies all of either.
        rows = constrain(constrain(jnp.take(self.input_embedding[...], tokens, axis=0).astype(dtype), "rows"), "states")
        return rows * jnp.asarray(self.scale, dtype)

    def decode(self, x: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Logits, in float32."""
        # The sum is kept in float32, whatever the compute type.
        flat = x.reshape(-1, x.shape[-1])
        embedding = self.input_embedding[...].astype(x.dtype)
        logits = jnp.einsum("TD,VD->TV", flat, embedding, preferred_element_type=jnp.float32)
        return logits.reshape(*x.shape[:-1], -1)


class DecoderOutput(NamedTuple):
    """States after the final norm [B, Q, D]; the cache, where asked for; what the hook collected."""

    states: Array
    cache: KVCache | tuple[KVCache, ...] | None
    collected: Any


class Gemma(nnx.Module):
    """The decoder: embeddings in, states out; `embedder.decode` makes logits of them."""

    def __init__(self, config: GemmaConfig, settings: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.remat: Remat = settings.remat
        self.form: Layers = settings.layers
        self.embedder = Embedder(config, rngs)
        self.layers = stack_layers(functools.partial(Block, config, settings), config.depth, rngs)
        self.final_norm = RMSNorm(config.width)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        positions: Int[Array, "B Q"],
        mask: Bool[Array, "B Q S"],
        *,
        key_positions: Int[Array, "B S"] | None = None,
        cache: KVCache | tuple[KVCache, ...] | None = None,
        slot: Int[Array, ""] | None = None,
        cache_dtype: Any = None,
        unrolled: Sequence[Block] | None = None,
        hook: AttentionHook | None = None,
    ) -> DecoderOutput:
        """Runs all layers.

        Args:
          mask: true where query q may see key s. With a cache, S is the cache's length.
          key_positions: of the keys, where there is a cache; else they are the queries'.
          cache: keys and values of earlier positions; the new ones are written at `slot`.
          cache_dtype: return the keys and values in this type (a prefill); implied by `cache`.
          unrolled: the stack's layers one by one, where the caller has unstacked them already; the cache is then a
            tuple with each layer's own.
          hook: sees the attention weights of every layer (`attention.attend`).
        """
        if cache is not None:
            cache_dtype = (cache if isinstance(cache, KVCache) else cache[0]).key.dtype
        kinds = [self.config.kind(layer) for layer in range(len(self.config.family.pattern))]
        keys = positions if key_positions is None else key_positions
        masks = {kind.window: windowed(mask, positions, keys, kind.window) for kind in kinds}
        given = StackInputs(positions, masks, slot, cache_dtype, hook)
        if unrolled is not None:
            caches, seen = [], []
            assert not isinstance(cache, KVCache)
            for number, (block, cached) in enumerate(zip(unrolled, cache or [None] * len(unrolled), strict=True)):
                x, new, found = block(x, self.config.kind(number), cached, jnp.asarray(number), given)
                caches.append(new)
                seen.append(found)
            collected = jax.tree.map(lambda *parts: jnp.stack(parts), *seen)
            return DecoderOutput(self.final_norm(x), None if cache_dtype is None else tuple(caches), collected)

        def apply(block: Block, x: Array, layer: Array, cached: KVCache | None, kind: LayerKind) -> tuple[Array, Any]:
            x, new, collected = block(x, kind, cached, layer, given)
            return x, (None if cache_dtype is None else new, collected)

        x, (new_cache, collected) = scan_layers(
            self.layers, apply, x, kinds=kinds, per_layer=cache, remat=self.remat, form=self.form
        )
        return DecoderOutput(self.final_norm(x), new_cache, collected)
