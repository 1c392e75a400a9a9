"""The shapes of a batch, from the configuration alone: what `loading/preprocess.py` makes, without data.

Letters: B batch, S image side, T text length, R region slots.
"""

import jax
import numpy as np

from data_pipelines.regions.encoders.protocol import region_encoders
from rllava_jax.config import Config
from rllava_jax.model.sizes import PaliGemmaConfig


def abstract_batch(config: Config, size: PaliGemmaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch that the training step is given: names, shapes and types as the loader's."""
    batch, length, regions = config.train.batch_size, config.data.text_length, config.regions
    slots, side = regions.max_regions, size.vision.image_size

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *shape), np.dtype(dtype))

    arrays = {"image": array(np.uint8, side, side, 3)}
    arrays |= {name: array(np.int32, length) for name in ("text", "mask_ar", "mask_loss", "mask_input")}
    arrays |= {"regions": array(np.float32, slots, 4), "region_valid": array(np.bool_, slots)}
    for encoder in region_encoders(regions):
        specs = encoder.specs(regions, size.vision.patch)
        arrays |= {name: array(spec.dtype, slots, *spec.shape) for name, spec in specs.items()}
    arrays["index"] = array(np.int32)  # int64 in the loader; JAX takes 32 bits of it
    return arrays
