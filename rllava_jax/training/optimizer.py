"""AdamW as the published transfers use it, or Adafactor.

Clip, direction, decay only where a pattern says, then warm-up and cosine.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rllava_jax.config import OptimizerConfig
from rllava_jax.model.params import matching

# big_vision's default rule, and the region branch by the same reason; never Gemma, whose kernels have other names.
_DECAYED = r"(img|roi)/.*kernel"


def learning_rate(config: OptimizerConfig, *, steps: int, warmup: int) -> optax.Schedule:
    """Linear warm-up to the peak, then a cosine to zero, or the peak held."""
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(config.learning_rate, max(steps - warmup, 1))
    else:
        rest = optax.constant_schedule(config.learning_rate)
    # The first step already moves: step 0 of w warm-up steps runs at 1 / w of the peak.
    rise = optax.linear_schedule(config.learning_rate / max(warmup, 1), config.learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, rest], [warmup]) if warmup else rest


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, trainable: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The optimiser of the trainable parameters.

    Decay enters after Adam and follows the schedule: `p -= lr_t · (adam + weight_decay / lr_peak · p)`, which is the
    reference's rule (decay scaled by the schedule's shape, not by the learning rate). A parameter's factor on the
    learning rate does not change its decay; that has a factor of its own.

    Raises:
      ConfigError: a pattern that matches no trainable parameter.
    """
    decay = _decays(config, trainable)
    rate = _scales(config.learning_rate_scale, trainable, field="optimizer.learning_rate_scale")
    parts = [optax.clip_by_global_norm(config.clip_norm), _direction(config)]
    if config.learning_rate_scale:
        parts.append(_by_name(lambda update, _, name: rate[name] * update))
    if config.weight_decay:
        decays = _by_name(lambda update, param, name: update + decay[name] * param if decay[name] else update)
        # Masked, though nothing is left out: earlier releases stored the (empty) state of optax.add_decayed_weights.
        parts.append(optax.masked(decays, dict.fromkeys(trainable, True)))
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    if config.name == "adamw":
        adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, mu_dtype=config.moment_dtype)

        def init(params: optax.Params) -> optax.OptState:
            # The second moment of bfloat16 parameters would be bfloat16 as well, in which 0.999 of it is all of it.
            return adam.init(optax.tree.cast(params, jnp.float32))

        return optax.GradientTransformation(init, adam.update)
    # As optax.adafactor without its learning rate, its scaling by the parameters' size and its momentum: the update's
    # root mean square stays below 1 in every array.
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))


def _by_name(change: Callable[[jax.Array, jax.Array, str], jax.Array]) -> optax.GradientTransformation:
    """A transformation without state, which changes each parameter's update by its name."""

    def update(updates: Mapping[str, jax.Array], params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: change(update, params[name], name) for name, update in updates.items()}

    return optax.stateless(update)


def _decays(config: OptimizerConfig, trainable: Iterable[str]) -> dict[str, float]:
    names = list(trainable)
    if config.weight_decay_on:
        decayed = matching(config.weight_decay_on, names, field="optimizer.weight_decay_on")
    else:
        decayed = {name for name in names if re.fullmatch(_DECAYED, name)}
    # Matched against what decays: a factor on the decay of anything else would do nothing.
    field = "optimizer.weight_decay_scale"
    scales = _scales(config.weight_decay_scale, sorted(decayed), field=field, of="parameter that decays")
    per_step = config.weight_decay / config.learning_rate
    return {name: per_step * scales[name] if name in decayed else 0.0 for name in names}


def _scales(
    scales: Mapping[str, float], names: Iterable[str], *, field: str, of: str = "parameter"
) -> dict[str, float]:
    """The factor of each name: that of the first pattern that matches it, or 1."""
    left = list(names)
    found = dict.fromkeys(left, 1.0)
    for pattern, scale in scales.items():
        # Matched against what earlier patterns have left, so that a hidden one is an error as well.
        left_of = of if len(left) == len(found) else f"{of} that earlier patterns leave"
        hits = matching([pattern], left, field=field, of=left_of)
        found |= dict.fromkeys(hits, scale)
        left = [name for name in left if name not in hits]
    return found
