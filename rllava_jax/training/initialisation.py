"""What a run starts from: `init.checkpoint`, or random parameters.

First the checkpoint is read as far as its configuration, tokenizer and shapes, which complete the run's configuration
(`resolve`). Then names and shapes are compared with the run's model, before anything is written (`origins`). At last
each array is read straight to where it lives (`initial_parameters`): an unsharded model never exists.

Axes: P and Q patches, W vision width.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from data_pipelines.core.errors import SettingConflict, listed
from data_pipelines.core.paths import path_of
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import CheckpointError, CheckpointMismatch, mismatches
from rllava_jax.checkpoint.manager import Checkpoints, find_checkpoint
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config, InitConfig, ModelConfig
from rllava_jax.config.stored import from_json
from rllava_jax.model.lora import is_adapter
from rllava_jax.model.params import Params, build, is_new, split
from rllava_jax.model.region_encoders.protocol import token_encoders
from rllava_jax.model.resampling import resampled_positions
from rllava_jax.model.sizes import dimensions_of, model_size

logger = logging.getLogger(__name__)

# Where a parameter comes from. New is what PaliGemma and the checkpoint do not have; random is a run without a
# starting point.
Origin = Literal["loaded", "resampled", "new", "random"]

_POSITIONS = "img/pos_embedding"
_TABLE = "llm/embedder/input_embedding"


def resolve(config: Config, workdir: Path) -> tuple[Config, OpenedCheckpoint | None]:
    """The configuration with what `init.checkpoint` decides filled in, and that checkpoint if it is still to be loaded.

    A run that already has checkpoints goes on from those: what it started from may be gone, and its own record is
    what fills the configuration in.

    Raises:
      ConfigError: a size or vocabulary that is not the checkpoint's.
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    if not config.init.checkpoint:
        return config, None
    init, recorded = config.init, _recorded(workdir)
    if recorded is not None and recorded.init == init:
        config = _filled(config, recorded.model)
        if _has_checkpoints(workdir):
            return config, None
        # Stopped before its first checkpoint: it begins again where it began, and not where `last` has moved to.
        begun = provenance.started_from(workdir)
        init = init if begun is None else dataclasses.replace(init, step=str(begun.facts["step"]))
    pretrained = _opened(init)
    return _resolved(config, pretrained), pretrained


def origins(
    config: Config, shapes: Mapping[str, jax.ShapeDtypeStruct], pretrained: OpenedCheckpoint | None
) -> dict[str, Origin]:
    """Where each of the run's parameters comes from.

    Raises:
      ConfigError: the checkpoint lacks a parameter, has one too many or one of another shape; or it has regions or
        adapters that would mean something else under this run's settings. Heads of losses that the run does not use
        are left out.
    """
    if pretrained is None:
        return dict.fromkeys(shapes, "random")
    found: dict[str, Origin] = {}
    missing, ill_shaped = [], []
    for name, shape in shapes.items():
        stored = pretrained.shapes.get(name)
        if stored is None:
            found[name] = "new"
            missing += [] if is_new(name) else [name]
        elif stored.shape == shape.shape:
            found[name] = "loaded"
        elif name == _POSITIONS and _is_square_grid(stored.shape, shape.shape):
            found[name] = "resampled"
        else:
            ill_shaped.append(name)
    unused = [name for name in pretrained.shapes if name not in shapes and name.startswith("heads/")]
    unexpected = [name for name in pretrained.shapes if name not in shapes and name not in unused]
    if wrong := [*missing, *unexpected, *ill_shaped]:
        shown = [f"{name} {pretrained.shapes[name].shape}, here {shapes[name].shape}" for name in ill_shaped]
        said = mismatches(missing=missing, unexpected=unexpected, ill_shaped=shown, most=3)
        raise CheckpointMismatch(
            f"init.checkpoint: {pretrained.where} does not fit this run: {said}; {_remedy(pretrained, wrong)}"
        )
    if unused:
        logger.info("%s: heads of losses that this run does not use are left out: %s", pretrained.where, listed(unused))
    _check_meaning(config, pretrained, [name for name, origin in found.items() if origin == "loaded"])
    return found


def initial_parameters(
    config: Config,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    shardings: Mapping[str, NamedSharding],
    pretrained: OpenedCheckpoint | None,
    *,
    vocab: int,
) -> Params:
    """The parameters that a run begins with, each made or read where it lives, in its own type.

    Args:
      shapes: that `origins` has accepted.
      vocab: rows of the token table where the configuration does not say.

    Raises:
      CheckpointError: the checkpoint cannot be read.
    """
    loaded = {} if pretrained is None else _load(pretrained, shapes, shardings)
    new = {name: shape for name, shape in shapes.items() if name not in loaded}
    made = initialiser(config, new, shardings, vocab=vocab)() if new else {}
    return {name: loaded[name] if name in loaded else made[name] for name in shapes}


def initialiser(
    config: Config,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    shardings: Mapping[str, NamedSharding],
    *,
    vocab: int,
) -> jax.stages.Wrapped:
    """The compiled function that makes the parameters of `shapes`, and no others, at random where they live."""

    def make() -> Params:
        # The whole model is traced, but what is not returned is neither computed nor given memory.
        _, params = split(build(config, vocab=vocab, seed=config.seed))
        return {name: params[name].astype(shape.dtype) for name, shape in shapes.items()}

    return jax.jit(make, out_shardings={name: shardings[name] for name in shapes})


def resampled(positions: Float[Array, "1 P W"], patches: int) -> Float[Array, "1 Q W"]:
    """Position embeddings of a square grid, for a grid of `patches`: linear between the outermost patches' centres.

    How the reference changes resolution (`scipy.ndimage.zoom`, order 1).
    """
    side = math.isqrt(patches)
    # Accelerators multiply float32 matrices in fewer bits unless asked.
    return resampled_positions(positions.astype(jnp.float32), side, side, precision=jax.lax.Precision.HIGHEST)


def _load(
    pretrained: OpenedCheckpoint, shapes: Mapping[str, jax.ShapeDtypeStruct], shardings: Mapping[str, NamedSharding]
) -> dict[str, Any]:
    def target(name: str, stored: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # Orbax casts each share as it is read. What is resampled is cast after that.
        dtype = shapes[name].dtype if stored.shape == shapes[name].shape else jnp.float32
        return jax.ShapeDtypeStruct(stored.shape, dtype, sharding=shardings[name])

    # Heads of losses that the run does not use stay on disk.
    targets = {name: target(name, stored) for name, stored in pretrained.shapes.items() if name in shapes}
    with Checkpoints(pretrained.folder, read_only=True) as checkpoints:
        params = checkpoints.restore_params(pretrained.step, targets)
    wanted = shapes[_POSITIONS]
    if params[_POSITIONS].shape != wanted.shape:
        params[_POSITIONS] = jax.jit(
            lambda positions: resampled(positions, wanted.shape[1]).astype(wanted.dtype),
            out_shardings=shardings[_POSITIONS],
        )(params[_POSITIONS])
    return params


def _recorded(workdir: Path) -> Config | None:
    """The configuration of the run in a workdir, if it holds one; `check_workdir` says what is wrong with one."""
    try:
        return from_json(provenance.stored_config(workdir), where=str(workdir / "config.json"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # ConfigError is a ValueError
        return None


def _has_checkpoints(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return False
    with Checkpoints(folder, read_only=True) as checkpoints:
        return bool(checkpoints.steps())


def _opened(init: InitConfig) -> OpenedCheckpoint:
    path = path_of(init.checkpoint)
    try:
        _, named = find_checkpoint(path)
        if named.isdigit() and init.step not in ("last", named):
            raise SettingConflict(
                f"init.step: {init.step!r} beside init.checkpoint={path}; leave one of the two steps out"
            )
        opened = OpenedCheckpoint.open(path, None if named.isdigit() else init.step)
        _ = opened.record  # a damaged one is told before the work
    except CheckpointError as error:
        raise error.within("init.checkpoint") from error
    if _TABLE not in opened.shapes or _POSITIONS not in opened.shapes:
        where = f"init.checkpoint: {opened.where}"
        raise CheckpointMismatch(f"{where} holds no PaliGemma; name a run of this program or an import")
    return opened


def _resolved(config: Config, pretrained: OpenedCheckpoint) -> Config:
    theirs = dataclasses.replace(pretrained.config.model, vocab=pretrained.shapes[_TABLE].shape[0])
    config = _filled(config, theirs)
    here, there = dimensions_of(model_size(config.model)), dimensions_of(model_size(theirs))
    if other := [name for name in here if here[name] != there[name] and name != "vision.image_size"]:
        numbers = ", ".join(f"{name} {here[name]:g}, there {there[name]:g}" for name in other[:3])
        raise SettingConflict(
            f"model.size: {config.model.size!r} is not the size of {pretrained.where}, which is {theirs.size!r} "
            f'({numbers}{" …" if len(other) > 3 else ""}); write "checkpoint"'
        )
    if config.model.vocab != theirs.vocab:
        raise SettingConflict(
            f"model.vocab: {config.model.vocab} rows, but the token embedding of {pretrained.where} has "
            f"{theirs.vocab}; write 0"
        )
    return config


def _filled(config: Config, theirs: ModelConfig) -> Config:
    """The configuration with the checkpoint's model wherever it asks for that."""
    mine = config.model
    if mine.size == "checkpoint":
        image_size = mine.image_size or theirs.image_size
        mine = dataclasses.replace(mine, size=theirs.size, dimensions=theirs.dimensions, image_size=image_size)
    return dataclasses.replace(config, model=dataclasses.replace(mine, vocab=mine.vocab or theirs.vocab))


def _is_square_grid(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return stored[::2] == wanted[::2] and all(math.isqrt(shape[1]) ** 2 == shape[1] for shape in (stored, wanted))


def _remedy(pretrained: OpenedCheckpoint, wrong: Sequence[str]) -> str:
    """What the user can do about names that do not match."""
    lora, regions = pretrained.config.lora, pretrained.config.regions
    own = []
    if adapters := any(is_adapter(name) for name in wrong):
        own.append(f"lora.rank={lora.rank}, lora.targets={','.join(lora.targets)}")
    if any(name.startswith("roi/") for name in wrong):
        own.append(f"regions.encoders={','.join(regions.encoders)}, regions.tokens={regions.tokens}")
    if not own:
        return "it is damaged, or of another program; import it anew"
    merge = ", or merge the adapters into it by exporting it" if adapters else ""
    return f"set what it was trained with: {', '.join(own)}{merge}"


def _check_meaning(config: Config, pretrained: OpenedCheckpoint, loaded: Sequence[str]) -> None:
    """Refuses settings that give loaded numbers another meaning, which their shapes do not show."""
    branch, trained_branch = (tuple(token_encoders(one.regions)) for one in (config, pretrained.config))
    for kind, field, here, there in (
        ("roi/", "regions.encoders", branch, trained_branch),
        ("/lora", "lora.alpha", config.lora.alpha, pretrained.config.lora.alpha),
    ):
        if here != there and any(kind in name for name in loaded):
            raise SettingConflict(f"{field}: {here!r}, but {pretrained.where} was trained with {there!r}; write that")
