"""The loss: shifted cross-entropy on the suffix and eos, mean over an example's tokens, then mean over the batch.

Averaging within each example first makes equal micro-batches accumulate to exactly the full batch's gradient.
Axes: B batch, T text, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma


def example_losses(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], mask: Float[Array, "B T"]
) -> Float[Array, " B"]:
    """Mean negative log-likelihood of each example's marked targets. `logits[:, t]` predicts `targets[:, t]`."""
    log_prob = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.take_along_axis(log_prob, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
    mask = jnp.asarray(mask, jnp.float32)
    return -(chosen * mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)


def training_loss(
    model: PaliGemma, inputs: Inputs, mask_loss: Float[Array, "B T"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The batch's loss and what is logged beside it.

    The last text position predicts nothing that is a target, so the model is run without it, as in the reference.
    """
    shifted = inputs.truncated(inputs.text.shape[1] - 1)
    logits = model(shifted).logits
    targets, mask = inputs.text[:, 1:], mask_loss[:, 1:]
    loss = example_losses(logits, targets, mask).mean()
    right = (jnp.argmax(logits, axis=-1) == targets) * mask
    return loss, {"loss": loss, "token_accuracy": right.sum() / jnp.maximum(mask.sum(), 1)}
