"""The named sizes: numbers only, so that a size can be discussed without building it.

Sources: big_vision `proj/paligemma`; PaliGemma (arXiv 2407.07726), PaliGemma 2 (arXiv 2412.03555), Gemma (arXiv
2403.08295), Gemma 2 (arXiv 2408.00118), SigLIP So400m/14 (arXiv 2303.15343).
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipelines.core.errors import ConfigError, InvalidSetting, UnknownSetting
from rllava_jax.config import ModelConfig

PALIGEMMA_VOCAB = 257_152  # 256,000 text pieces, 1,024 loc and 128 seg tokens


@dataclass(frozen=True)
class SiglipConfig:
    """A SigLIP vision tower. `image_size` fixes the length of the position embedding."""

    width: int
    depth: int
    mlp: int
    heads: int
    image_size: int = 224
    patch: int = 14

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.image_size // self.patch


@dataclass(frozen=True)
class LayerKind:
    """One kind of decoder layer.

    Attributes:
      window: a position attends to at most this many positions up to its own; 0 is no limit. Of what follows it (image
        tokens see each other whole) a window hides nothing.
      rope_base: 0 is the decoder's.
      rope_factor: divides the frequencies, and so in effect the positions (linear scaling to longer contexts).
    """

    window: int = 0
    rope_base: float = 0.0
    rope_factor: float = 1.0


@dataclass(frozen=True)
class DecoderFamily:
    """What a family of decoders does otherwise than Gemma 1 and 2, which are the default.

    Attributes:
      pattern: layer i is of kind `pattern[i % len(pattern)]`: five local layers and a global one, say. The stack need
        not end with a whole pattern.
      qk_norm: an RMSNorm over the head dim on queries and keys, before RoPE.
      embedding_scale: multiplies the token embeddings; 0 is the square root of the width.
      causal_prefix: the prompt's text is causal; image and region tokens, which stand before it, still see each other.
    """

    pattern: tuple[LayerKind, ...] = (LayerKind(),)
    qk_norm: bool = False
    embedding_scale: float = 0.0
    causal_prefix: bool = False


GEMMA = DecoderFamily()


@dataclass(frozen=True)
class GemmaConfig:
    """A decoder.

    Attributes:
      query_scale: multiplies the query after RoPE.
      post_norms: Gemma 2's norm after each branch, before the residual sum.
      attention_cap: Gemma 2's soft cap on attention logits; 0 is none. (Its final cap of 30 is left out, as in the
        reference's training and prefill.)
      family: see `DecoderFamily`; no number of it is among `dimensions_of`, so a family's sizes are named ones.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    query_scale: float
    post_norms: bool = False
    attention_cap: float = 0.0
    rope_base: float = 10_000.0
    vocab: int = PALIGEMMA_VOCAB
    family: DecoderFamily = GEMMA

    def kind(self, layer: int) -> LayerKind:
        """The kind of a layer, its RoPE base filled in."""
        kind = self.family.pattern[layer % len(self.family.pattern)]
        return kind if kind.rope_base else dataclasses.replace(kind, rope_base=self.rope_base)


@dataclass(frozen=True)
class PaliGemmaConfig:
    """A vision tower, its projection and a decoder."""

    vision: SiglipConfig
    decoder: GemmaConfig


def _gemma(width: int, depth: int, mlp: int, heads: int, kv_heads: int, head_dim: int, *, gemma2: bool) -> GemmaConfig:
    cap = 50.0 if gemma2 else 0.0
    return GemmaConfig(width, depth, mlp, heads, kv_heads, head_dim, head_dim**-0.5, gemma2, attention_cap=cap)


_SO400M = SiglipConfig(width=1152, depth=27, mlp=4304, heads=16)
_DECODERS = {
    "paligemma-3b": _gemma(2048, 18, 16384, 8, 1, 256, gemma2=False),
    "paligemma2-3b": _gemma(2304, 26, 9216, 8, 4, 256, gemma2=True),
    "paligemma2-10b": _gemma(3584, 42, 14336, 16, 8, 256, gemma2=True),
    # Gemma 2 27B alone scales the query by width / heads.
    "paligemma2-28b": dataclasses.replace(
        _gemma(4608, 46, 36864, 32, 16, 128, gemma2=True), query_scale=(4608 / 32) ** -0.5
    ),
}

SIZES: dict[str, PaliGemmaConfig] = {
    # Runs for real on a laptop; its vocabulary is that of the tokenizer it is trained with.
    "tiny": PaliGemmaConfig(
        vision=SiglipConfig(width=128, depth=4, mlp=384, heads=2, image_size=112),
        decoder=dataclasses.replace(_gemma(128, 2, 384, 2, 1, 64, gemma2=False), vocab=2176),
    ),
} | {
    f"{name}-{pixels}": PaliGemmaConfig(dataclasses.replace(_SO400M, image_size=pixels), decoder)
    for name, decoder in _DECODERS.items()
    for pixels in (224, 448, 896)
}


# No published model comes near; beyond these a configuration is damaged, and building it would take all memory.
_MOST = {"depth": 1024, "heads": 1024, "kv_heads": 1024, "image_size": 8192, "patch": 1024, "rope_base": 1e12}
_MOST_OTHERS, _MOST_ROWS = 2**20, 2**24


def require_possible(size: PaliGemmaConfig, *, where: str) -> PaliGemmaConfig:
    """The size, if no number of it is beyond all models.

    Raises:
      ConfigError: one is, or is not above 0.
    """
    numbers = _numbers(size) | {"decoder.vocab": size.decoder.vocab}
    for name, value in numbers.items():
        own = name.rsplit(".", 1)[-1]
        most = _MOST_ROWS if own == "vocab" else _MOST.get(own, _MOST_OTHERS)
        positive = own in ("attention_cap", "post_norms") or value > 0
        if not (positive and 0 <= value <= most):
            raise InvalidSetting(
                f"{where}: {name} = {value:g} is not possible; write a number above 0, at most {most:,}"
            )
    return size


def model_size(config: ModelConfig, *, vocab: int = 0) -> PaliGemmaConfig:
    """Returns the configured size, at its resolution.

    Args:
      vocab: rows of the token embedding where the configuration does not say; 0 leaves the size's own.

    Raises:
      ConfigError: no such size (the nearest name is given), an incomplete custom one, or an image size that the patch
        does not divide.
    """
    name = config.size
    if name == "custom":
        size = from_dimensions(config.dimensions, where="model.dimensions")
    elif name in SIZES:
        size = SIZES[name]
    else:
        near = difflib.get_close_matches(name, SIZES, n=1, cutoff=0.0)
        raise ConfigError(
            f"model.size: there is no size {name!r}; the nearest is {near[0]!r} (all: {', '.join(SIZES)})",
            code="config.unknown-name",
        )
    if config.image_size:
        if config.image_size % size.vision.patch:
            raise InvalidSetting(
                f"model.image_size: {config.image_size} is not a multiple of the patch, {size.vision.patch} pixels"
            )
        size = dataclasses.replace(size, vision=dataclasses.replace(size.vision, image_size=config.image_size))
    if rows := config.vocab or vocab:
        size = dataclasses.replace(size, decoder=dataclasses.replace(size.decoder, vocab=rows))
    return require_possible(size, where="model")


def from_dimensions(dimensions: Mapping[str, float], *, where: str) -> PaliGemmaConfig:
    """The size of numbers such as {"vision.width": 32, "decoder.heads": 4, …}; the inverse of `dimensions_of`.

    Raises:
      ConfigError: a number is missing, unknown or not of its kind.
    """
    wanted = _numbers(SIZES["tiny"])
    if wrong := sorted(set(wanted) ^ set(dimensions)):
        kind = "lacks" if wrong[0] in wanted else "has an unknown"
        raise UnknownSetting(f"{where}: {kind} {wrong[0]!r}; write exactly {', '.join(wanted)}")
    parts: dict[str, dict[str, Any]] = {"vision": {}, "decoder": {}}
    for key, value in dimensions.items():
        part, name = key.split(".")
        kind_of = type(wanted[key])
        if kind_of is not float and value != int(value):
            raise InvalidSetting(f"{where}: {key} = {value} is not a whole number")
        parts[part][name] = kind_of(value)
    return PaliGemmaConfig(SiglipConfig(**parts["vision"]), GemmaConfig(**parts["decoder"]))


def dimensions_of(size: PaliGemmaConfig) -> dict[str, float]:
    """Every number of a size but its vocabulary and its family's, by dotted name."""
    return {name: float(value) for name, value in _numbers(size).items()}


def _numbers(size: PaliGemmaConfig) -> dict[str, Any]:
    numbers = {f"vision.{name}": value for name, value in dataclasses.asdict(size.vision).items()}
    decoder = dataclasses.asdict(size.decoder)
    numbers |= {f"decoder.{name}": value for name, value in decoder.items() if name not in ("vocab", "family")}
    return numbers


def name_of(size: PaliGemmaConfig) -> str:
    """The name of a size of the published kind, whatever its vocabulary; "custom" for any other."""
    family, numbers = size.decoder.family, dimensions_of(size)
    same = (n for n, named in SIZES.items() if dimensions_of(named) == numbers and named.decoder.family == family)
    return next((name for name in same if name != "tiny"), "custom")
