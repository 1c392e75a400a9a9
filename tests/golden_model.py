"""The golden tiny PaliGemma 1: its configuration, weights and arrays, for the tests that need them."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rllava_jax.inference.decode import generate
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.params import merge, split
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig

GOLDEN = Path(__file__).parent / "golden"
CONFIG = PaliGemmaConfig(
    vision=SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=56),
    decoder=GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16, query_scale=0.25, vocab=2048),
)


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


def with_params(make, arrays):
    """The model that `make` makes, with `params/…` arrays by name; each is used and fills img and llm entirely.

    Only a region branch is initialised: making the rest as well would be most of what a test computes.
    """
    given = {key.removeprefix("params/"): value for key, value in arrays.items() if key.startswith("params/")}
    graphdef, shapes = split(nnx.eval_shape(make))
    params = {}
    if any(name.startswith("roi/") for name in shapes):
        params = jax.jit(lambda: {name: x for name, x in split(make())[1].items() if name.startswith("roi/")})()
    for name in shapes.keys() - params.keys():
        assert given[name].shape == shapes[name].shape, name
        params[name] = jnp.asarray(given.pop(name))
    assert not given, sorted(given)
    return merge(graphdef, params)


@functools.cache
def _golden(regions):
    arrays = load(GOLDEN / "paligemma1_tiny.npz")
    return split(with_params(lambda: PaliGemma(CONFIG, regions, rngs=nnx.Rngs(0)), arrays)), arrays


def golden_model(regions=None):
    """A model of the test's own, which it may change, and the golden arrays."""
    (graphdef, params), arrays = _golden(regions)
    return merge(graphdef, params), dict(arrays)


@nnx.jit
def logits_of(model, inputs):
    """What the model computes, in one program."""
    return model(inputs).logits


@functools.partial(nnx.jit, static_argnames=("new_tokens", "eos", "pad", "vocab", "sampling"))
def decode(model, prompt, key=None, **options):
    """`generate`, compiled once for each set of options."""
    return generate(model, prompt, key=key, **options)


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
