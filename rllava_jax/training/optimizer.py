"""AdamW as the published transfers use it: clip, Adam, warm-up and cosine, decay only where a pattern says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
    reference's rule (decay scaled by the schedule's shape, not by the learning rate).

    Raises:
      ConfigError: a decay pattern that matches no trainable parameter.
    """
    parts = [optax.clip_by_global_norm(config.clip_norm), optax.scale_by_adam(b1=config.b1, b2=config.b2)]
    if config.weight_decay:
        if config.weight_decay_on:
            decayed = matching(config.weight_decay_on, trainable, field="optimizer.weight_decay_on")
        else:
            decayed = {name for name in trainable if re.fullmatch(_DECAYED, name)}
        parts.append(
            optax.add_decayed_weights(
                config.weight_decay / config.learning_rate, mask={name: name in decayed for name in trainable}
            )
        )
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))
