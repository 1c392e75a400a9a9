"""What an encoder that adds tokens for a region gives the model and planning, and the registry of such encoders.

The arrays that it reads are declared by its data half (`data_pipelines/regions/encoders/protocol.py`), which has the
same name. Encoders without a model half, which reach the model through pixels or prefix, are not found here.

Axes: B batch, R regions, K tokens of a region, P patches, W vision width, g cells on a side of a map.
"""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from data_pipelines.core.registry import Registry
from data_pipelines.settings import RegionConfig
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.siglip import Siglip
from rllava_jax.model.sizes import SiglipConfig


class Scene(NamedTuple):
    """What an encoder may read: the batch, the image's own features, and the vision tower for further pixels."""

    inputs: Inputs
    features: Float[Array, "B P W"]
    vision: Siglip


class Product(NamedTuple):
    """A matrix product of an encoder's forward pass, for planning.

    Attributes:
      flops: of one example; two a multiplication.
      reads: what stands before it, hence whether its input needs a gradient: the batch's arrays, the vision tower's
        features, or these with a parameter of the branch added.
      weight: the parameter that it multiplies with, by its full name; "" for none.
    """

    flops: float
    reads: Literal["arrays", "features", "branch"]
    weight: str = ""


class TokenEncoder:
    """The model half of an encoder; it makes its tokens itself.

    Attributes:
      name: of the data half too. Its own parameters are named `roi/NAME/…`; the file that defines them declares how
        they are sharded (`partition_rules`).
    """

    name: ClassVar[str]

    def tokens(self, config: RegionConfig) -> int:
        """K."""
        return config.tokens

    def parameters(self, config: RegionConfig, vision: SiglipConfig, rngs: nnx.Rngs) -> nnx.Module | None:
        """The module with its own parameters, if it has any."""
        return None

    def encode(self, scene: Scene, config: RegionConfig, parameters: nnx.Module | None) -> Float[Array, "B R K W"]:
        """Tokens in the vision tower's feature space; the branch adds where the region lies, and projects them."""
        raise NotImplementedError

    def vision_passes(self, config: RegionConfig, vision: SiglipConfig) -> tuple[int, int]:
        """Further images of an example that go through the vision tower, and the patches of each."""
        return 0, 0

    def products(self, config: RegionConfig, vision: SiglipConfig) -> Iterator[Product]:
        """Its matrix products outside the vision tower."""
        yield from ()


class PooledEncoder(TokenEncoder):
    """An encoder that makes a square map of each region, which the branch pools to K tokens.

    The branch marks the cells inside the region and tells tokens and encoders apart, with parameters that all such
    encoders have in one array (`roi/inside`, `roi/token_embedding`).
    """

    def side(self, config: RegionConfig, vision: SiglipConfig) -> int:
        """g."""
        raise NotImplementedError

    def cells(self, scene: Scene, config: RegionConfig) -> tuple[Float[Array, "B R g g W"], Float[Array, "B R g g"]]:
        """The map, and the share of each of its cells that lies inside the region's outline."""
        raise NotImplementedError

    def products(self, config: RegionConfig, vision: SiglipConfig) -> Iterator[Product]:
        """Pooling: rows first, then columns."""
        bins, side = math.isqrt(config.tokens), self.side(config, vision)
        pooling = bins * side * side + bins * bins * side
        yield Product(2.0 * config.max_regions * vision.width * pooling, "branch")


# In the order in which their tokens stand, whatever the order of the setting.
ENCODERS: Registry[TokenEncoder] = Registry(
    "region encoder",
    crop="rllava_jax.model.region_encoders.crop:CropTokens",
    align="rllava_jax.model.region_encoders.align:AlignTokens",
)


def token_encoders(config: RegionConfig) -> dict[str, TokenEncoder]:
    """The configured encoders that add tokens to the sequence, by name, in the order in which their tokens stand."""
    return {name: ENCODERS.get(name, setting="regions.encoders") for name in ENCODERS if name in config.encoders}


def region_tokens(config: RegionConfig) -> int:
    """How many tokens the regions of an example take in the sequence: R times those of each encoder."""
    return config.max_regions * sum(encoder.tokens(config) for encoder in token_encoders(config).values())
