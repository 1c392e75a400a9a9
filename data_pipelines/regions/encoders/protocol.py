"""What a region encoder asks of preprocessing, and the registry of encoders.

An encoder has two halves, because data is prepared without JAX. This one makes arrays from an image and its marked
regions, changes the pixels, or has the boxes written into the prompt. The other one makes tokens of the arrays
(`rllava_jax/model/region_encoders/protocol.py`); an encoder that adds no tokens does without it. A new encoder is a
subclass of each, in the package of each half, and a line in each registry's table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipelines.core.errors import InvalidSetting
from data_pipelines.core.registry import Registry
from data_pipelines.records import Box
from data_pipelines.settings import RegionConfig


class ArraySpec(NamedTuple):
    """Type and shape of an encoder's array for one region."""

    dtype: type[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MarkedRegion:
    """A region as it is shown on one image.

    Attributes:
      box: what the model is told, normalised to the original image.
      inside: the finer outline as a mask of the original image, where the region has one.
      limit: the annotated box, outside of which `inside` does not count.
    """

    box: Box
    inside: np.ndarray | None
    limit: Box


@dataclass(frozen=True)
class MarkedImage:
    """An image with its marked regions.

    Attributes:
      pixels: of the original image.
      regions: in the order of their slots.
      tone: new grey level of each old one, for image and crops alike.
      view: the window of the original image that the model sees, normalised to it.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    regions: Sequence[MarkedRegion]
    tone: UInt8[np.ndarray, " 256"]
    view: Box


class RegionEncoder:
    """The data half of an encoder. It wants nothing and changes nothing unless a method says otherwise.

    Attributes:
      name: in `regions.encoders`.
      summary: what it does, for model cards.
      writes_boxes: the boxes stand as loc tokens in the prefix.
      exportable: the code of exported Hugging Face folders (`rllava_jax/interop/remote_code`) knows it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    writes_boxes: ClassVar[bool] = False
    exportable: ClassVar[bool] = False

    def check(self, config: RegionConfig, patch: int) -> None:
        """Raises ConfigError where the settings do not suit a vision tower of `patch` pixels a patch."""

    def specs(self, config: RegionConfig, patch: int) -> dict[str, ArraySpec]:
        """The arrays that it wants for each region, by names that begin with `region_`.

        A batch holds them with two leading axes, [B, R, …]; arrays of uint8 are pixels and reach the model in −1…1.
        """
        return {}

    def arrays(
        self, image: MarkedImage, region: MarkedRegion, config: RegionConfig, patch: int
    ) -> dict[str, np.ndarray]:
        """The arrays of one region, as `specs` has them. Slots without a region hold zeros."""
        return {}

    def draw(
        self, pixels: UInt8[np.ndarray, "S S 3"], image: MarkedImage, rng: np.random.Generator | None
    ) -> UInt8[np.ndarray, "S S 3"]:
        """The pixels that the vision tower sees.

        Args:
          pixels: `image.view`, resized and toned.
          rng: in training.
        """
        return pixels


ENCODERS: Registry[RegionEncoder] = Registry(
    "region encoder",
    InvalidSetting,
    crop="data_pipelines.regions.encoders.crop:Crop",
    align="data_pipelines.regions.encoders.align:Align",
    overlay="data_pipelines.regions.encoders.overlay:Overlay",
    loc="data_pipelines.regions.encoders.loc:Loc",
)


def region_encoders(config: RegionConfig) -> tuple[RegionEncoder, ...]:
    """The configured encoders, in the order of the setting.

    Raises:
      ConfigError: an unknown name; the message has the nearest known one.
    """
    return tuple(ENCODERS.get(name, setting="regions.encoders") for name in config.encoders)
