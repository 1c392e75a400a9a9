"""One optimiser step, as a pure function of state and batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from rllava_jax.config import Config
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import Params, merge
from rllava_jax.model.sharding import batch_sharding, replicated
from rllava_jax.training.losses.registry import total_loss
from rllava_jax.training.program import Program
from rllava_jax.training.state import Metrics, TrainState

# The running mean of the loss, against which a spike is measured: its decay, and the steps it takes to be trusted.
_LOSS_DECAY = 0.98
_TRUSTED_AFTER = 20


# XLA for TPU cuts the product of a gathered weight into one piece for each device, to gather and multiply at once. For
# full fine-tuning of the 3B size on v5e:4x4 that makes 46,431 exchanges of a step, three times the bytes (72 GiB for
# 25), and 1 GiB more temporaries (`--mode compile`). A threshold that nothing reaches turns it off.
_TPU_OPTIONS: dict[str, bool | str] = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def make_train_step(program: Program, config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted step: `(state, batch) → (state, Metrics)`. The old state's memory is reused.

    After a bad step, whose loss or gradient is not finite or whose loss is a spike (`train.spike_factor`), all of the
    state is what it was. With `train.on_bad_step` "skip" only `step` moves on; with "stop" nothing does, nor in any
    later step, so that it is early enough to ask for `bad` a step late.
    """
    train, ema = config.train, config.optimizer.ema
    stop = train.on_bad_step == "stop"

    def step(state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, Metrics]:
        # In scope while the model is traced, for `partition_rules.constrain`.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            grads, metrics = _accumulated(program.graphdef, config, state, dict(batch))
        # Summed over the examples straight to where the parameters lie: a reduce-scatter and not an all-reduce.
        grads = jax.lax.with_sharding_constraint(grads, program.shardings.params)
        updates, optimizer = program.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        average = {name: ema * old + (1 - ema) * params[name] for name, old in state.ema.items()}
        loss, norm = metrics.scalars["loss"], optax.tree.norm(grads)
        bad = _is_bad(loss, norm, state.guard, train.spike_factor)
        if stop:
            bad |= state.guard["stopped"]
        changed = (params, optimizer, average, _guarded(state.guard, loss))
        kept = (state.params, state.optimizer, state.ema, state.guard)
        params, optimizer, average, guard = jax.tree.map(lambda new, old: jnp.where(bad, old, new), changed, kept)
        # The schedule's own count, which a skipped batch does not move.
        rate = program.schedule(state.optimizer[-1].count)
        scalars = metrics.scalars | {"learning_rate": rate, "gradient_norm": norm, "bad": bad}
        number = state.step + (jnp.where(bad, 0, 1) if stop else 1)
        guard |= {"stopped": bad} if stop else {}
        state = TrainState(number, params, state.frozen, optimizer, average, guard)
        return state, Metrics(scalars, metrics.examples)

    return jax.jit(
        step,
        in_shardings=(program.shardings, batch_sharding(mesh)),
        out_shardings=(program.shardings, Metrics(replicated(mesh), batch_sharding(mesh))),
        donate_argnums=0,
        compiler_options=_TPU_OPTIONS if mesh.devices.flat[0].platform == "tpu" else None,
    )


def _accumulated(graphdef: Any, config: Config, state: TrainState, batch: dict[str, Array]) -> tuple[Params, Metrics]:
    """Gradients and metrics of the batch, of `train.accumulate` micro-batches one after the other.

    Each loss is a mean over micro-batches (`losses.registry.check_losses` refuses others), so the mean of the
    micro-batches' gradients is the full batch's.
    """
    accumulate = config.train.accumulate

    def loss(params: Params, part: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        return total_loss(merge(graphdef, params | state.frozen), Inputs.from_batch(part), config)

    def gradients(part: Mapping[str, Array]) -> tuple[tuple[Params, dict[str, Array]], dict[str, Array]]:
        grads, metrics = jax.grad(loss, has_aux=True)(state.params, part)
        examples = {name: value for name, value in metrics.items() if value.ndim}
        return (grads, {name: value for name, value in metrics.items() if not value.ndim}), examples

    if accumulate == 1:
        (grads, scalars), examples = gradients(batch)
        return grads, Metrics(scalars, examples)
    # Every accumulate-th example, so that each device keeps its own examples in each micro-batch.
    micro = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: Mapping[str, Array]) -> tuple[Any, dict[str, Array]]:
        found, examples = gradients(part)
        return jax.tree.map(jnp.add, total, found), examples

    # Summed in float32, whatever the parameters' type.
    summed, _ = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], micro))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, jnp.float32), summed)
    total, examples = jax.lax.scan(add, zeros, micro)
    grads, scalars = jax.tree.map(lambda x: x / accumulate, total)
    return grads, Metrics(scalars, {name: value.swapaxes(0, 1).reshape(-1) for name, value in examples.items()})


def _is_bad(
    loss: Float[Array, ""], norm: Float[Array, ""], guard: Mapping[str, Array], factor: float
) -> Bool[Array, ""]:
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    if "loss" in guard:
        bad |= (guard["steps"] >= _TRUSTED_AFTER) & (loss > factor * guard["loss"])
    return bad


def _guarded(guard: Mapping[str, Array], loss: Array) -> dict[str, Array]:
    if "loss" not in guard:
        return dict(guard)
    # The mean so far until that is of as many steps as the decay stands for: no bias to correct.
    weight = jnp.maximum(1 / (guard["steps"] + 1), 1 - _LOSS_DECAY)
    return {**guard, "loss": guard["loss"] + weight * (loss - guard["loss"]), "steps": guard["steps"] + 1}
