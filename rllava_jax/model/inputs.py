"""What the model is given: arrays of fixed shape, so that one program serves examples with and without regions."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inputs:
    """A batch of images, marked regions and token sequences.

    Axes: B batch, R regions, T text.

    Attributes:
      image: pixels in −1…1.
      text: tokens, prefix then suffix, right-padded.
      mask_ar: 0 where a token is seen by the whole prefix, 1 where the sequence is causal (suffix and padding).
      mask_input: true on real tokens. All true reproduces the reference's training, which has no padding mask.
      mask_loss: 1 on the tokens that are learned; None where nothing is.
      regions: boxes (y0, x0, y1, x1), normalised; None for a model without regions.
      region_valid: which slots hold a region. What stands in other slots has no influence.
      region_arrays: what the region encoders want beside the boxes, [B, R, …], by name (`regions/encoders/`).
    """

    image: Float[Array, "B Y X 3"]
    text: Int[Array, "B T"]
    mask_ar: Int[Array, "B T"]
    mask_input: Bool[Array, "B T"]
    mask_loss: Int[Array, "B T"] | None = None
    regions: Float[Array, "B R 4"] | None = None
    region_valid: Bool[Array, "B R"] | None = None
    region_arrays: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> Self:
        """Takes the loader's arrays: uint8 pixels become `x / 127.5 - 1` here, on the device, after the transfer."""

        def ready(array: Any) -> Any:
            return array.astype(jnp.float32) / 127.5 - 1 if array.dtype == jnp.uint8 else array

        names = {field.name for field in dataclasses.fields(cls)}
        fields = {name: ready(batch[name]) for name in names if name in batch}
        fields["mask_input"] = fields["mask_input"].astype(bool)
        rest = {name: ready(batch[name]) for name in batch if name.startswith("region_") and name not in names}
        return cls(**fields, region_arrays=rest)

    def given(self, name: str) -> Array:
        """An optional array that the model or its loss needs.

        Raises:
          ValueError: it is missing: the preprocessing was made for other region encoders, or gave no answer to learn.
        """
        array: Array | None = self.region_arrays.get(name, getattr(self, name, None))
        if array is None:
            remedy = (
                "take the batch with its answers" if name == "mask_loss" else "use one RegionConfig for data and model"
            )
            raise ValueError(f"Inputs.{name}: missing, but needed here; {remedy}")
        return array

    def truncated(self, length: int) -> Self:
        """The same batch with only the first `length` text positions."""
        return dataclasses.replace(
            self,
            text=self.text[:, :length],
            mask_ar=self.mask_ar[:, :length],
            mask_input=self.mask_input[:, :length],
        )
