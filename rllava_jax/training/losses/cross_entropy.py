"""The loss: shifted cross-entropy on the suffix and eos, mean over an example's tokens, then mean over the batch.

Averaging within each example first makes equal micro-batches accumulate to exactly the full batch's gradient.

PaliGemma's vocabulary has 257,152 words: float32 logits of a batch of 32 with 64 positions would take 2 GB, their
gradient as much again. So each example's suffix positions are moved to the front, and logits are made for a few
positions of all examples at once, as often as the longest suffix of the batch needs, in the backward pass anew.

Axes: B batch, T text, M positions of a chunk, D width, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rllava_jax.config import Config
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.partition_rules import constrain


class _Options(NamedTuple):
    chunk: int
    smoothing: float
    z_loss: float


def cross_entropy(model: PaliGemma, inputs: Inputs, config: Config) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The batch's loss on the targets that `inputs.mask_loss` marks; metrics `token_accuracy` and `example_loss`.

    The last text position predicts nothing that is a target, so the model is run without it, as in the reference.
    """
    states = model.hidden_states(inputs.truncated(inputs.text.shape[1] - 1))
    losses, accuracy = suffix_losses(
        states,
        model.llm.embedder.input_embedding[...],
        inputs.text[:, 1:],
        inputs.given("mask_loss")[:, 1:],
        chunk=config.train.loss_chunk,
        smoothing=config.train.label_smoothing,
        z_loss=config.train.z_loss,
    )
    return losses.mean(), {"token_accuracy": accuracy, "example_loss": losses}


def suffix_losses(
    states: Float[Array, "B T D"],
    table: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    mask: Float[Array, "B T"],
    *,
    chunk: int,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Float[Array, " B"], Float[Array, ""]]:
    """Each example's mean loss over its marked targets, and the share of them that the largest logit gets right.

    With logits `z` and their log-normaliser `n`, one target costs `(1 - smoothing) (n - z_target) + smoothing (n -
    mean z) + z_loss n²` (label smoothing: arXiv 1512.00567; z-loss: PaLM, arXiv 2204.02311, section 5).

    For example two examples of five positions, with a chunk of 2:

        mask                  order                 marked, in chunks     chunks of logits
        [0 0 1 1 1]           [2 3 4 0 1]           [2 3 | 4 . | . .]     2, for the longest suffix has 3 targets
        [0 0 0 1 0]           [3 0 1 2 4]           [3 . | . . | . .]

    Logits of the third chunk are never made. A `.` within the first two costs logits, but its loss is multiplied by 0.

    Args:
      states: after the final norm; `states[:, t]` predicts `targets[:, t]`.
      table: the token table, tied to the output layer.
      mask: 1 on targets, else 0.
      chunk: positions of each example whose logits are held at once.
    """
    chunk = min(chunk, targets.shape[1])
    positions = -(-targets.shape[1] // chunk) * chunk
    mask = jnp.asarray(mask, jnp.float32)
    # Marked positions first, in their order; what is filled up at the end is unmarked.
    order = jnp.argsort(mask == 0, axis=1, stable=True)
    states = _padded(jnp.take_along_axis(states, order[..., None], axis=1), positions)
    targets, mask = (_padded(jnp.take_along_axis(x, order, axis=1), positions) for x in (jnp.asarray(targets), mask))
    chunks = -(-mask.sum(axis=1).max().astype(jnp.int32) // chunk)
    losses, right = _token_losses(_Options(chunk, smoothing, z_loss), states, table, targets, chunks)
    counts = jnp.maximum(mask.sum(axis=1), 1)
    return (losses * mask).sum(axis=1) / counts, (right * mask).sum() / jnp.maximum(mask.sum(), 1)


def _padded(x: Array, positions: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, positions - x.shape[1])) + ((0, 0),) * (x.ndim - 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_losses(options: _Options, states: Array, table: Array, targets: Array, chunks: Array) -> tuple[Array, Array]:
    """Loss and rightness [B, T] of the first `chunks` chunks of positions; the others have 0."""
    losses, right, _ = _forward(options, states, table, targets, chunks)
    return losses, right


def _logits(states: Array, weight: Array) -> Array:
    # The sum is kept in float32, whatever the compute type.
    logits = jnp.einsum("BMD,VD->BMV", states, weight, preferred_element_type=jnp.float32)
    return constrain(logits, "logits")


def _chunk_of(x: Array, number: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis=1)


def _put(x: Array, chunk: Array, number: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, chunk, number * chunk.shape[1], axis=1)


def _forward(options: _Options, states: Array, table: Array, targets: Array, chunks: Array) -> tuple[Array, ...]:
    # The output layer's weight, gathered once for all chunks, in the compute type.
    weight = constrain(table.astype(states.dtype), "output")

    def body(number: Array, done: tuple[Array, ...]) -> tuple[Array, ...]:
        logits = _logits(_chunk_of(states, number, options.chunk), weight)
        target = _chunk_of(targets, number, options.chunk)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        loss = normaliser - (1 - options.smoothing) * chosen
        if options.smoothing:
            loss -= options.smoothing * logits.mean(axis=-1)
        if options.z_loss:
            loss += options.z_loss * jnp.square(normaliser)
        right = (jnp.argmax(logits, axis=-1) == target).astype(jnp.float32)
        return tuple(_put(x, new, number) for x, new in zip(done, (loss, right, normaliser), strict=True))

    nothing = jnp.zeros(targets.shape, jnp.float32)
    return jax.lax.fori_loop(0, chunks, body, (nothing, nothing, nothing))


class _Marker(NamedTuple):
    """An empty pytree, whose presence says that the table trains."""


def _keep(options: _Options, states: Any, table: Any, targets: Any, chunks: Any) -> tuple[Any, Any]:
    arrays = states.value, table.value, targets.value, chunks.value
    losses, right, normaliser = _forward(options, *arrays)
    return (losses, right), (*arrays, normaliser, _Marker() if table.perturbed else None)


def _backward(options: _Options, kept: Any, cotangents: Any) -> tuple[Any, ...]:
    states, table, targets, chunks, normaliser, trains = kept
    scales = cotangents[0]  # rightness has no gradient
    if isinstance(scales, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    # The output layer's weight, gathered once for all chunks, in the compute type.
    weight = constrain(table.astype(states.dtype), "output")

    def body(number: Array, done: tuple[Array, Any]) -> tuple[Array, Any]:
        part, target, scale = (_chunk_of(x, number, options.chunk) for x in (states, targets, scales))
        logits = _logits(part, weight)
        n = _chunk_of(normaliser, number, options.chunk)[..., None]
        # By a logit, n has the gradient p = exp(z - n), so one target's loss has p (1 + 2 z_loss n) - smoothing / V
        # - (1 - smoothing) [is target]. For example z = (2, 1, 0) with target 0, so n = 2.408, p = (.665, .245, .090):
        #   smoothing 0,   z_loss 0     loss 0.408   gradient (-.335, .245, .090)
        #   smoothing 0.1, z_loss 0     loss 0.508   gradient (-.268, .211, .057)
        #   smoothing 0.1, z_loss 0.01  loss 0.566   gradient (-.236, .223, .061), whose sum is 2 z_loss n = 0.048
        gradient = jnp.exp(logits - n) * (1 + 2 * options.z_loss * n) - options.smoothing / table.shape[0]
        is_target = jnp.arange(table.shape[0]) == target[..., None]
        gradient = (gradient - (1 - options.smoothing) * is_target) * scale[..., None]
        gradient = constrain(gradient.astype(states.dtype), "logits")
        to_states = constrain(jnp.einsum("BMV,VD->BMD", gradient, weight), "states")
        to_table = done[1]
        if to_table is not None:
            sums = jnp.einsum("BMV,BMD->VD", gradient, part, preferred_element_type=jnp.float32)
            to_table = to_table + constrain(sums, "table")
        return _put(done[0], to_states, number), to_table

    to_table = None if trains is None else constrain(jnp.zeros(table.shape, jnp.float32), "table")
    to_states, to_table = jax.lax.fori_loop(0, chunks, body, (jnp.zeros_like(states), to_table))
    return to_states, None if to_table is None else to_table.astype(table.dtype), None, None


_token_losses.defvjp(_keep, _backward, symbolic_zeros=True)
