"""Arithmetic of a training step, counted from the model's dimensions.

Only matrix products count, at two operations a multiplication; XLA's own count is of no use here, since it counts the
body of a layer scan once. Logits are counted for one chunk of answer positions (`train.loss_chunk`), which is what
answers of a few words take. A product costs its forward pass F; its backward pass costs F for the gradient of its
input, where something before it trains, and F for the gradient of its weights, where they train. Attention is counted
whole: the mask of a prefix-LM hides little, and XLA computes what it hides.

Letters: S sequence, T text, P patches, D width, F mlp, N heads, K kv heads, H head dim, L layers, V vocabulary.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from rllava_jax.config import Config, LoraTarget
from rllava_jax.model.lora import TARGETS
from rllava_jax.model.region_encoders.branch import GEOMETRY_FEATURES
from rllava_jax.model.region_encoders.protocol import region_tokens, token_encoders
from rllava_jax.model.sizes import PaliGemmaConfig, SiglipConfig

Part = Literal["vision", "crops", "regions", "decoder", "attention", "adapters", "logits"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Flops:
    """Operations of one part of the model, of one example.

    Attributes:
      recomputed: forward passes done again in the backward pass, to save memory: the hardware's work, not the model's.
    """

    part: Part
    forward: float
    backward: float
    recomputed: float

    @property
    def model(self) -> float:
        """What the mathematics asks for."""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """What is computed."""
        return self.model + self.recomputed


@dataclass(frozen=True)
class _Product:
    """One matrix product of the forward pass; `gradients` of its two factors are wanted, `again` is how much of it the
    backward pass repeats."""

    part: Part
    flops: float
    gradients: int
    again: float = 0.0


def training_flops(config: Config, size: PaliGemmaConfig, trainable: Collection[str]) -> list[Flops]:
    """The arithmetic of one example's training step, by part of the model.

    Args:
      trainable: names of the parameters that train.
    """
    products = list(_products(config, size, trainable))
    parts = []
    for part in PARTS:
        if mine := [(p.flops, p.flops * p.gradients, p.flops * p.again) for p in products if p.part == part]:
            parts.append(Flops(part, *map(sum, zip(*mine, strict=True))))
    return parts


def sequence_length(config: Config, size: PaliGemmaConfig) -> int:
    """S: image, region and text tokens; the last text position predicts nothing and is not run."""
    return size.vision.grid**2 + region_tokens(config.regions) + config.data.text_length - 1


def _products(config: Config, size: PaliGemmaConfig, trainable: Collection[str]) -> Iterator[_Product]:
    vision = size.vision
    trains_vision = any(name.startswith("img/") and not name.startswith("img/head") for name in trainable)
    trains_regions = any(name.startswith("roi/") for name in trainable)
    yield from _tower(config, vision, vision.grid**2, 1, "vision", trainable)
    yield from _region_products(config, vision, trainable, trains_vision, trains_regions)
    into = 2.0 * vision.width * size.decoder.width
    head = "img/head/kernel" in trainable
    adapters = _adapter_products("head", {"W": vision.width, "D": size.decoder.width}, config, trainable)
    projected: tuple[tuple[Part, int, bool], ...] = (
        ("vision", vision.grid**2, trains_vision),
        ("regions", region_tokens(config.regions), trains_vision or trains_regions),
    )
    for part, tokens, inputs in projected:
        if tokens:
            yield _Product(part, tokens * into, inputs + head)
            for number, p in enumerate(adapters):  # x A, then B, through which A's gradient comes
                wanted = inputs or (number and p.gradients)
                yield _Product(p.part, tokens * p.flops, p.gradients + bool(wanted))
    table = "llm/embedder/input_embedding" in trainable
    before = trains_vision or trains_regions or table or any(name.startswith("img/head") for name in trainable)
    decoder, length = size.decoder, sequence_length(config, size)
    sizes = {"D": decoder.width, "N": decoder.heads, "H": decoder.head_dim, "K": decoder.kv_heads, "F": decoder.mlp}
    # A norm after the branch needs the branch's own output in the backward pass.
    last = "" if decoder.post_norms else "down"
    tokens = length * decoder.depth
    yield from _layers(config, "decoder", "llm/layers", tokens, length, sizes, trainable, before, last=last)
    inside = before or any(name.startswith("llm/") for name in trainable)
    # Logits are made for the answer's positions alone, chunk by chunk, and in the backward pass anew.
    yield _Product("logits", 2.0 * config.train.loss_chunk * decoder.width * decoder.vocab, inside + table, 1.0)


def _tower(
    config: Config, vision: SiglipConfig, patches: int, images: int, part: Part, trainable: Collection[str]
) -> Iterator[_Product]:
    """The vision tower on `images` images: its stack is one scan, so a gradient in it passes all its layers."""
    width, tokens = vision.width, images * patches
    block = "img/Transformer/encoderblock"
    early = any(name.startswith(("img/embedding", "img/pos_embedding")) for name in trainable)
    yield _Product(part, 2.0 * tokens * vision.patch**2 * 3 * width, "img/embedding/kernel" in trainable)
    sizes = {"W": width, "N": vision.heads, "H": width // vision.heads, "F": vision.mlp}
    yield from _layers(config, part, block, tokens * vision.depth, patches, sizes, trainable, early, last="vision.fc2")


def _layers(
    config: Config,
    part: Part,
    stack: str,
    repeats: int,
    length: int,
    sizes: dict[str, int],
    trainable: Collection[str],
    before: bool,
    *,
    last: str,
) -> Iterator[_Product]:
    """A stack's projections, their adapters, and attention.

    Args:
      stack: what its parameters' names begin with.
      repeats: tokens times layers, each of which attends to `length` tokens.
      before: whether something before the stack trains.
      last: the target whose output nothing but the residual sum needs.
    """
    inside = before or any(name.startswith(f"{stack}/") for name in trainable)  # a gradient passes it

    def keep(kind: str) -> float:
        return _recomputed(config, kind) if inside else 0.0

    for target, site in TARGETS.items():
        if not site.base.startswith(f"{stack}/"):
            continue
        flops = math.prod(sizes[letter] for letter in site.equation.split("->")[1])
        kind = "last" if target == last else "projection"
        yield _Product(part, 2.0 * repeats * flops, inside + (site.base in trainable), keep(kind))
        for p, again in zip(_adapter_products(target, sizes, config, trainable), ("projection", kind), strict=False):
            # The gradient of B needs x A even where nothing needs the projection's output.
            yield _Product(p.part, repeats * p.flops, p.gradients + inside, keep(again))
    for kind in ("weights", "attended"):
        yield _Product("attention", 2.0 * repeats * length * sizes["N"] * sizes["H"], 2 * inside, keep(kind))


def _adapter_products(
    target: LoraTarget, sizes: dict[str, int], config: Config, trainable: Collection[str]
) -> list[_Product]:
    """The two thin products of a projection's adapter, a token: (x A) and B. `gradients` is of their weights alone."""
    if not config.lora.rank or target not in config.lora.targets:
        return []
    site = TARGETS[target]
    a, b, _ = site.equation.replace("->", ",").split(",")
    trains = int(f"{site.adapter}/a" in trainable)
    widths = (math.prod(sizes[letter] for letter in axes) for axes in (a[:-1], b[1:]))
    # The gradient of (x A) is wanted for A's own, whether or not x's is.
    return [_Product("adapters", 2.0 * config.lora.rank * n, trains) for n in widths]


def _region_products(
    config: Config, vision: SiglipConfig, trainable: Collection[str], trains_vision: bool, trains_regions: bool
) -> Iterator[_Product]:
    """What the region encoders compute: their passes of the vision tower, and beside these little."""
    regions, encoders = config.regions, token_encoders(config.regions)
    wanted = {"arrays": False, "features": trains_vision, "branch": trains_vision or trains_regions}
    if encoders:
        flops = 2.0 * regions.max_regions * GEOMETRY_FEATURES * vision.width
        yield _Product("regions", flops, int("roi/geometry/kernel" in trainable))
    for encoder in encoders.values():
        images, patches = encoder.vision_passes(regions, vision)
        if images:
            yield from _tower(config, vision, patches, images, "crops", trainable)
        for product in encoder.products(regions, vision):
            yield _Product("regions", product.flops, wanted[product.reads] + (product.weight in trainable))


def _recomputed(config: Config, kind: str) -> float:
    """How much of a kind of product the backward pass computes again, under the rematerialisation policy.

    Kinds: projection; last (the layer's last, whose output nothing but the residual sum needs); weights (attention's
    logits); attended (their product with the values).
    """
    remat, attention = config.model.remat, config.model.attention
    if kind in ("projection", "last"):
        return float(remat == "full" and kind == "projection")
    again = float(remat in ("full", "dots"))
    # A fused kernel's backward pass computes the weights again whatever the policy: cuDNN's once; ours in each of its
    # two kernels, and in both the weights' gradient, of which a backward pass has one (`attention/pallas.py`).
    if kind == "weights":
        return again + {"xla": float(remat == "attention"), "cudnn": 1.0, "pallas": 2.0}[attention]
    return again + (attention == "pallas")
