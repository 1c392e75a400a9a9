"""Decoding with a KV cache: one compiled program for prompts of different lengths.

The prompt is encoded once (`prefill`); then each new token is one row through the decoder (`extend`). Prompts are
right-padded, so the cache has holes: validity masks them, and positions count valid tokens only.

Axes: B batch, S prompt sequence (image, regions, prefix), N new tokens, C = S + N cache slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from data_pipelines.core.errors import ConfigError
from rllava_jax.model.gemma import Block, KVCache
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.layers import better_unrolled, unstacked
from rllava_jax.model.paligemma import PaliGemma, positions_of, prefix_lm_mask


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: 0 is greedy, what every reported score uses.
      top_p: draw from the smallest set of tokens whose probabilities sum to at least this (arXiv 1904.09751).
    """

    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature: {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: {self.top_p} is outside (0, 1]")


GREEDY = Sampling()


class DecodeState(NamedTuple):
    """What decoding carries: the cache, which of its slots hold a token [B, C], and each row's next position [B].

    The cache is stacked over layers, or a tuple with a layer's own in each place where the layers are unrolled.
    """

    cache: KVCache | tuple[KVCache, ...]
    filled: Array
    position: Array


class Generation(NamedTuple):
    """Decoded answers.

    Attributes:
      tokens: [B, N], pad after eos.
      log_prob: [B], the model's log-probability of the tokens up to and including eos (untempered).
      finished: [B], false where N tokens did not reach eos.
    """

    tokens: Array
    log_prob: Array
    finished: Array


def prefill(
    model: PaliGemma, prompt: Inputs, *, new_tokens: int, cache_dtype: Any = None
) -> tuple[Float[Array, "B V"], DecodeState]:
    """Encodes prompts; returns the logits after each prompt's last token, and a state with room for `new_tokens`.

    `cache_dtype` is the compute type unless given; the reference keeps its cache in bfloat16 whatever it computes in.
    """
    sequence = model.embed(prompt)
    positions = positions_of(sequence.valid)
    mask = prefix_lm_mask(sequence.mask_ar, sequence.valid)
    decoded = model.llm(sequence.x, positions, mask, cache_dtype=cache_dtype or model.compute_dtype)
    assert isinstance(decoded.cache, KVCache)
    length = prompt.mask_input.sum(axis=1)
    text = decoded.states[:, -prompt.text.shape[1] :]
    last = jnp.take_along_axis(text, (length - 1)[:, None, None], axis=1)
    grow = ((0, 0), (0, 0), (0, new_tokens), (0, 0), (0, 0))
    cache = KVCache(*(jnp.pad(part, grow) for part in decoded.cache))
    filled = jnp.pad(sequence.valid, ((0, 0), (0, new_tokens)))
    return model.llm.embedder.decode(last)[:, 0], DecodeState(cache, filled, sequence.valid.sum(axis=1))


def extend(
    model: PaliGemma,
    state: DecodeState,
    tokens: Int[Array, " B"],
    slot: Int[Array, ""],
    layers: Sequence[Block] | None = None,
) -> tuple[Float[Array, "B V"], DecodeState]:
    """Feeds one token per row, written at cache slot `slot`; returns the logits after it.

    Args:
      layers: the decoder's, from `unrolled_layers`; the state's cache is then a tuple, too.
    """
    filled = state.filled.at[:, slot].set(True)
    x = model.llm.embedder.encode(tokens[:, None], model.compute_dtype)
    positions, mask = state.position[:, None], filled[:, None, :]
    decoded = model.llm(
        x, positions, mask, key_positions=positions_of(filled), cache=state.cache, slot=slot, layers=layers
    )
    assert decoded.cache is not None
    logits = model.llm.embedder.decode(decoded.states)[:, 0]
    return logits, DecodeState(decoded.cache, filled, state.position + 1)


def unrolled_layers(model: PaliGemma) -> list[Block] | None:
    """The decoder's layers one by one, where decoding is faster so; else None.

    On CPU a scan copies every layer's weights out of their stack for every token, and the cache twice. Taken out once,
    before the first token, they cost memory: a second copy, so of small models only.
    """
    graphdef, params = nnx.split(model.llm.layers)
    if not better_unrolled(params):
        return None

    def layer(params: Any) -> Block:
        block: Block = nnx.merge(graphdef, params)
        # The two halves as well, which would else be copied out of their pair for every token.
        halves: Any = nnx.data(tuple(jnp.unstack(block.mlp.gating_einsum[...])))
        block.mlp.gating_einsum = halves
        return block

    return [layer(params) for params in unstacked(params, model.llm.config.depth)]


def choose(logits: Float[Array, "B V"], sampling: Sampling, key: PRNGKeyArray | None = None) -> Int[Array, " B"]:
    """The next token of each row.

    Raises:
      ValueError: sampling without a key.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    if key is None:
        raise ValueError("decoding: a temperature above 0 draws at random and needs a key")
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the mass before it is short of top_p, so the likeliest always does.
        stays = jnp.cumsum(probabilities, axis=-1) - probabilities < sampling.top_p
        least = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1)


class _Answered(NamedTuple):
    """What has been chosen: the last token [B], all so far [B, N], their log-probability and who is done [B]."""

    token: Array
    tokens: Array
    log_prob: Array
    done: Array


class _Loop(NamedTuple):
    """One turn; `answered` holds the tokens before `step`, of which `state` lacks the last."""

    step: Array
    state: DecodeState
    answered: _Answered


def generate(
    model: PaliGemma,
    prompt: Inputs,
    *,
    new_tokens: int,
    eos: int,
    pad: int = 0,
    vocab: int | None = None,
    sampling: Sampling = GREEDY,
    key: PRNGKeyArray | None = None,
    cache_dtype: Any = None,
) -> Generation:
    """Answers a batch of prompts, stopping when every row has reached eos.

    Args:
      prompt: prefixes only (no suffix), right-padded.
      new_tokens: the longest answer, eos included.
      vocab: ids that the tokenizer has; None is every row of the table. A published table has rows beyond them, which
        are no tokens: they are neither chosen nor given any probability.
      key: needed where `sampling` draws.
      cache_dtype: of the kept keys and values; None is the compute type.

    Raises:
      ValueError: sampling without a key.
    """
    logits, state = prefill(model, prompt, new_tokens=new_tokens, cache_dtype=cache_dtype)
    batch, first_slot = logits.shape[0], state.filled.shape[1] - new_tokens
    layers = unrolled_layers(model)
    if layers is not None:
        state = state._replace(cache=tuple(KVCache(*pair) for pair in zip(*state.cache, strict=True)))

    def taken(step: Array, logits: Array, before: _Answered) -> _Answered:
        step_key = None if key is None else jax.random.fold_in(key, step)
        of_tokens = logits[:, :vocab]
        chosen = choose(of_tokens, sampling, step_key)
        gained = jnp.take_along_axis(jax.nn.log_softmax(of_tokens), chosen[:, None], axis=-1)[:, 0]
        token = jnp.where(before.done, pad, chosen).astype(jnp.int32)
        return _Answered(
            token,
            before.tokens.at[:, step].set(token),
            before.log_prob + jnp.where(before.done, 0.0, gained),
            before.done | (chosen == eos),
        )

    def body(loop: _Loop) -> _Loop:
        logits, state = extend(model, loop.state, loop.answered.token, first_slot + loop.step - 1, layers)
        return _Loop(loop.step + 1, state, taken(loop.step, logits, loop.answered))

    nothing = _Answered(
        jnp.full((batch,), pad, jnp.int32),
        jnp.full((batch, new_tokens), pad, jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        jnp.zeros((batch,), bool),
    )
    # The last token of the longest answer is chosen and not fed: of an answer of one word that is half the steps.
    first = _Loop(jnp.ones((), jnp.int32), state, taken(jnp.zeros((), jnp.int32), logits, nothing))
    end = jax.lax.while_loop(lambda loop: (loop.step < new_tokens) & ~loop.answered.done.all(), body, first).answered
    return Generation(end.tokens, end.log_prob, end.done)
