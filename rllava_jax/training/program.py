"""What a step is compiled from, and its state: shapes, then shardings, then a jitted init or a sharded restore."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config
from rllava_jax.model.params import abstract, trainable_names
from rllava_jax.model.partition_rules import check_rules
from rllava_jax.model.sharding import parameter_shardings, placed, replicated, say_what_is_held_whole
from rllava_jax.training.initialisation import initial_parameters
from rllava_jax.training.losses.registry import check_losses
from rllava_jax.training.optimizer import learning_rate, make_optimizer
from rllava_jax.training.state import TrainState, stored


class Program(NamedTuple):
    """What a step is made of. Neither data nor arrays, so that a step can be compiled where neither is at hand."""

    graphdef: Any
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    abstract: TrainState
    shardings: TrainState


def make_program(config: Config, mesh: Mesh, *, vocab: int, steps: int, warmup: int) -> Program:
    """The parts of a training step: shapes, then shardings.

    Args:
      vocab: rows of the token table where the configuration does not say.
      steps, warmup: length of the run and of its warm-up.

    Raises:
      ConfigError: losses or a mesh that do not fit, or a name pattern that matches nothing.
    """
    check_losses(config.train)
    graphdef, shapes = abstract(config, vocab=vocab)
    check_rules(shapes)
    say_what_is_held_whole(mesh, shapes)
    trainable = trainable_names(config, shapes)
    schedule = learning_rate(config.optimizer, steps=steps, warmup=warmup)
    optimizer = make_optimizer(config.optimizer, schedule, {name: shapes[name] for name in sorted(trainable)})
    state = abstract_state(config, shapes, optimizer, trainable)
    return Program(graphdef, schedule, optimizer, state, state_shardings(mesh, state))


def abstract_state(
    config: Config,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    optimizer: optax.GradientTransformation,
    trainable: Collection[str],
) -> TrainState:
    """Shapes and types of the state, without memory, of which the `trainable` parameters train."""
    params = {name: shape for name, shape in shapes.items() if name in trainable}
    frozen = {name: shape for name, shape in shapes.items() if name not in trainable}
    averaged = params if config.optimizer.ema else {}
    whole_number, number = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    return TrainState(
        step=whole_number,
        params=params,
        frozen=frozen,
        optimizer=jax.eval_shape(optimizer.init, params),
        # A bfloat16 average would not move: its steps are smaller than the type's.
        ema={name: jax.ShapeDtypeStruct(shape.shape, jnp.float32) for name, shape in averaged.items()},
        guard=({"loss": number, "steps": whole_number} if config.train.spike_factor else {})
        | ({"stopped": jax.ShapeDtypeStruct((), jnp.bool_)} if config.train.on_bad_step == "stop" else {}),
    )


def state_shardings(mesh: Mesh, abstract: TrainState) -> TrainState:
    """Shardings of every leaf: Adam's moments and the average live where their parameters do."""
    shapes = abstract.params | abstract.frozen
    places, whole = parameter_shardings(mesh, shapes), replicated(mesh)

    def of(path: Any, leaf: Any) -> NamedSharding:
        # The path of a parameter, and of its moments, ends in its name; counters have none.
        name = getattr(path[-1], "key", None)
        return places[name] if name in places and leaf.shape == shapes[name].shape else whole

    return jax.tree_util.tree_map_with_path(of, abstract)


def initial_state(
    config: Config, program: Program, *, vocab: int, pretrained: OpenedCheckpoint | None = None
) -> TrainState:
    """A fresh state, each part made or read where it lives.

    Args:
      vocab: rows of the token table where the configuration does not say.
      pretrained: the checkpoint whose parameters it takes; None takes random ones.
    """
    abstract, shardings = program.abstract, program.shardings
    shapes, places = abstract.params | abstract.frozen, shardings.params | shardings.frozen
    params = initial_parameters(config, shapes, places, pretrained, vocab=vocab)
    trainable = {name: params[name] for name in abstract.params}
    frozen = {name: params[name] for name in abstract.frozen}
    moments = jax.jit(program.optimizer.init, out_shardings=shardings.optimizer)(trainable)
    ema = jax.jit(
        lambda params: {name: params[name].astype(shape.dtype) for name, shape in abstract.ema.items()},
        out_shardings=shardings.ema,
    )(trainable)
    step, guard = jax.device_put(_zeros((abstract.step, abstract.guard)), (shardings.step, shardings.guard))
    return TrainState(step=step, params=trainable, frozen=frozen, optimizer=moments, ema=ema, guard=guard)


def restored_state(checkpoints: Checkpoints, program: Program, data: Any) -> TrainState:
    """The state of the newest checkpoint that is whole, each part read to where it lives; `data` is put in its place.

    Raises:
      CheckpointError: none can be read, or they are of another model.
    """
    abstract = program.abstract
    target = placed(abstract, program.shardings)
    _, params, training = checkpoints.restore_newest(*stored(target), data)
    inference_params = {name: params[name] for name in abstract.params}
    return TrainState(
        step=training["step"],
        params=training.get("params", inference_params),
        frozen={name: params[name] for name in abstract.frozen},
        optimizer=training["optimizer"],
        ema=inference_params if abstract.ema else {},
        guard=training.get("guard", {}) | _zeros({name: x for name, x in target.guard.items() if name == "stopped"}),
    )


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype, device=shape.sharding), shapes)
