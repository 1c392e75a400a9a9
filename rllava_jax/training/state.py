"""Making the training state: shapes, then shardings, then a jitted init or a sharded restore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import Config
from rllava_jax.model.lora import is_adapter
from rllava_jax.model.params import trainable_names
from rllava_jax.model.sharding import parameter_shardings, placed, replicated
from rllava_jax.training.initialisation import StartingPoint, initial_parameters
from rllava_jax.training.step import Program, TrainState


def abstract_state(
    config: Config, shapes: Mapping[str, jax.ShapeDtypeStruct], optimizer: optax.GradientTransformation
) -> TrainState:
    """Shapes and types of the state, without memory."""
    trainable = trainable_names(config, shapes)
    params = {name: shape for name, shape in shapes.items() if name in trainable}
    frozen = {name: shape for name, shape in shapes.items() if name not in trainable}
    whole_number, number = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    return TrainState(
        whole_number,
        params,
        frozen,
        jax.eval_shape(optimizer.init, params),
        # A bfloat16 average would not move: its steps are smaller than the type's.
        {name: jax.ShapeDtypeStruct(shape.shape, jnp.float32) for name, shape in params.items()}
        if config.optimizer.ema
        else {},
        ({"loss": number, "steps": whole_number} if config.train.spike_factor else {})
        | ({"stopped": jax.ShapeDtypeStruct((), jnp.bool_)} if config.train.on_bad_step == "stop" else {}),
    )


def state_shardings(mesh: Mesh, abstract: TrainState) -> TrainState:
    """Shardings of every leaf: Adam's moments and the average live where their parameters do."""
    params = parameter_shardings(mesh, abstract.params)
    whole = replicated(mesh)

    def of(path: Any, leaf: Any) -> NamedSharding:
        # A moment's path ends in the name of its parameter; counters have none.
        name = getattr(path[-1], "key", None)
        return params[name] if name in params and leaf.shape == abstract.params[name].shape else whole

    optimizer = jax.tree_util.tree_map_with_path(of, abstract.optimizer)
    return TrainState(
        whole,
        params,
        parameter_shardings(mesh, abstract.frozen),
        optimizer,
        {name: params[name] for name in abstract.ema},
        dict.fromkeys(abstract.guard, whole),
    )


def stored(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint keeps: the parameters that answer, and what else training goes on with.

    With a moving average the first are the average (in float32), and the parameters that train stand in the second.
    """
    training = {"step": state.step, "optimizer": state.optimizer}
    if state.ema:
        training["params"] = state.params
    # That a run was stopped is no part of how it goes on.
    if guard := {name: value for name, value in state.guard.items() if name != "stopped"}:
        training["guard"] = guard
    return state.answering, training


def restored_state(checkpoints: Checkpoints, program: Program, data: Any) -> TrainState:
    """The state of the newest checkpoint that is whole, each part read to where it lives; `data` is put in its place.

    Raises:
      CheckpointError: none can be read, or they are of another model.
    """
    abstract = program.abstract
    target = placed(abstract, program.shardings)
    _, params, training = checkpoints.restore_newest(*stored(target), data)
    answering = {name: params[name] for name in abstract.params}
    return TrainState(
        training["step"],
        training.get("params", answering),
        {name: params[name] for name in abstract.frozen},
        training["optimizer"],
        answering if abstract.ema else {},
        training.get("guard", {}) | _zeros({name: x for name, x in target.guard.items() if name == "stopped"}),
    )


def initial_state(config: Config, program: Program, *, vocab: int, start: StartingPoint | None = None) -> TrainState:
    """A fresh state, each part made or read where it lives.

    Args:
      vocab: rows of the token table where the configuration does not say.
      start: the checkpoint whose parameters it takes; None takes random ones.
    """
    abstract, shardings = program.abstract, program.shardings
    shapes, places = abstract.params | abstract.frozen, shardings.params | shardings.frozen
    params = initial_parameters(config, shapes, places, start, vocab=vocab)
    trainable = {name: params[name] for name in abstract.params}
    frozen = {name: params[name] for name in abstract.frozen}
    moments = jax.jit(program.optimizer.init, out_shardings=shardings.optimizer)(trainable)
    ema = jax.jit(
        lambda params: {name: params[name].astype(shape.dtype) for name, shape in abstract.ema.items()},
        out_shardings=shardings.ema,
    )(trainable)
    step, guard = jax.device_put(_zeros((abstract.step, abstract.guard)), (shardings.step, shardings.guard))
    return TrainState(step, trainable, frozen, moments, ema, guard)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype, device=shape.sharding), shapes)


def parameter_table(abstract: TrainState, origins: Mapping[str, str]) -> str:
    """What trains and what is frozen, by part of the model and by where it comes from; one line of sums below.

    Args:
      origins: of every parameter; see `starting_point.Origin`.
    """
    groups: dict[tuple[str, ...], list[jax.ShapeDtypeStruct]] = {}
    for kind, params in (("trains", abstract.params), ("frozen", abstract.frozen)):
        for name, shape in params.items():
            part = "adapters" if is_adapter(name) else name.split("/")[0]
            groups.setdefault((part, kind, origins[name], shape.dtype.name), []).append(shape)

    def row(titles: tuple[str, ...], shapes: Iterable[jax.ShapeDtypeStruct], last: str) -> str:
        shapes = list(shapes)
        count, size = sum(s.size for s in shapes), sum(s.size * s.dtype.itemsize for s in shapes)
        part, kind, origin = titles
        return f"  {part:8}  {kind:6}  {origin:9}  {count:>14,}  {size / 2**20:>10,.1f}  {last}"

    lines = [f"  {'part':8}  {'kind':6}  {'origin':9}  {'parameters':>14}  {'MiB':>10}  dtype"]
    order = ("img", "llm", "roi", "adapters")
    for key in sorted(groups, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[1:])):
        lines.append(row(key[:3], groups[key], key[3]))
    everything = {**abstract.params, **abstract.frozen}.values()
    trained = sum(shape.size for shape in abstract.params.values())
    share = trained / sum(shape.size for shape in everything)
    lines.append(row(("total", "", ""), everything, f"of which {trained:,} train ({share:.2%})"))
    return "\n".join(lines)
