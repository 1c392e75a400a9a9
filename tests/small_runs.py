"""A model small enough to train in a test, and runs of it that can be compared."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rllava_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, RegionConfig
from rllava_jax.model.sharding import make_mesh, to_devices
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig, dimensions_of
from rllava_jax.training.program import initial_state, make_program
from rllava_jax.training.step import make_train_step

VOCAB = 64
BATCH = 16
TEXT = 8
# Every width a multiple of 8, so that `fsdp` can cut it over all the devices of the tests.
SMALL = PaliGemmaConfig(
    SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=28),
    GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16, query_scale=0.25),
)
CONFIG = Config(
    model=ModelConfig("custom", dimensions_of(SMALL), layers="scanned"),  # as on accelerators
    regions=RegionConfig(encoders=("crop",), max_regions=2, tokens=4, crop_size=28),
    optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=1e-2),
)


def batch(seed=0, *, shown=True):
    """Sixteen random examples, with answers of 1 to 5 tokens."""
    rng = np.random.default_rng(seed)
    prefix, answer = rng.integers(1, 4, BATCH)[:, None], rng.integers(1, 5, BATCH)[:, None]
    place = np.arange(TEXT)[None]
    real, suffix = place < prefix + answer, (place >= prefix) & (place < prefix + answer)
    low, high = rng.uniform(0, 0.4, (BATCH, 2, 2)), rng.uniform(0.5, 1, (BATCH, 2, 2))
    return {
        "image": rng.integers(0, 256, (BATCH, 28, 28, 3), np.uint8),
        "text": np.where(real, rng.integers(4, VOCAB, (BATCH, TEXT)), 0).astype(np.int32),
        "mask_ar": (place >= prefix).astype(np.int32),
        "mask_loss": suffix.astype(np.int32),
        "mask_input": real.astype(np.int32),
        "regions": np.concatenate([low, high], axis=-1).astype(np.float32),
        "region_valid": (rng.random((BATCH, 2)) < 0.5) & shown,
        "region_pixels": rng.integers(0, 256, (BATCH, 2, 28, 28, 3), np.uint8),
        "region_crop_coverage": rng.uniform(size=(BATCH, 2, 2, 2)).astype(np.float32),
        "index": np.arange(BATCH),
    }


def one_device():
    return make_mesh(MeshConfig(1), jax.devices()[:1])


def made(config, mesh):
    return make_program(config, mesh, vocab=VOCAB, steps=10, warmup=2)


def copied(tree):
    """On the host, and not a view: the step reuses the memory of the state it is given."""
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


_INITIAL = {}


def initial(config):
    """The initial state, made once on one device: test_sharding holds that every mesh makes the same."""
    if repr(config) not in _INITIAL:
        _INITIAL[repr(config)] = copied(initial_state(config, made(config, one_device()), vocab=VOCAB))
    return _INITIAL[repr(config)]


class Run:
    """A compiled step, and a state to begin with as often as wanted."""

    def __init__(self, config, mesh, *, accumulate=1):
        self.initial = initial(config)
        config = replace(config, train=replace(config.train, accumulate=accumulate))
        self.program = made(config, mesh)
        self.step = make_train_step(self.program, config, mesh)
        self.mesh = mesh
        self.shardings = self.program.shardings

    def train(self, *batches):
        """The metrics of each step, and the state after the last."""
        state = jax.tree.map(jax.device_put, self.initial, self.shardings)
        metrics = []
        for arrays in batches:
            state, values = self.step(state, to_devices(arrays, self.mesh))
            examples = {name: np.asarray(value) for name, value in values.examples.items()}
            metrics.append({name: float(value) for name, value in values.scalars.items()} | examples)
        return metrics, state


_RUNS = {}


def run_of(config, mesh, *, accumulate=1):
    """The `Run` that whoever asked first in this process has compiled."""
    key = repr(config), mesh, accumulate
    if key not in _RUNS:
        _RUNS[key] = Run(config, mesh, accumulate=accumulate)
    return _RUNS[key]


def assert_trains_alike(run, expected):
    """Devices and micro-batches add in another order, which moves float32 numbers by some 1e-7 of the largest.

    Adam divides each gradient by its own size and so magnifies that where a gradient is nearly zero; hence the limit on
    parameters, a hundredth of the step they take, and one in a thousand that may be beyond it, by no more than the
    step. A key's bias is left out: it adds the same to all of a query's logits, which softmax ignores, so that its
    gradient is rounding and nothing else.
    """
    metrics, state = run.train(batch(0), batch(1))
    expected_metrics, expected_state = expected.train(batch(0), batch(1))
    for one, other in zip(metrics, expected_metrics, strict=True):
        for name in ("loss", "gradient_norm", "learning_rate"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
        np.testing.assert_allclose(one["example_loss"], other["example_loss"], rtol=2e-5)
    for name, value in expected_state.params.items():
        if not name.endswith("key/bias"):
            beyond = np.abs(np.asarray(state.params[name]) - value) > 1e-4 + 1e-5 * np.abs(value)
            assert beyond.mean() < 1e-3, name
            np.testing.assert_allclose(state.params[name], value, atol=1e-2, rtol=0, err_msg=name)
            assert not np.array_equal(value, expected.initial.params[name]), name
    # After one step the first moment is a tenth of the clipped gradient, which nothing has magnified.
    gradients, expected_gradients = (adam(each.train(batch(0))[1]).mu for each in (run, expected))
    largest = max(np.abs(gradient).max() for gradient in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-4, atol=1e-6 * largest, err_msg=name)


def adam(state):
    """The optimiser's moments."""
    (found,) = (part for part in state.optimizer if hasattr(part, "mu"))
    return found
