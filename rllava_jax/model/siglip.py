"""SigLIP So400m/14's architecture: a pre-norm ViT without class token or pooling, then the projection to the decoder.

Axes: B batch, P patches, W width, F mlp, N heads, H head dim, L layers. Attribute names are the published checkpoint's
(`img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel` …), so a path here is a key there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rllava_jax.config import AttentionKind, Layers, ModelConfig, Remat
from rllava_jax.model.attention.attend import AttentionHook, attend
from rllava_jax.model.layers import Dense, scan_layers, stack_layers
from rllava_jax.model.partition_rules import constrain, register_rules
from rllava_jax.model.resampling import resampled_positions
from rllava_jax.model.sizes import SiglipConfig

_NORM_EPSILON = 1e-6

register_rules(
    "img",
    {
        r".*(bias|scale)": (),
        r"embedding/kernel": (None, None, None, "fsdp"),  # [p, p, 3, W]
        r"pos_embedding": (None, None, "fsdp"),  # [1, P, W]
        r".*/(query|key|value)/kernel": (None, "fsdp", "tensor", None),  # [L, W, N, H]
        r".*/out/kernel": (None, "tensor", None, "fsdp"),  # [L, N, H, W]
        r".*/Dense_0/kernel": (None, "fsdp", "tensor"),  # [L, W, F]
        r".*/Dense_1/kernel": (None, "tensor", "fsdp"),  # [L, F, W]
        r"head/kernel": ("fsdp", None),  # [W, D]
    },
)


class LayerNorm(nnx.Module):
    """LayerNorm in float32, whatever the compute type."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        mean = x32.mean(axis=-1, keepdims=True)
        variance = jnp.square(x32 - mean).mean(axis=-1, keepdims=True)
        normed = (x32 - mean) * jax.lax.rsqrt(variance + _NORM_EPSILON)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head attention with biases, every patch seeing every patch."""

    def __init__(self, width: int, heads: int, settings: ModelConfig, rngs: nnx.Rngs):
        self.kind: AttentionKind = settings.attention
        self.recompute = settings.remat == "attention"
        head_dim = width // heads
        self.query = Dense((width,), (heads, head_dim), rngs)
        self.key = Dense((width,), (heads, head_dim), rngs)
        self.value = Dense((width,), (heads, head_dim), rngs)
        self.out = Dense((heads, head_dim), (width,), rngs)

    def __call__(self, x: Array, layer: Array, hook: AttentionHook | None) -> tuple[Array, Any]:
        query = constrain(self.query(x), "heads")
        query = query * query.shape[-1] ** -0.5
        attended, collected = attend(
            query, self.key(x), self.value(x), None, kind=self.kind, recompute=self.recompute, hook=hook, layer=layer
        )
        return self.out(constrain(attended, "heads")), collected


class MlpBlock(nnx.Module):
    """Two dense layers around a tanh-approximated GELU."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.Dense_0 = Dense((width,), (hidden,), rngs)
        self.Dense_1 = Dense((hidden,), (width,), rngs)

    def __call__(self, x: Array) -> Array:
        return self.Dense_1(constrain(jax.nn.gelu(self.Dense_0(x), approximate=True), "hidden"))


class EncoderBlock(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: SiglipConfig, settings: ModelConfig, rngs: nnx.Rngs):
        self.LayerNorm_0 = LayerNorm(config.width)
        self.MultiHeadDotProductAttention_0 = SelfAttention(config.width, config.heads, settings, rngs)
        self.LayerNorm_1 = LayerNorm(config.width)
        self.MlpBlock_0 = MlpBlock(config.width, config.mlp, rngs)

    def __call__(self, x: Array, layer: Array, hook: AttentionHook | None) -> tuple[Array, Any]:
        attended, collected = self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x), layer, hook)
        x = constrain(x + attended, "states")
        return constrain(x + self.MlpBlock_0(self.LayerNorm_1(x)), "states"), collected


class Encoder(nnx.Module):
    """The stack of layers and the final norm."""

    def __init__(self, config: SiglipConfig, settings: ModelConfig, rngs: nnx.Rngs):
        self.remat: Remat = settings.remat
        self.form: Layers = settings.layers
        self.encoderblock = stack_layers(functools.partial(EncoderBlock, config, settings), config.depth, rngs)
        self.encoder_norm = LayerNorm(config.width)

    def __call__(self, x: Array, *, hook: AttentionHook | None) -> tuple[Array, Any]:
        x, collected = scan_layers(
            self.encoderblock,
            lambda block, x, layer, _, kind: block(x, layer, hook),
            x,
            kinds=(None,),
            remat=self.remat,
            form=self.form,
        )
        return self.encoder_norm(x), collected


class Siglip(nnx.Module):
    """The vision tower with its projection (`head`) to the decoder's width."""

    def __init__(self, config: SiglipConfig, out_width: int, settings: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.embedding = Dense((config.patch, config.patch, 3), (config.width,), rngs)
        self.pos_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (1, config.grid**2, config.width)) * config.width**-0.5
        )
        self.Transformer = Encoder(config, settings, rngs)
        self.head = Dense((config.width,), (out_width,), rngs)

    def encode(
        self, image: Float[Array, "B Y X 3"], *, hook: AttentionHook | None = None
    ) -> tuple[Float[Array, "B P W"], Any]:
        """Features of every patch, row by row, before the projection.

        Args:
          image: pixels in −1…1. A side other than the configured one (a region's crop) gets position embeddings
            resampled to its own grid.
          hook: sees the attention weights of every layer (`attention.attend`).

        Returns:
          The features, and what the hook collected, stacked over layers.
        """
        patch = self.config.patch
        batch, height, width, _ = image.shape
        rows, columns = height // patch, width // patch
        patches = image.reshape(batch, rows, patch, columns, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.embedding(patches).reshape(batch, rows * columns, -1)
        positions = self.pos_embedding[...]
        if (rows, columns) != (self.config.grid, self.config.grid):
            positions = resampled_positions(positions, rows, columns)
        return self.Transformer(constrain(x + positions.astype(x.dtype), "states"), hook=hook)
