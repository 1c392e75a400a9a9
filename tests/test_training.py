"""The training step: its loss, its optimiser, and the same numbers however it is divided over devices and time."""

import json
import math
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rllava_jax.config import (
    Config,
    ConfigError,
    LoraConfig,
    LoraTarget,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RegionConfig,
)
from rllava_jax.model import sizes
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import abstract, matching, merge, trainable_names
from rllava_jax.sharding import RULES, make_mesh, parameter_shardings, to_devices
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.objective import example_losses, training_loss
from rllava_jax.training.optimizer import learning_rate, make_optimizer
from rllava_jax.training.state import abstract_state, initial_state, state_shardings
from rllava_jax.training.step import make_train_step

VOCAB = 64
BATCH = 16
TEXT = 8
# Every width a multiple of 8, so that `fsdp` can cut it over all the devices of the tests.
SMALL = sizes.PaliGemmaConfig(
    sizes.SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=28),
    sizes.GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16, query_scale=0.25),
)
CONFIG = Config(
    regions=RegionConfig(encoders=("crop",), max_regions=2, tokens=4, crop_size=28),
    optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=1e-2),
)


@pytest.fixture(autouse=True)
def _small_size(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "small", SMALL)


def small(config):
    return replace(config, model=replace(config.model, size="small"))


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
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))


def start(config, mesh, *, accumulate=1):
    """A fresh state and its step."""
    config = small(config)
    graphdef, shapes = abstract(config, vocab=VOCAB)
    schedule = learning_rate(config.optimizer, steps=10, warmup=2)
    trainable = trainable_names(config, shapes)
    optimizer = make_optimizer(config.optimizer, schedule, {name: shapes[name] for name in sorted(trainable)})
    shapes_of_state = abstract_state(config, shapes, optimizer)
    shardings = state_shardings(mesh, shapes_of_state)
    state = initial_state(config, shapes_of_state, shardings, optimizer, vocab=VOCAB)
    step = make_train_step(graphdef, optimizer, schedule, accumulate=accumulate, mesh=mesh, shardings=shardings)
    return state, step


def copied(tree):
    """On the host, and not a view: the step reuses the memory of the state it is given."""
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


class Run:
    """A compiled step, and a state to begin with as often as wanted."""

    def __init__(self, config, mesh, *, accumulate=1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sizes.SIZES, "small", SMALL)
            state, self.step = start(config, mesh, accumulate=accumulate)
        self.mesh = mesh
        self.shardings = jax.tree.map(lambda x: x.sharding, state)
        self.initial = copied(state)

    def train(self, *batches):
        """The metrics of each step, and the state after the last."""
        state = jax.tree.map(jax.device_put, self.initial, self.shardings)
        metrics = []
        for arrays in batches:
            state, values = self.step(state, to_devices(arrays, self.mesh))
            metrics.append({name: float(value) for name, value in values.items()})
        return metrics, state


@pytest.fixture(scope="module")
def on_one_device():
    return Run(CONFIG, one_device())


@pytest.fixture(scope="module")
def on_eight_devices():
    """Both axes at work, and two micro-batches."""
    return Run(CONFIG, make_mesh(MeshConfig(2, 4)), accumulate=2)


def assert_trains_alike(run, expected):
    """Devices and micro-batches add in another order, which moves float32 numbers by some 1e-7 of the largest.

    Adam divides each gradient by its own size and so magnifies that where a gradient is nearly zero; hence the limit on
    parameters, a hundredth of the step they take. A key's bias is left out: it adds the same to all of a query's
    logits, which softmax ignores, so that its gradient is rounding and nothing else.
    """
    metrics, state = run.train(batch(0), batch(1))
    expected_metrics, expected_state = expected.train(batch(0), batch(1))
    for one, other in zip(metrics, expected_metrics, strict=True):
        for name in ("loss", "gradient_norm", "learning_rate"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
    for name, value in expected_state.params.items():
        if not name.endswith("key/bias"):
            np.testing.assert_allclose(state.params[name], value, rtol=1e-5, atol=1e-4, err_msg=name)
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


def test_accumulated_micro_batches_equal_the_full_batch(on_one_device):
    lengths = batch()["mask_loss"].sum(axis=1)
    assert len(set(lengths)) > 1  # a mean over all tokens would differ
    assert_trains_alike(Run(CONFIG, one_device(), accumulate=4), on_one_device)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8)])
def test_eight_devices_train_as_one(on_one_device, data, fsdp):
    assert_trains_alike(Run(CONFIG, make_mesh(MeshConfig(data, fsdp))), on_one_device)


def test_accumulation_over_both_axes_trains_as_one_device(on_one_device, on_eight_devices):
    assert_trains_alike(on_eight_devices, on_one_device)


def test_training_learns_the_batch_it_sees(on_one_device):
    metrics, state = on_one_device.train(*[batch()] * 10)
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert int(state.step) == 10


def test_one_program_trains_with_and_without_regions(on_one_device):
    with_regions, _ = on_one_device.train(batch(shown=True))
    without, _ = on_one_device.train(batch(shown=False))
    assert with_regions[0]["loss"] != without[0]["loss"]
    assert on_one_device.step._cache_size() == 1


def test_parameters_and_their_moments_are_cut_alike(on_eight_devices):
    _, state = on_eight_devices.train(batch())
    for name, param in state.params.items():
        for moment in (adam(state).mu[name], adam(state).nu[name]):
            assert moment.sharding.is_equivalent_to(param.sharding, param.ndim), name
    table = state.params["llm/embedder/input_embedding"]
    assert table.sharding.spec == PartitionSpec(None, "fsdp")
    assert {shard.data.shape for shard in table.addressable_shards} == {(VOCAB, 64 // 4)}
    bias = state.params["img/head/bias"]
    assert {shard.data.shape for shard in bias.addressable_shards} == {bias.shape}


@pytest.mark.parametrize("size", [name for name in sizes.SIZES if name != "small"])
def test_fsdp_cuts_every_named_size(size):
    regions = RegionConfig(encoders=("crop", "align"))
    _, shapes = abstract(
        Config(model=ModelConfig(size), regions=regions), vocab=sizes.model_size(ModelConfig(size)).decoder.vocab
    )
    shardings = parameter_shardings(make_mesh(MeshConfig(1, 8)), shapes)
    assert shardings.keys() == shapes.keys()
    whole = sum(shape.size for shape in shapes.values())
    share = sum(math.prod(shardings[name].shard_shape(shape.shape)) for name, shape in shapes.items())
    # An eighth, and the vectors, which stay whole: the larger the model, the fewer.
    assert share < (0.135 if size == "tiny" else 0.126) * whole


def test_every_sharding_rule_names_a_parameter():
    everything = replace(small(CONFIG), lora=LoraConfig(rank=2, targets=get_args(LoraTarget)))
    _, shapes = abstract(everything, vocab=VOCAB)
    for pattern, _ in RULES:
        assert matching([pattern], shapes, field="RULES")


def test_a_parameter_without_a_rule_is_an_error():
    shapes = {"llm/adapter/down": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    with pytest.raises(ConfigError, match=r"no rule names the parameter llm/adapter/down \(8, 8\)"):
        parameter_shardings(one_device(), shapes)


def test_fsdp_that_does_not_divide_names_the_parameter():
    shapes = {"img/head/kernel": jax.ShapeDtypeStruct((12, 64), jnp.float32)}
    message = r"mesh\.fsdp: 8 does not divide axis 0 of img/head/kernel \(12, 64\)"
    with pytest.raises(ConfigError, match=message):
        parameter_shardings(make_mesh(MeshConfig(1, 8)), shapes)


def test_mesh_takes_the_rest_of_the_devices():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1}
    assert dict(make_mesh(MeshConfig(2, -1)).shape) == {"data": 2, "fsdp": 4}
    for wrong in (MeshConfig(3, -1), MeshConfig(4, 1), MeshConfig(16, 1)):
        with pytest.raises(ConfigError, match="do not make 8 devices"):
            make_mesh(wrong)


def test_frozen_parameters_never_change_and_have_no_optimiser_state():
    pattern = r"(roi|img/head)/.*"
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, trainable=(pattern,), weight_decay=0.1))
    run = Run(config, one_device())
    _, state = run.train(batch(0), batch(1))
    assert {name.split("/")[0] for name in state.frozen} == {"img", "llm"}
    for name, value in run.initial.frozen.items():
        np.testing.assert_array_equal(state.frozen[name], value, err_msg=name)
    assert {"roi/geometry/kernel", "roi/inside", "img/head/kernel"} <= state.params.keys()
    for name, value in run.initial.params.items():
        assert not np.array_equal(state.params[name], value), name
    assert adam(state).mu.keys() == adam(state).nu.keys() == state.params.keys()


def test_frozen_parameters_take_their_own_type():
    config = small(replace(CONFIG, optimizer=replace(CONFIG.optimizer, trainable=("roi/.*",))))
    config = replace(config, model=replace(config.model, frozen_dtype="bfloat16"))
    _, shapes = abstract(config, vocab=VOCAB)
    assert {name: shape.dtype for name, shape in shapes.items()} == {
        name: jnp.float32 if name.startswith("roi/") else jnp.bfloat16 for name in shapes
    }


def test_a_pattern_that_matches_nothing_lists_names():
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, trainable=("img/.*", "lm/.*")))
    with pytest.raises(ConfigError, match=r"optimizer\.trainable: 'lm/\.\*' matches no parameter; there are img/"):
        abstract(small(config), vocab=VOCAB)


def test_a_pattern_means_the_whole_name():
    assert matching(["img"], ["img", "img/head/bias", "my/img"], field="f") == {"img"}


def test_decay_on_what_is_frozen_is_an_error():
    optimizer = OptimizerConfig(weight_decay_on=("llm/.*",))
    with pytest.raises(ConfigError, match=r"optimizer\.weight_decay_on: 'llm/\.\*' matches no parameter"):
        make_optimizer(optimizer, learning_rate(optimizer, steps=2, warmup=0), {"roi/inside": None})


def test_decay_follows_the_schedule_and_not_the_learning_rate():
    """Without a gradient only decay is left: p ← p · (1 - weight_decay · lr_t / lr_peak)."""
    config = OptimizerConfig(learning_rate=0.02, weight_decay=0.25, weight_decay_on=("a",))
    schedule = learning_rate(config, steps=4, warmup=2)
    params = {"a": jnp.asarray([8.0]), "b": jnp.asarray([8.0])}
    optimizer = make_optimizer(config, schedule, params)
    state = optimizer.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    expected = 8.0
    for share in (0.5, 1.0, 1.0, 0.5):  # warm-up of two steps, then a cosine of two
        updates, state = optimizer.update(zeros, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        expected *= 1 - 0.25 * share
        np.testing.assert_allclose(params["a"], [expected], rtol=1e-6)
    assert params["b"].tolist() == [8.0]


def test_optimiser_is_clipped_adam():
    """Two steps against the formulas of Adam (arXiv 1412.6980), the gradient's norm clipped to 1 before."""
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.0, b1=0.9, b2=0.99, warmup="0 steps")
    schedule = learning_rate(replace(config, schedule="constant"), steps=10, warmup=0)
    params = {"a": jnp.asarray([1.0, 2.0])}
    optimizer = make_optimizer(config, schedule, params)
    state = optimizer.init(params)
    value, first, second = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(([3.0, 4.0], [0.3, -0.4]), start=1):
        updates, state = optimizer.update({"a": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        clipped = np.array(gradient) / max(1.0, np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * clipped
        second = 0.99 * second + 0.01 * clipped**2
        value = value - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        np.testing.assert_allclose(params["a"], value, rtol=1e-5)


def test_learning_rate_rises_then_falls_as_a_cosine():
    schedule = learning_rate(OptimizerConfig(learning_rate=0.4), steps=12, warmup=4)
    rates = [float(schedule(step)) for step in range(13)]
    np.testing.assert_allclose(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_allclose(rates[8], 0.2, rtol=1e-6)
    np.testing.assert_allclose(rates[6], 0.2 * (1 + math.cos(math.pi / 4)), rtol=1e-6)
    assert rates[12] == pytest.approx(0, abs=1e-9)


def test_learning_rate_without_warm_up_starts_at_the_peak():
    assert float(learning_rate(OptimizerConfig(learning_rate=0.4), steps=12, warmup=0)(0)) == pytest.approx(0.4)


def test_constant_learning_rate_holds_the_peak_after_warm_up():
    schedule = learning_rate(OptimizerConfig(learning_rate=0.4, schedule="constant"), steps=12, warmup=2)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 1, 2, 11)], [0.2, 0.4, 0.4, 0.4], rtol=1e-6)


def test_loss_is_a_mean_over_tokens_and_then_over_examples():
    logits = np.log(np.array([[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], [[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]]]))
    targets, mask = np.array([[0, 1, 1], [0, 0, 1]]), np.array([[0, 1, 0], [1, 1, 0]])
    losses = example_losses(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask))
    np.testing.assert_allclose(losses, [math.log(2), (math.log(4 / 3) + math.log(4)) / 2], rtol=1e-6)


def test_an_example_without_targets_has_no_loss():
    losses = example_losses(jnp.zeros((1, 3, 5)), jnp.zeros((1, 3), jnp.int32), jnp.zeros((1, 3)))
    assert losses.tolist() == [0]


@pytest.fixture(scope="module")
def loss_of(on_one_device):
    """Loss of a batch under fresh parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, "small", SMALL)
        graphdef, _ = abstract(small(CONFIG), vocab=VOCAB)
    params = on_one_device.initial.params

    @jax.jit
    def loss(batch):
        return training_loss(merge(graphdef, params), Inputs.from_batch(batch), batch["mask_loss"])[1]

    return lambda batch: {name: float(value) for name, value in loss(batch).items()}


def test_padding_has_no_influence_on_the_loss(loss_of):
    given = batch()
    noise = np.random.default_rng(9).integers(4, VOCAB, (BATCH, TEXT))
    text = np.where(given["mask_input"], given["text"], noise).astype(np.int32)
    assert not np.array_equal(text[:, :-1], given["text"][:, :-1])
    assert loss_of(given | {"text": text}) == loss_of(given)


@pytest.mark.parametrize("part", ["prefix", "suffix", "image", "region_pixels"])
def test_everything_else_has_influence_on_the_loss(loss_of, part):
    given = batch()
    changed = {name: value.copy() for name, value in given.items()}
    if part in changed:
        changed[part] = 255 - changed[part]
    else:
        marked = given["mask_loss"] if part == "suffix" else given["mask_input"] - given["mask_loss"]
        changed["text"] = np.where(marked, (given["text"] + 1) % VOCAB, given["text"]).astype(np.int32)
    if part == "region_pixels":
        # Untrained, a region's tokens are still image tokens: its pixels count at once.
        assert given["region_valid"].any()
    assert loss_of(changed)["loss"] != loss_of(given)["loss"]


def test_a_token_that_is_not_marked_is_not_scored(loss_of):
    """An answer's last token is seen by nothing after it: unmarked, it may be anything."""
    given = batch()
    last = np.arange(TEXT) == given["mask_input"].sum(axis=1, keepdims=True) - 1
    other = given | {"text": np.where(last, (given["text"] + 1) % VOCAB, given["text"]).astype(np.int32)}
    unmarked = {"mask_loss": given["mask_loss"] * ~last}
    assert loss_of(given | unmarked)["loss"] == loss_of(other | unmarked)["loss"]
    assert loss_of(given)["loss"] != loss_of(other)["loss"]


def test_pixels_become_minus_one_to_one_on_the_way_in():
    image = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1).repeat(3, axis=-1)
    given = {
        "image": image,
        "region_pixels": image[:, None],
        "text": np.ones((1, 2), np.int32),
        "mask_ar": np.zeros((1, 2), np.int32),
        "mask_input": np.array([[1, 0]], np.int32),
        "mask_loss": np.zeros((1, 2), np.int32),
        "index": np.zeros(1),
    }
    inputs = Inputs.from_batch(given)
    for pixels in (inputs.image, inputs.region_pixels):
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels.ravel()[::3], [-1, -0.6, 1], rtol=1e-6)
    assert inputs.mask_input.tolist() == [[True, False]]
    assert inputs.regions is None


def test_resuming_drops_the_log_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "loss": 1}\n{"step": 4, "lo')
    with TrainingLog(tmp_path, first_step=2, steps=4) as log:
        log.advance()
        log.write(3, {"loss": jnp.asarray(1.5)}, examples=4, tokens=10)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 3), (2, 2), (3, 1.5)]
    assert {"examples_per_second", "tokens_per_second", "step_seconds", "data_wait_fraction"} <= rows[-1].keys()
