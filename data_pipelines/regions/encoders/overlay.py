"""`overlay`: the region's outline drawn into the image."""

import numpy as np

from data_pipelines.images.pixels import sample_mask
from data_pipelines.regions.boxes import within_view
from data_pipelines.regions.encoders.protocol import MarkedImage, MarkedRegion, RegionEncoder
from data_pipelines.regions.overlay import Outline, draw_outlines


class Overlay(RegionEncoder):
    """Changes the pixels; adds no array and no token."""

    name = "overlay"
    summary = "`overlay` (the region drawn into the image)"
    exportable = True

    def draw(self, pixels: np.ndarray, image: MarkedImage, rng: np.random.Generator | None) -> np.ndarray:
        """Each region's box, or its finer outline resampled to the pixels that the model sees."""

        def outline(region: MarkedRegion) -> Outline:
            if region.inside is None:
                return within_view(region.box, image.view)
            return sample_mask(region.inside, len(pixels), view=image.view, limit=region.limit)

        return draw_outlines(pixels, [outline(region) for region in image.regions], rng)
