"""What an importer has found: a model's size, its arrays as streams, and the check that names fit exactly."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.checkpoint.errors import CheckpointMismatch, mismatches
from rllava_jax.config import Config
from rllava_jax.interop.streaming import StreamedArray
from rllava_jax.model.sizes import PaliGemmaConfig, name_of

# The types in which weights are published, read and written.
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


# Shapes of our arrays, given the size and the configuration that the model was trained with here, if it was.
Expected = Callable[[PaliGemmaConfig, Config | None], Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class PublishedModel:
    """A checkpoint of another library.

    Attributes:
      size: with the rows of the token embedding as vocabulary.
      arrays: under our names.
      tokenizer: the one that came with it, if one did.
      config: the configuration it was trained with here, where it is an export of this project.
      facts: what the record of the conversion says about it.
      notes: what the user should know, a line each.
    """

    size: PaliGemmaConfig
    arrays: dict[str, StreamedArray]
    tokenizer: Tokenizer | None = None
    config: Config | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_names(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, where: str, remedy: str
) -> None:
    """Every name is there, none is left over, and every shape fits.

    Raises:
      CheckpointError: listing missing, unexpected and ill-shaped names, in one line.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [f"{name} {list(found[name])}" for name in found if name not in expected]
    ill_shaped = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    wrong = mismatches(missing=missing, unexpected=unexpected, ill_shaped=ill_shaped, most=6)
    if wrong:
        raise CheckpointMismatch(f"{where}: its arrays are not this model's: {wrong}; {remedy}")


def recognised(size: PaliGemmaConfig) -> PaliGemmaConfig:
    """The size with what shapes do not tell: Gemma 2 27B alone scales its query by width / heads."""
    decoder = dataclasses.replace(size.decoder, query_scale=(size.decoder.width / size.decoder.heads) ** -0.5)
    other = dataclasses.replace(size, decoder=decoder)
    return other if name_of(size) == "custom" and name_of(other) != "custom" else size
