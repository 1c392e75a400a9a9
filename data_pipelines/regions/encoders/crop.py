"""`crop`: the region with some context, cut from the original pixels, so that a small lesion is seen in full detail."""

import numpy as np

from data_pipelines.core.errors import SettingConflict
from data_pipelines.images import pixels
from data_pipelines.regions.encoders.protocol import ArraySpec, MarkedImage, MarkedRegion, RegionEncoder
from data_pipelines.settings import RegionConfig


class Crop(RegionEncoder):
    """Wants the crop's pixels, [C, C, 3], and the share of each patch inside the region, [G, G]; G = C / patch."""

    name = "crop"
    summary = "`crop` (the region's original pixels through the same SigLIP)"
    exportable = True

    def check(self, config: RegionConfig, patch: int) -> None:
        """Raises ConfigError: the crop is not made of whole patches, or has fewer than the tokens it is pooled to."""
        size, patches = config.crop_size, (config.crop_size // patch) ** 2
        if size % patch:
            raise SettingConflict(
                f"regions.crop_size: {size!r} is not possible; write a multiple of the patch, {patch} pixels"
            )
        if config.tokens > patches:
            raise SettingConflict(
                f"regions.tokens: {config.tokens!r} is not possible; a crop of {size} pixels has only {patches} patches"
            )

    def specs(self, config: RegionConfig, patch: int) -> dict[str, ArraySpec]:
        """Pixels and coverage."""
        size, grid = config.crop_size, config.crop_size // patch
        return {
            "region_pixels": ArraySpec(np.uint8, (size, size, 3)),
            "region_crop_coverage": ArraySpec(np.float32, (grid, grid)),
        }

    def arrays(
        self, image: MarkedImage, region: MarkedRegion, config: RegionConfig, patch: int
    ) -> dict[str, np.ndarray]:
        """Resampled once, from the original's window to the crop."""
        height, width = image.pixels.shape[:2]
        window = pixels.crop_window(
            region.box, height=height, width=width, context=config.crop_context, min_pixels=config.crop_min_pixels
        )
        grid = config.crop_size // patch
        if region.inside is None:
            coverage = pixels.box_coverage(region.box, window, grid, height=height, width=width)
        else:
            coverage = pixels.cell_coverage(region.inside, window, grid, box=region.limit)
        return {
            "region_pixels": image.tone[pixels.resample(image.pixels, window, config.crop_size)],
            "region_crop_coverage": coverage,
        }
