"""Losses that follow a law which is known."""

import numpy as np

from rllava_jax.scaling_laws.points import FitTarget

TEMPLATE = FitTarget("slake", "test", "family=identify", "right", "accuracy")


def losses(values, *, noise=0.0, seed=0, A=60.0, alpha=0.3, beta=0.25, E=0.15):
    exact = A * values[:, 0] ** -alpha * values[:, 1] ** -beta + E
    return exact * np.exp(noise * np.random.default_rng(seed).normal(size=len(values)))
