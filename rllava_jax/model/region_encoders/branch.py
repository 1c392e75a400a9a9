"""The region branch: a marked region becomes K tokens per encoder in SigLIP's own feature space.

What a region shows comes from the pixels (`crop`) or from the image's features (`align`); where it lies comes from an
embedding of its box, because "left kidney" is a matter of where. Everything is added before the projection to the
decoder, which is SigLIP's pretrained one, and every new parameter starts at zero: at step 0 a region's tokens are image
tokens that the decoder already knows how to read, and only content tells one region from another.

Axes: B batch, R regions, E encoders, K tokens per region and encoder (k · k), P patches, W vision width.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from data_pipelines.settings import RegionConfig
from rllava_jax.model.layers import Affine
from rllava_jax.model.partition_rules import register_rules
from rllava_jax.model.published_names import Spelling, register_spellings
from rllava_jax.model.resampling import area_matrix, roi_align_matrix
from rllava_jax.model.sizes import SiglipConfig

_TOKEN_ENCODERS = ("crop", "align")  # `overlay` and `loc` reach the model through pixels and prefix
_FREQUENCIES = 8

register_rules("roi", {r"geometry/kernel": (None, "fsdp"), r"geometry/bias|token_embedding|inside": ()})  # [C, W]
register_spellings(
    "roi",
    Spelling("roi/geometry/kernel", "region_branch.geometry.weight", "G W -> W G"),
    Spelling("roi/geometry/bias", "region_branch.geometry.bias", "W -> W"),
    Spelling("roi/token_embedding", "region_branch.token_embedding", "E T W -> E T W"),
    Spelling("roi/inside", "region_branch.inside", "E W -> E W"),
)


def token_encoders(config: RegionConfig) -> tuple[str, ...]:
    """The configured encoders that add tokens to the sequence, in the order in which their tokens stand."""
    return tuple(name for name in _TOKEN_ENCODERS if name in config.encoders)


def geometry_features(boxes: Float[Array, "B R 4"]) -> Float[Array, "B R F"]:
    """Sines and cosines, at octaves, of a box's corners, centre and sides."""
    y0, x0, y1, x1 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    numbers = jnp.stack([y0, x0, y1, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1 - y0, x1 - x0], axis=-1)
    angles = numbers[..., None] * (jnp.pi * 2.0 ** jnp.arange(_FREQUENCIES) / 2)
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return waves.reshape(*boxes.shape[:-1], -1)


def align(
    features: Float[Array, "B Y X W"], boxes: Float[Array, "B R 4"], *, bins: int
) -> Float[Array, "B R bins bins W"]:
    """RoIAlign (arXiv 1703.06870) as one interpolation matrix per axis: static shapes, two matrix products."""
    rows = roi_align_matrix(boxes[..., 0], boxes[..., 2], out=bins, size=features.shape[1])
    columns = roi_align_matrix(boxes[..., 1], boxes[..., 3], out=bins, size=features.shape[2])
    dtype = features.dtype
    return jnp.einsum("BRky,BRlx,ByxW->BRklW", rows.astype(dtype), columns.astype(dtype), features)


class RegionBranch(nnx.Module):
    """Pools region features to tokens and tells them what they are: which part, which encoder, where, inside or not."""

    def __init__(self, config: RegionConfig, vision: SiglipConfig, rngs: nnx.Rngs):
        self.encoders = token_encoders(config)
        self.bins = math.isqrt(config.tokens)
        width = vision.width
        self.geometry = Affine((8 * 2 * _FREQUENCIES,), (width,), rngs)
        self.geometry.kernel[...] = jnp.zeros_like(self.geometry.kernel[...])
        self.token_embedding = nnx.Param(jnp.zeros((len(self.encoders), config.tokens, width)))
        self.inside = nnx.Param(jnp.zeros((len(self.encoders), width)))

    def __call__(
        self,
        boxes: Float[Array, "B R 4"],
        features: dict[str, Float[Array, "B R g g W"]],
        coverage: dict[str, Float[Array, "B R g g"]],
    ) -> Float[Array, "B R E*K W"]:
        """Region tokens before the projection.

        Args:
          boxes: normalised (y0, x0, y1, x1).
          features: per encoder, a square map of the region: SigLIP features of the crop, or RoIAlign bins.
          coverage: per encoder, the share of each cell of that map that lies inside the region's outline.
        """
        dtype = features[self.encoders[0]].dtype
        where = self.geometry(geometry_features(boxes)).astype(dtype)
        tokens = []
        for number, name in enumerate(self.encoders):
            cells = features[name] + coverage[name][..., None].astype(dtype) * self.inside[...][number].astype(dtype)
            pool = area_matrix(self.bins, cells.shape[2]).astype(dtype)
            pooled = jnp.einsum("ky,lx,BRyxW->BRklW", pool, pool, cells)
            pooled = pooled.reshape(*boxes.shape[:2], self.bins**2, -1)
            tokens.append(pooled + where[:, :, None] + self.token_embedding[...][number].astype(dtype))
        return jnp.concatenate(tokens, axis=2)
