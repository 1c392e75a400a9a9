"""`align`: RoIAlign over the image's own features."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

from data_pipelines.settings import RegionConfig
from rllava_jax.model.region_encoders.protocol import PooledEncoder, Product, Scene
from rllava_jax.model.resampling import roi_align_matrix
from rllava_jax.model.sizes import SiglipConfig


def align(
    features: Float[Array, "B Y X W"], boxes: Float[Array, "B R 4"], *, bins: int
) -> Float[Array, "B R bins bins W"]:
    """RoIAlign (arXiv 1703.06870) as one interpolation matrix per axis: static shapes, two matrix products."""
    rows = roi_align_matrix(boxes[..., 0], boxes[..., 2], out=bins, size=features.shape[1])
    columns = roi_align_matrix(boxes[..., 1], boxes[..., 3], out=bins, size=features.shape[2])
    dtype = features.dtype
    return jnp.einsum("BRky,BRlx,ByxW->BRklW", rows.astype(dtype), columns.astype(dtype), features)


class AlignTokens(PooledEncoder):
    """A cell of the map is a token already: pooling is the identity."""

    name = "align"

    def side(self, config: RegionConfig, vision: SiglipConfig) -> int:
        """Bins on a side of the box."""
        return math.isqrt(config.tokens)

    def cells(self, scene: Scene, config: RegionConfig) -> tuple[Float[Array, "B R g g W"], Float[Array, "B R g g"]]:
        """Of the features that the whole image has already."""
        grid = scene.inputs.image.shape[1] // scene.vision.config.patch
        square = scene.features.reshape(-1, grid, grid, scene.features.shape[-1])
        cells = align(square, scene.inputs.given("regions"), bins=math.isqrt(config.tokens))
        return cells, scene.inputs.given("region_align_coverage")

    def products(self, config: RegionConfig, vision: SiglipConfig) -> Iterator[Product]:
        """The two interpolation matrices, rows first; then pooling."""
        bins, grid = math.isqrt(config.tokens), vision.grid
        flops = 2.0 * config.max_regions * vision.width * (bins * grid * grid + bins * bins * grid)
        yield Product(flops, "features")
        yield from super().products(config, vision)
