"""PaliGemma with a region branch: [ image | regions | prefix ] sees itself whole, [ suffix ] is causal.

Axes: B batch, P image patches, R regions, E region encoders, K tokens of a region and encoder, T text,
S = P + R·E·K + T sequence, D width, W vision width, V vocabulary.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from data_pipelines.settings import RegionConfig
from rllava_jax.config import LoraConfig, ModelConfig
from rllava_jax.model.attention.attend import AttentionHook
from rllava_jax.model.gemma import DecoderOutput, Gemma
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.layers import compute_dtype
from rllava_jax.model.lora import attach
from rllava_jax.model.partition_rules import constrain
from rllava_jax.model.region_encoders.branch import RegionBranch
from rllava_jax.model.region_encoders.protocol import Scene, region_tokens
from rllava_jax.model.siglip import Siglip
from rllava_jax.model.sizes import PaliGemmaConfig

_PLAIN = ModelConfig(compute_dtype="float32")


class TokenSequence(NamedTuple):
    """The embedded sequence: states [B, S, D], causal marks and validity [B, S], what the vision hook collected."""

    x: Array
    mask_ar: Array
    valid: Array
    collected: Any


class Output(NamedTuple):
    """Logits [B, T, V] and hidden states [B, T, D] of the text positions, and what the hooks collected by layer."""

    logits: Array
    vision_collected: Any
    decoder_collected: Any
    hidden_states: Array


def prefix_lm_mask(mask_ar: Int[Array, "B S"], valid: Bool[Array, "B S"]) -> Bool[Array, "B S S"]:
    """Which positions k each position q attends to: those of its own block and of earlier ones, where k is valid.

    A 1 in `mask_ar` begins a block, so `cumsum(mask_ar)` numbers the blocks. As in big_vision:

        [0 0 0 1 1 1]  a prefix of three that sees itself whole, and a causal suffix:
                         q 0 1 2: k 0 1 2   q 3: k 0 1 2 3   q 4: k 0 … 4   q 5: k 0 … 5
        [1 1 1 1 1 1]  causal throughout
        [0 0 0 0 0 0]  every position sees every other

    Here image, region and prefix tokens have 0. A region slot without a region is invalid: nothing attends to it.
    """
    block = jnp.cumsum(mask_ar, axis=1)
    return (block[:, None, :] <= block[:, :, None]) & valid[:, None, :]


def positions_of(valid: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """RoPE positions: valid tokens count from 0; an invalid one takes no place, so that it moves nothing after it.

    Two image tokens, a slot of two region tokens, and text, with the slot filled and empty:

        valid [1 1 1 1 1 1 1]  →  [0 1 2 3 4 5 6]
        valid [1 1 0 0 1 1 1]  →  [0 1 1 1 2 3 4]   the text stands as in plain PaliGemma
    """
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


class PaliGemma(nnx.Module):
    """The whole model. Parameters live under `img/`, `llm/` (the published names) and `roi/` (ours).

    Attributes:
      heads: of the losses that have some; see `params.py`.
    """

    heads: Any

    def __init__(
        self,
        config: PaliGemmaConfig,
        regions: RegionConfig | None = None,
        *,
        settings: ModelConfig = _PLAIN,
        lora: LoraConfig | None = None,
        rngs: nnx.Rngs,
    ):
        """Builds the model; wrap in `nnx.eval_shape` to have shapes without memory.

        Args:
          regions: None, or without a token-making encoder, is plain PaliGemma: no `roi/` parameters, no extra tokens.
          settings: of these the compute type, and what changes memory and speed alone: remat, layers and attention.
          lora: None, or of rank 0, is without adapters: no `…/lora…` parameters, nothing in the program.
        """
        self.config = config
        self.compute_dtype = compute_dtype(settings)
        self.img = Siglip(config.vision, config.decoder.width, settings, rngs)
        self.llm = Gemma(config.decoder, settings, rngs)
        self.region_tokens = region_tokens(regions) if regions is not None else 0
        if regions is not None and self.region_tokens:
            self.roi = RegionBranch(regions, config.vision, rngs)
        if lora is not None and lora.rank:
            attach(self, lora, rngs)

    def __call__(
        self,
        inputs: Inputs,
        *,
        vision_hook: AttentionHook | None = None,
        decoder_hook: AttentionHook | None = None,
    ) -> Output:
        """Logits of every text position given all before it (teacher forcing)."""
        states, sequence, decoded = self.run(inputs, vision_hook=vision_hook, decoder_hook=decoder_hook)
        return Output(self.llm.embedder.decode(states), sequence.collected, decoded.collected, states)

    def hidden_states(self, inputs: Inputs) -> Float[Array, "B T D"]:
        """States of every text position after the final norm: the logits are these times the token embedding."""
        return self.run(inputs)[0]

    def run(
        self,
        inputs: Inputs,
        *,
        vision_hook: AttentionHook | None = None,
        decoder_hook: AttentionHook | None = None,
        cache_dtype: Any = None,
    ) -> tuple[Float[Array, "B T D"], TokenSequence, DecoderOutput]:
        """Hidden states of the text positions, the whole sequence, and what the decoder made of it.

        Args:
          cache_dtype: keeps keys and values in this type, for decoding; None keeps none.
        """
        sequence = self.embed(inputs, vision_hook=vision_hook)
        positions, mask = positions_of(sequence.valid), prefix_lm_mask(sequence.mask_ar, sequence.valid)
        decoded = self.llm(sequence.x, positions, mask, cache_dtype=cache_dtype, hook=decoder_hook)
        return decoded.states[:, -inputs.text.shape[1] :], sequence, decoded

    def embed(self, inputs: Inputs, *, vision_hook: AttentionHook | None = None) -> TokenSequence:
        """Image tokens, region tokens and text tokens, in that order."""
        features, collected = self.img.encode(inputs.image.astype(self.compute_dtype), hook=vision_hook)
        batch, patches, _ = features.shape
        parts, valid = [self.img.head(features)], [jnp.ones((batch, patches), bool)]
        # A batch that shows no region may come without slots: no crop is encoded, no place in the sequence is masked.
        if self.region_tokens and inputs.given("regions").shape[1]:
            tokens = self.roi(Scene(inputs, features, self.img))
            parts.append(self.img.head(tokens))
            shown = inputs.given("region_valid")
            valid.append(jnp.repeat(shown, tokens.shape[1] // shown.shape[1], axis=1))
        seen_by_all = sum(part.shape[1] for part in parts)
        parts.append(self.llm.embedder.encode(inputs.text, self.compute_dtype))
        valid.append(inputs.mask_input)
        causal = jnp.ones_like(inputs.mask_ar) if self.config.decoder.family.causal_prefix else inputs.mask_ar
        mask_ar = jnp.concatenate([jnp.zeros((batch, seen_by_all), causal.dtype), causal], axis=1)
        return TokenSequence(
            constrain(jnp.concatenate(parts, axis=1), "states"), mask_ar, jnp.concatenate(valid, axis=1), collected
        )
