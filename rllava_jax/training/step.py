"""One optimiser step, as a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import Params, merge
from rllava_jax.sharding import batch_sharding, replicated
from rllava_jax.training.objective import training_loss


class TrainState(NamedTuple):
    """Everything a step changes, and the frozen parameters beside it (which have no optimiser state).

    Leaves are arrays; the same structure also holds their shapes or their shardings.
    """

    step: Any
    params: dict[str, Any]
    frozen: dict[str, Any]
    optimizer: Any


def make_train_step(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    accumulate: int,
    mesh: Mesh,
    shardings: Any,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The jitted step: `(state, batch) → (state, metrics)`. The old state's memory is reused.

    Args:
      accumulate: micro-batches. The loss is a mean of per-example losses, so the mean of the micro-batches' gradients
        is the full batch's.
      shardings: of the state, leaf by leaf.
    """

    def gradients(state: TrainState, batch: Mapping[str, Array]) -> tuple[Params, dict[str, Array]]:
        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            model = merge(graphdef, params | state.frozen)
            return training_loss(model, Inputs.from_batch(batch), batch["mask_loss"])

        grads, metrics = jax.grad(loss, has_aux=True)(state.params)
        return grads, metrics

    def step(state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        if accumulate == 1:
            grads, metrics = gradients(state, batch)
        else:
            # Every accumulate-th example, so that each device keeps its own examples in each micro-batch.
            micro = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), dict(batch))

            def add(total: Any, part: Mapping[str, Array]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradients(state, part)), None

            zeros = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype),
                jax.eval_shape(gradients, state, jax.tree.map(lambda x: x[0], micro)),
            )
            total, _ = jax.lax.scan(add, zeros, micro)
            grads, metrics = jax.tree.map(lambda x: x / accumulate, total)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        metrics |= {"learning_rate": schedule(state.step), "gradient_norm": optax.tree.norm(grads)}
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, state.frozen, optimizer_state), metrics

    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
