"""A model as `(graphdef, params)`: a static skeleton and a flat dict of arrays, named as in the published checkpoint.

    {"img/embedding/kernel": …, "llm/layers/attn/q_einsum/w": …, "roi/geometry/kernel": …}

Sharding, freezing, decay, checkpoints and conversion all speak these names.

Auxiliary heads are modules beside PaliGemma that a loss trains, with parameters named `heads/NAME/…`. The file that
defines one says how its parameters are sharded (`partition_rules.register_rules`) and, if a Hugging Face folder can
hold them, how they are spelled (`published_names.register_spellings`); without that, export refuses them. Answering
needs none of them, so a process that knows no head reads a checkpoint without its heads, and a run whose losses have no
such head starts from one without them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from data_pipelines.core.errors import ConfigError
from rllava_jax.config import Config
from rllava_jax.model.lora import is_adapter
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.sizes import PaliGemmaConfig, model_size

Params = dict[str, jax.Array]
Head = Callable[[PaliGemmaConfig, nnx.Rngs], nnx.Module]
HEADS: dict[str, Head] = {}  # by the name of their loss


class Heads(nnx.Module):
    """Each head under its name: `model.heads.NAME`."""


def build(config: Config, *, vocab: int, seed: int = 0) -> PaliGemma:
    """The configured model with random weights. Call under `nnx.eval_shape` or `jax.jit` for anything but tiny."""
    size = model_size(config.model, vocab=vocab)
    rngs = nnx.Rngs(seed)
    model = PaliGemma(size, config.regions, settings=config.model, lora=config.lora, rngs=rngs)
    # Without a head the model is as it always was.
    if names := [name for name in config.train.losses if name in HEADS]:
        model.heads = Heads()
        for name in names:
            setattr(model.heads, name, HEADS[name](size, rngs))
    return model


def split(model: PaliGemma) -> tuple[Any, Params]:
    """The skeleton and the named parameters."""
    graphdef, state = nnx.split(model, nnx.Param)
    return graphdef, {"/".join(map(str, path)): param.get_value() for path, param in nnx.to_flat_state(state)}


def merge(graphdef: Any, params: Mapping[str, Any]) -> PaliGemma:
    """The model of a skeleton and its parameters; pure, for use inside jitted functions."""
    flat = [(tuple(name.split("/")), nnx.Param(value)) for name, value in params.items()]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def abstract(config: Config, *, vocab: int) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """The skeleton, and shapes and types of all parameters, without memory. Frozen ones have `model.frozen_dtype`."""
    graphdef, shapes = split(nnx.eval_shape(lambda: build(config, vocab=vocab)))
    trainable, frozen_dtype = trainable_names(config, shapes), config.model.frozen_dtype
    if frozen_dtype == "auto":
        frozen_dtype = "bfloat16" if config.lora.rank else "float32"
    return graphdef, {
        name: jax.ShapeDtypeStruct(shape.shape, config.model.param_dtype if name in trainable else frozen_dtype)
        for name, shape in shapes.items()
    }


def trainable_names(config: Config, names: Iterable[str]) -> set[str]:
    """The parameters that train: `optimizer.trainable`, or its default.

    Raises:
      ConfigError: a pattern that matches nothing.
    """
    names = list(names)
    if config.optimizer.trainable:
        return matching(config.optimizer.trainable, names, field="optimizer.trainable")
    if config.lora.rank:
        return {name for name in names if is_new(name)}
    return set(names)


def is_new(name: str) -> bool:
    """Whether a parameter is one that PaliGemma does not have: of the region branch, an adapter or a head."""
    return name.startswith(("roi/", "heads/")) or is_adapter(name)


def matching(patterns: Sequence[str], names: Iterable[str], *, field: str, of: str = "parameter") -> set[str]:
    """The names that a pattern (a regular expression for the whole name) matches; `of` says what is named.

    Raises:
      ConfigError: a pattern matches nothing; the message names the field, the pattern and some parameters.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if re.fullmatch(pattern, name)}
        if not hits:
            raise ConfigError(
                f"{field}: {pattern!r} matches no {of}; there are {', '.join(sorted(names)[:8])} …",
                code="config.unknown-name",
            )
        found |= hits
    return found
