"""The region branch: a marked region becomes K tokens per encoder in SigLIP's own feature space.

What a region shows comes from its encoders (`protocol.py`); where it lies comes from an embedding of its box, because
"left kidney" is a matter of where. Everything is added before the projection to the decoder, which is SigLIP's
pretrained one, and every parameter here starts at zero: at step 0 a region's tokens are image tokens that the decoder
already knows how to read, and only content tells one region from another.

Axes: B batch, R regions, E encoders, K tokens per region and encoder (k · k), P patches, W vision width.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from data_pipelines.settings import RegionConfig
from rllava_jax.model.layers import Dense
from rllava_jax.model.partition_rules import register_rules
from rllava_jax.model.published_names import Spelling, register_spellings
from rllava_jax.model.region_encoders.protocol import PooledEncoder, Scene, token_encoders
from rllava_jax.model.resampling import area_matrix
from rllava_jax.model.sizes import SiglipConfig

_FREQUENCIES = 8
GEOMETRY_FEATURES = 8 * 2 * _FREQUENCIES  # of a box: 8 numbers, sine and cosine, 8 octaves

register_rules("roi", {r"geometry/kernel": (None, "fsdp"), r"geometry/bias|token_embedding|inside": ()})  # [C, W]
register_spellings(
    "roi",
    Spelling("roi/geometry/kernel", "region_branch.geometry.weight", "G W -> W G"),
    Spelling("roi/geometry/bias", "region_branch.geometry.bias", "W -> W"),
    Spelling("roi/token_embedding", "region_branch.token_embedding", "E T W -> E T W"),
    Spelling("roi/inside", "region_branch.inside", "E W -> E W"),
)


def geometry_features(boxes: Float[Array, "B R 4"]) -> Float[Array, "B R F"]:
    """Sines and cosines, at octaves, of a box's corners, centre and sides."""
    y0, x0, y1, x1 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    numbers = jnp.stack([y0, x0, y1, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1 - y0, x1 - x0], axis=-1)
    angles = numbers[..., None] * (jnp.pi * 2.0 ** jnp.arange(_FREQUENCIES) / 2)
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return waves.reshape(*boxes.shape[:-1], -1)


class RegionBranch(nnx.Module):
    """Collects the encoders' tokens and tells them what they are: which part, which encoder, where, inside or not."""

    def __init__(self, config: RegionConfig, vision: SiglipConfig, rngs: nnx.Rngs):
        self.config = config
        encoders = token_encoders(config)
        self.pooled = tuple(name for name, encoder in encoders.items() if isinstance(encoder, PooledEncoder))
        self.geometry = Dense((GEOMETRY_FEATURES,), (vision.width,), rngs)
        self.geometry.kernel[...] = jnp.zeros_like(self.geometry.kernel[...])
        if self.pooled:
            self.token_embedding = nnx.Param(jnp.zeros((len(self.pooled), config.tokens, vision.width)))
            self.inside = nnx.Param(jnp.zeros((len(self.pooled), vision.width)))
        for name, encoder in encoders.items():
            if (own := encoder.parameters(config, vision, rngs)) is not None:
                setattr(self, name, own)

    def __call__(self, scene: Scene) -> Float[Array, "B RK W"]:
        """Region tokens before the projection: of the first region those of each encoder, then the second's."""
        boxes, dtype = scene.inputs.given("regions"), scene.features.dtype
        where = self.geometry(geometry_features(boxes)).astype(dtype)
        parts = []
        for name, encoder in token_encoders(self.config).items():
            if isinstance(encoder, PooledEncoder):
                number = self.pooled.index(name)
                pooled = self._pool(number, *encoder.cells(scene, self.config))
                parts.append(pooled + where[:, :, None] + self.token_embedding[...][number].astype(dtype))
            else:
                tokens = encoder.encode(scene, self.config, getattr(self, name, None))
                parts.append(tokens + where[:, :, None])
        return jnp.concatenate(parts, axis=2).reshape(boxes.shape[0], -1, scene.features.shape[-1])

    def _pool(
        self, number: int, features: Float[Array, "B R g g W"], coverage: Float[Array, "B R g g"]
    ) -> Float[Array, "B R K W"]:
        dtype = features.dtype
        cells = features + coverage[..., None].astype(dtype) * self.inside[...][number].astype(dtype)
        bins = math.isqrt(self.config.tokens)
        pool = area_matrix(bins, cells.shape[2]).astype(dtype)
        pooled = jnp.einsum("ky,lx,BRyxW->BRklW", pool, pool, cells)
        return pooled.reshape(*cells.shape[:2], bins**2, -1)
