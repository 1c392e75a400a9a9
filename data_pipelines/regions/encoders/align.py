"""`align`: RoIAlign over the image's own features, at no second pass through the vision tower."""

import math

import numpy as np

from data_pipelines.images import pixels
from data_pipelines.regions.encoders.protocol import ArraySpec, MarkedImage, MarkedRegion, RegionEncoder
from data_pipelines.settings import RegionConfig


class Align(RegionEncoder):
    """Wants the share of each bin of the box inside the region's outline, [√K, √K]; ones for a plain box."""

    name = "align"
    summary = "`align` (RoIAlign over the image's features)"
    exportable = True

    def specs(self, config: RegionConfig, patch: int) -> dict[str, ArraySpec]:
        """Coverage; the features are the model's own."""
        side = math.isqrt(config.tokens)
        return {"region_align_coverage": ArraySpec(np.float32, (side, side))}

    def arrays(
        self, image: MarkedImage, region: MarkedRegion, config: RegionConfig, patch: int
    ) -> dict[str, np.ndarray]:
        """A jittered box can miss a thin outline altogether; it then counts as the box it is."""
        side = math.isqrt(config.tokens)
        coverage = np.ones((side, side), np.float32)
        if region.inside is not None:
            height, width = image.pixels.shape[:2]
            y0, x0, y1, x1 = region.box
            window = (y0 * height, x0 * width, y1 * height, x1 * width)
            shares = pixels.cell_coverage(region.inside, window, side, box=region.limit)
            coverage = shares if shares.any() else coverage
        return {"region_align_coverage": coverage}
