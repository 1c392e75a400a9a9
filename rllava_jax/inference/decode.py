"""Decoding with a KV cache: one compiled program for prompts of different lengths.

The prompt is encoded once (`prefill`); then each new token is one row through the decoder (`extend`). Prompts are
right-padded, so the cache has holes: validity masks them, and positions count valid tokens only.

Axes: B batch, S prompt sequence (image, regions, prefix), N new tokens, C = S + N cache slots, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from data_pipelines.core.errors import InvalidSetting
from rllava_jax.model.attention.attend import AttentionHook
from rllava_jax.model.gemma import Block, KVCache
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.layers import better_unrolled, unstacked
from rllava_jax.model.paligemma import PaliGemma, positions_of


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
            raise InvalidSetting(f"temperature: {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise InvalidSetting(f"top_p: {self.top_p} is outside (0, 1]; 1 draws from all")


GREEDY = Sampling()


class DecodeState(NamedTuple):
    """What decoding carries.

    Attributes:
      cache: stacked over layers, or a tuple with each layer's own where the layers are unrolled.
      filled: [B, C], which slots hold a token.
      position: [B], each row's next one.
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
      of_prompt: what the attention hook took from the prefill [L, …], of which the prompt's last row chose token 0.
      of_tokens: and from each token when it was fed, to choose the next: [N - 1, L, …], zeros where decoding had ended.
    """

    tokens: Array
    log_prob: Array
    finished: Array
    of_prompt: Any = None
    of_tokens: Any = None


def prefill(
    model: PaliGemma, prompt: Inputs, *, new_tokens: int, cache_dtype: Any = None, hook: AttentionHook | None = None
) -> tuple[Float[Array, "B V"], DecodeState, Any]:
    """Encodes prompts.

    Returns the logits after each prompt's last token, a state with room for `new_tokens`, and what the hook collected.

    `cache_dtype` is the compute type unless given; the reference keeps its cache in bfloat16 whatever it computes in.
    `hook` sees the attention weights [B, N, S, S] of every layer of the decoder.
    """
    text, sequence, decoded = model.run(prompt, cache_dtype=cache_dtype or model.compute_dtype, decoder_hook=hook)
    assert isinstance(decoded.cache, KVCache)
    length = prompt.mask_input.sum(axis=1)
    last = jnp.take_along_axis(text, (length - 1)[:, None, None], axis=1)
    grow = ((0, 0), (0, 0), (0, new_tokens), (0, 0), (0, 0))
    cache = KVCache(*(jnp.pad(part, grow) for part in decoded.cache))
    filled = jnp.pad(sequence.valid, ((0, 0), (0, new_tokens)))
    state = DecodeState(cache, filled, sequence.valid.sum(axis=1))
    return model.llm.embedder.decode(last)[:, 0], state, decoded.collected


def extend(
    model: PaliGemma,
    state: DecodeState,
    tokens: Int[Array, " B"],
    slot: Int[Array, ""],
    layers: Sequence[Block] | None = None,
    *,
    hook: AttentionHook | None = None,
) -> tuple[Float[Array, "B V"], DecodeState, Any]:
    """Feeds one token per row, written at cache slot `slot`; returns the logits after it, and what the hook collected.

    Args:
      layers: the decoder's, from `unrolled_layers`; the state's cache is then a tuple, too.
    """
    filled = state.filled.at[:, slot].set(True)
    x = model.llm.embedder.encode(tokens[:, None], model.compute_dtype)
    positions, mask = state.position[:, None], filled[:, None, :]
    decoded = model.llm(
        x, positions, mask, key_positions=positions_of(filled), cache=state.cache, slot=slot, unrolled=layers, hook=hook
    )
    assert decoded.cache is not None
    logits = model.llm.embedder.decode(decoded.states)[:, 0]
    return logits, DecodeState(decoded.cache, filled, state.position + 1), decoded.collected


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

    return [layer(params) for params in unstacked(params)]


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


class _Chosen(NamedTuple):
    """What has been chosen: the last token [B], all so far [B, N], their log-probability and who is done [B]."""

    token: Array
    tokens: Array
    log_prob: Array
    done: Array


class _Loop(NamedTuple):
    """One turn; `chosen` holds the tokens before `step`, of which `state` lacks the last."""

    step: Array
    state: DecodeState
    chosen: _Chosen
    collected: Any


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
    hook: AttentionHook | None = None,
) -> Generation:
    """Answers a batch of prompts, stopping when every row has reached eos.

    Args:
      prompt: prefixes only (no suffix), right-padded.
      new_tokens: the longest answer, eos included.
      vocab: ids that the tokenizer has; None is every row of the table. A published table has rows beyond them, which
        are no tokens: they are neither chosen nor given any probability.
      key: needed where `sampling` draws.
      hook: sees the attention weights of the prompt [B, N, S, S] and of every decoded token [B, N, 1, C], layer by
        layer. Without one nothing is added to the program.

    Raises:
      ValueError: sampling without a key.
    """
    logits, state, of_prompt = prefill(model, prompt, new_tokens=new_tokens, hook=hook)
    batch, first_slot = logits.shape[0], state.filled.shape[1] - new_tokens
    layers = unrolled_layers(model)
    if layers is not None:
        state = state._replace(cache=tuple(KVCache(*pair) for pair in zip(*state.cache, strict=True)))

    def feed(state: DecodeState, token: Array, step: Array) -> tuple[Array, DecodeState, Any]:
        return extend(model, state, token, first_slot + step - 1, layers, hook=hook)

    def taken(step: Array, logits: Array, before: _Chosen) -> _Chosen:
        step_key = None if key is None else jax.random.fold_in(key, step)
        of_tokens = logits[:, :vocab]
        chosen = choose(of_tokens, sampling, step_key)
        gained = jnp.take_along_axis(jax.nn.log_softmax(of_tokens), chosen[:, None], axis=-1)[:, 0]
        token = jnp.where(before.done, pad, chosen).astype(jnp.int32)
        return _Chosen(
            token,
            before.tokens.at[:, step].set(token),
            before.log_prob + jnp.where(before.done, 0.0, gained),
            before.done | (chosen == eos),
        )

    def body(loop: _Loop) -> _Loop:
        logits, state, new = feed(loop.state, loop.chosen.token, loop.step)
        collected = jax.tree.map(lambda all_of, of_one: all_of.at[loop.step - 1].set(of_one), loop.collected, new)
        return _Loop(loop.step + 1, state, taken(loop.step, logits, loop.chosen), collected)

    nothing = _Chosen(
        jnp.full((batch,), pad, jnp.int32),
        jnp.full((batch, new_tokens), pad, jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        jnp.zeros((batch,), bool),
    )
    # The last token of the longest answer is chosen and not fed: of an answer of one word that is half the steps.
    one = jnp.ones((), jnp.int32)
    room = None
    if hook is not None:
        shapes = jax.eval_shape(feed, state, nothing.token, one)[2]
        room = jax.tree.map(lambda shape: jnp.zeros((new_tokens - 1, *shape.shape), shape.dtype), shapes)
    first = _Loop(one, state, taken(jnp.zeros((), jnp.int32), logits, nothing), room)
    end = jax.lax.while_loop(lambda loop: (loop.step < new_tokens) & ~loop.chosen.done.all(), body, first)
    return Generation(end.chosen.tokens, end.chosen.log_prob, end.chosen.done, of_prompt, end.collected)
