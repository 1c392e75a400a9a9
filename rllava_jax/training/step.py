"""One optimiser step, as a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from rllava_jax.config import Config, TrainConfig
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import Params, merge
from rllava_jax.model.partition_rules import BATCH
from rllava_jax.model.sharding import batch_sharding, replicated
from rllava_jax.training.losses.cross_entropy import training_loss
from rllava_jax.training.program import Program
from rllava_jax.training.state import TrainState

# The running mean of the loss, against which a spike is measured: its decay, and the steps it takes to be trusted.
_LOSS_DECAY = 0.98
_TRUSTED_AFTER = 20


# XLA for TPU cuts the product of a gathered weight into one piece for each device, to gather and multiply at once. For
# full fine-tuning of the 3B size on v5e:4x4 that makes 46,431 exchanges of a step, three times the bytes (72 GiB for
# 25), and 1 GiB more temporaries (`--mode compile`). A threshold that nothing reaches turns it off.
_COMPILER_OPTIONS: dict[str, dict[str, bool | str]] = {
    "tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
}


def make_train_step(program: Program, config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted step: `(state, batch) → (state, metrics)`. The old state's memory is reused.

    Metrics are scalars (`loss`, `token_accuracy`, which is a mean over micro-batches, `learning_rate`, `gradient_norm`,
    `bad`) and `example_loss` float[B], in the batch's order and cut as the batch is.

    After a bad step, whose loss or gradient is not finite or whose loss is a spike (`train.spike_factor`), all of the
    state is what it was. With `train.on_bad_step` "skip" only `step` moves on; with "stop" nothing does, nor in any
    later step, so that it is early enough to ask for `bad` a step late.
    """
    train, ema = config.train, config.optimizer.ema
    stop = train.on_bad_step == "stop"

    def step(state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        # In scope while the model is traced, for `axes.constrain`.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            grads, metrics = _accumulated(program.graphdef, train, state, dict(batch))
        # Summed over the examples straight to where the parameters lie: a reduce-scatter and not an all-reduce.
        grads = jax.lax.with_sharding_constraint(grads, program.shardings.params)
        updates, optimizer = program.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        average = {name: ema * old + (1 - ema) * params[name] for name, old in state.ema.items()}
        norm = optax.tree.norm(grads)
        bad = _is_bad(metrics["loss"], norm, state.guard, train.spike_factor)
        if stop:
            bad |= state.guard["stopped"]
        changed = (params, optimizer, average, _guarded(state.guard, metrics["loss"]))
        kept = (state.params, state.optimizer, state.ema, state.guard)
        params, optimizer, average, guard = jax.tree.map(lambda new, old: jnp.where(bad, old, new), changed, kept)
        # The schedule's own count, which a skipped batch does not move.
        rate = program.schedule(state.optimizer[-1].count)
        metrics |= {"learning_rate": rate, "gradient_norm": norm, "bad": bad}
        number = state.step + (jnp.where(bad, 0, 1) if stop else 1)
        guard |= {"stopped": bad} if stop else {}
        return TrainState(number, params, state.frozen, optimizer, average, guard), metrics

    whole = replicated(mesh)
    names = ("loss", "token_accuracy", "learning_rate", "gradient_norm", "bad")
    metric_shardings = dict.fromkeys(names, whole) | {"example_loss": NamedSharding(mesh, PartitionSpec(BATCH))}
    return jax.jit(
        step,
        in_shardings=(program.shardings, batch_sharding(mesh)),
        out_shardings=(program.shardings, metric_shardings),
        donate_argnums=0,
        compiler_options=_COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
    )


def _gradients(
    graphdef: Any, config: TrainConfig, state: TrainState, batch: Mapping[str, Array]
) -> tuple[Params, dict[str, Array]]:
    def loss(params: Params) -> tuple[Array, dict[str, Array]]:
        model = merge(graphdef, params | state.frozen)
        return training_loss(model, Inputs.from_batch(batch), batch["mask_loss"], config)

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    return grads, metrics


def _accumulated(
    graphdef: Any, config: TrainConfig, state: TrainState, batch: dict[str, Array]
) -> tuple[Params, dict[str, Array]]:
    """Gradients and metrics of the batch, of `train.accumulate` micro-batches one after the other.

    The loss is a mean of per-example losses, so the mean of the micro-batches' gradients is the full batch's.
    """
    accumulate = config.accumulate
    if accumulate == 1:
        return _gradients(graphdef, config, state, batch)
    # Every accumulate-th example, so that each device keeps its own examples in each micro-batch.
    micro = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, part: Mapping[str, Array]) -> tuple[Any, Array]:
        grads, metrics = _gradients(graphdef, config, state, part)
        losses = metrics.pop("example_loss")
        return jax.tree.map(jnp.add, total, (grads, metrics)), losses

    # Summed in float32, whatever the parameters' type.
    zeros = (
        jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), state.params),
        {"loss": jnp.zeros(()), "token_accuracy": jnp.zeros(())},
    )
    total, losses = jax.lax.scan(add, zeros, micro)
    grads, metrics = jax.tree.map(lambda x: x / accumulate, total)
    return grads, metrics | {"example_loss": losses.swapaxes(0, 1).reshape(-1)}


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
