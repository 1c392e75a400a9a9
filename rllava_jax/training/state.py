"""Making the training state: shapes, then shardings, then a jitted init."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from rllava_jax.checkpoint import Checkpoints
from rllava_jax.config import Config
from rllava_jax.model.params import initialise, trainable_names
from rllava_jax.sharding import parameter_shardings, replicated
from rllava_jax.training.step import TrainState


def abstract_state(
    config: Config, shapes: Mapping[str, jax.ShapeDtypeStruct], optimizer: optax.GradientTransformation
) -> TrainState:
    """Shapes and types of the state, without memory."""
    trainable = trainable_names(config, shapes)
    params = {name: shape for name, shape in shapes.items() if name in trainable}
    frozen = {name: shape for name, shape in shapes.items() if name not in trainable}
    return TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, frozen, jax.eval_shape(optimizer.init, params))


def state_shardings(mesh: Mesh, abstract: TrainState) -> TrainState:
    """Shardings of every leaf: Adam's moments live where their parameters do."""
    params = parameter_shardings(mesh, abstract.params)
    whole = replicated(mesh)

    def of(path: Any, leaf: Any) -> NamedSharding:
        # A moment's path ends in the name of its parameter; counters have none.
        name = getattr(path[-1], "key", None)
        return params[name] if name in params and leaf.shape == abstract.params[name].shape else whole

    optimizer = jax.tree_util.tree_map_with_path(of, abstract.optimizer)
    return TrainState(whole, params, parameter_shardings(mesh, abstract.frozen), optimizer)


def restored_state(
    checkpoints: Checkpoints, step: int, abstract: TrainState, shardings: TrainState, data: Any
) -> TrainState:
    """The state of a checkpoint, each part read to where it lives; the data iterator is put in its place.

    Raises:
      CheckpointError: the checkpoint cannot be read, or is of another model.
    """
    target = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), abstract, shardings
    )
    params, training = checkpoints.restore(
        step, target.params | target.frozen, {"step": target.step, "optimizer": target.optimizer}, data
    )
    return TrainState(
        training["step"],
        {name: params[name] for name in abstract.params},
        {name: params[name] for name in abstract.frozen},
        training["optimizer"],
    )


def initial_state(
    config: Config, abstract: TrainState, shardings: TrainState, optimizer: optax.GradientTransformation, *, vocab: int
) -> TrainState:
    """A fresh state with random parameters, each part made where it lives."""
    params = initialise(config, abstract.params | abstract.frozen, shardings.params | shardings.frozen, vocab=vocab)
    trainable = {name: params[name] for name in abstract.params}
    frozen = {name: params[name] for name in abstract.frozen}
    moments = jax.jit(optimizer.init, out_shardings=shardings.optimizer)(trainable)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return TrainState(step, trainable, frozen, moments)


def parameter_table(abstract: TrainState) -> str:
    """Counts and bytes of what trains and what is frozen, by part of the model."""
    rows = []
    for kind, params in (("trains", abstract.params), ("frozen", abstract.frozen)):
        for part in ("img", "llm", "roi"):
            shapes = [shape for name, shape in params.items() if name.startswith(part + "/")]
            if shapes:
                count = sum(shape.size for shape in shapes)
                size = sum(shape.size * shape.dtype.itemsize for shape in shapes)
                rows.append(f"  {part:4} {kind:7} {count:>14,} parameters {size / 2**20:>10,.1f} MiB")
    return "\n".join(rows)
