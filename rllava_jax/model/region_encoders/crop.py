"""`crop`: the region's original pixels through the same SigLIP."""

from jaxtyping import Array, Float

from data_pipelines.settings import RegionConfig
from rllava_jax.model.region_encoders.protocol import PooledEncoder, Scene
from rllava_jax.model.sizes import SiglipConfig


class CropTokens(PooledEncoder):
    """A cell of the map is a patch of the crop."""

    name = "crop"

    def side(self, config: RegionConfig, vision: SiglipConfig) -> int:
        """Patches on a side of the crop."""
        return config.crop_size // vision.patch

    def cells(self, scene: Scene, config: RegionConfig) -> tuple[Float[Array, "B R g g W"], Float[Array, "B R g g"]]:
        """All crops of the batch are one batch of the vision tower."""
        pixels = scene.inputs.given("region_pixels").astype(scene.features.dtype)
        features, _ = scene.vision.encode(pixels.reshape(-1, *pixels.shape[2:]))
        side = pixels.shape[2] // scene.vision.config.patch
        cells = features.reshape(*pixels.shape[:2], side, side, features.shape[-1])
        return cells, scene.inputs.given("region_crop_coverage")

    def vision_passes(self, config: RegionConfig, vision: SiglipConfig) -> tuple[int, int]:
        """A crop a slot."""
        return config.max_regions, self.side(config, vision) ** 2
