"""The golden tiny PaliGemma 1: its configuration, weights and arrays, for the tests that need them."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig

GOLDEN = Path(__file__).parent / "golden"
CONFIG = PaliGemmaConfig(
    vision=SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=56),
    decoder=GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16, query_scale=0.25, vocab=2048),
)


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


def with_params(model, arrays):
    """Puts `params/…` arrays into the model by name; every one is used and every parameter of img and llm found."""
    given = {key.removeprefix("params/"): value for key, value in arrays.items() if key.startswith("params/")}
    state = nnx.state(model, nnx.Param)
    for path, param in nnx.to_flat_state(state):
        name = "/".join(path)
        if name.startswith("roi/"):
            continue
        value = given.pop(name)
        assert value.shape == param[...].shape, name
        param[...] = jnp.asarray(value)
    assert not given, sorted(given)
    nnx.update(model, state)
    return model


def golden_model(regions=None):
    arrays = load(GOLDEN / "paligemma1_tiny.npz")
    return with_params(PaliGemma(CONFIG, regions, rngs=nnx.Rngs(0)), arrays), arrays


def with_regions(inputs, given):
    """The inputs with a batch's region arrays, which stand in fields of their own only where every encoder has them."""
    fields = {name: given[name] for name in ("regions", "region_valid") if name in given}
    rest = {name: value for name, value in given.items() if name not in fields}
    return dataclasses.replace(inputs, **fields, region_arrays=rest)


def training_inputs(arrays, **given):
    text = jnp.asarray(arrays["in/text"])
    inputs = Inputs(
        image=jnp.asarray(arrays["in/image"]),
        text=text,
        mask_ar=jnp.asarray(arrays["in/mask_ar"]),
        mask_input=jnp.ones(text.shape, bool),
    )
    return with_regions(inputs, given)


def assert_close(actual, expected, relative=1e-5):
    """Largest difference over largest magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= relative, f"relative error {error:.2e}"
