"""Model flops, counted from the sizes: what the arithmetic asks for, whatever a program does beside it.

A multiply-add is two. Matrix products alone count; attention is counted over the whole square, masked or not. The
backward pass is twice the forward one, except that nothing flows back into the pixels.
"""

from __future__ import annotations

from rllava_jax.config import RegionConfig
from rllava_jax.model.region_encoders.protocol import region_tokens, token_encoders
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig


def vision_flops(config: SiglipConfig, patches: int) -> tuple[int, int]:
    """Of one image forward: those of the patch embedding, and those of the layers."""
    width, mlp = config.width, config.mlp
    projections = 2 * patches * (4 * width**2 + 2 * width * mlp)
    attention = 4 * patches**2 * width
    return 2 * patches * config.patch**2 * 3 * width, config.depth * (projections + attention)


def decoder_flops(config: GemmaConfig, tokens: int) -> int:
    """Of one sequence forward, without the output layer."""
    inner = config.heads * config.head_dim
    projections = 2 * tokens * (2 * config.width * inner + 2 * config.width * config.kv_heads * config.head_dim)
    feed_forward = 2 * tokens * 3 * config.width * config.mlp
    return config.depth * (projections + feed_forward + 4 * tokens**2 * inner)


def example_flops(
    size: PaliGemmaConfig, *, text: int, predicted: int, training: bool, regions: RegionConfig | None = None
) -> int:
    """Of one example, forward or in a training step (the optimiser's elementwise work is not counted).

    Args:
      text: text positions that run through the decoder.
      predicted: positions whose logits are made.
      regions: every slot is encoded, filled or not.
    """
    vision, decoder = size.vision, size.decoder
    patches = vision.grid**2
    embedding, layers = vision_flops(vision, patches)
    extra = 0
    if regions is not None:
        extra = region_tokens(regions)
        for encoder in token_encoders(regions).values():
            images, of_each = encoder.vision_passes(regions, vision)
            first, rest = vision_flops(vision, of_each)
            embedding, layers = embedding + images * first, layers + images * rest
    head = 2 * (patches + extra) * vision.width * decoder.width
    logits = 2 * predicted * decoder.width * decoder.vocab
    trained = layers + head + decoder_flops(decoder, patches + extra + text) + logits
    return 2 * embedding + 3 * trained if training else embedding + trained
