"""The optimiser, against its formulas and against optax's own."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from expected_errors import refused
from small_runs import CONFIG, VOCAB, adam, batch, one_device, run_of

from rllava_jax.config import ConfigError, OptimizerConfig
from rllava_jax.model.params import abstract, matching
from rllava_jax.training.optimizer import learning_rate, make_optimizer


def test_a_pattern_that_matches_nothing_lists_names():
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, trainable=("img/.*", "lm/.*")))
    with refused(ConfigError, "config.unknown-name", "optimizer.trainable: 'lm/.*'", "img/"):
        abstract(config, vocab=VOCAB)


def test_a_pattern_means_the_whole_name():
    assert matching(["img"], ["img", "img/head/bias", "my/img"], field="f") == {"img"}


def test_decay_on_what_is_frozen_is_an_error():
    optimizer = OptimizerConfig(weight_decay_on=("llm/.*",))
    with refused(ConfigError, "config.unknown-name", "optimizer.weight_decay_on: 'llm/.*'"):
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


def stepped(config, params, *gradients):
    """The parameters after one step for each gradient, at a constant rate."""
    schedule = learning_rate(replace(config, schedule="constant"), steps=10, warmup=0)
    optimizer = make_optimizer(config, schedule, params)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def random_tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {"llm/a": (3, 160, 130), "llm/b": (7,), "img/kernel": (4, 5)}
    return {name: jnp.asarray(rng.normal(size=shape) * 0.1, jnp.float32) for name, shape in shapes.items()}


@pytest.mark.slow
def test_adafactor_is_optax_adafactor():
    """Without scaling by the parameters' size, after a clip of 1."""
    params, gradients = random_tree(0), [random_tree(1), random_tree(2)]
    oracle = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adafactor(0.1, multiply_by_parameter_scale=False, momentum=None)
    )
    state, expected = oracle.init(params), params
    for gradient in gradients:
        updates, state = oracle.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    found = stepped(OptimizerConfig("adafactor", learning_rate=0.1, weight_decay=0.0), params, *gradients)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_adafactor_keeps_almost_nothing():
    config = OptimizerConfig("adafactor", weight_decay=0.0)
    params = random_tree(0)
    state = make_optimizer(config, learning_rate(config, steps=2, warmup=0), params).init(params)
    kept = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert kept < 0.02 * sum(param.size for param in params.values())


def test_learning_rates_and_decays_are_scaled_by_the_first_pattern_that_matches():
    config = OptimizerConfig(
        learning_rate=0.1,
        learning_rate_scale={"img/.*": 0.25, ".*": 0.5},
        weight_decay=0.2,
        weight_decay_on=(".*",),
        weight_decay_scale={"llm/a": 0.5, "llm/b": 0.0},
    )
    params, gradient = random_tree(0), random_tree(1)
    plain = stepped(replace(config, learning_rate_scale={}, weight_decay=0.0, weight_decay_scale={}), params, gradient)
    found = stepped(config, params, gradient)
    for name, rate, decay in (("llm/a", 0.5, 0.1), ("llm/b", 0.5, 0.0), ("img/kernel", 0.25, 0.2)):
        expected = params[name] + rate * (plain[name] - params[name]) - decay * params[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("field", ["learning_rate_scale", "weight_decay_scale"])
def test_a_scale_for_no_parameter_is_an_error(field):
    config = OptimizerConfig(**{field: {"lm/.*": 0.5}})
    with refused(ConfigError, "config.unknown-name", f"optimizer.{field}: 'lm/.*'"):
        make_optimizer(config, learning_rate(config, steps=2, warmup=0), random_tree(0))


@pytest.mark.slow
def test_the_first_moment_may_be_kept_in_bfloat16():
    run = run_of(replace(CONFIG, optimizer=replace(CONFIG.optimizer, moment_dtype="bfloat16")), one_device())
    metrics, state = run.train(*[batch()] * 10)
    assert {moment.dtype for moment in adam(state).mu.values()} == {jnp.dtype("bfloat16")}
    assert {moment.dtype for moment in adam(state).nu.values()} == {jnp.dtype("float32")}
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]


@pytest.mark.slow
def test_the_moving_average_follows_the_parameters_and_answers():
    run = run_of(replace(CONFIG, optimizer=replace(CONFIG.optimizer, ema=0.75)), one_device())
    _, first = run.train(batch(0))
    _, second = run.train(batch(0), batch(1))
    for name, start in run.initial.params.items():
        np.testing.assert_array_equal(run.initial.ema[name], start, err_msg=name)
        expected = 0.75 * (0.75 * start + 0.25 * first.params[name]) + 0.25 * second.params[name]
        np.testing.assert_allclose(second.ema[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
        assert second.inference_params[name] is second.ema[name]


def test_the_state_is_that_of_earlier_releases():
    """Which chained optax.add_decayed_weights with a mask: their checkpoints are resumed."""
    config, params = OptimizerConfig(), random_tree(0)
    mask = {name: name.startswith("img/") for name in params}
    earlier = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.999),
        optax.add_decayed_weights(0.1, mask=mask),
        optax.scale_by_learning_rate(learning_rate(config, steps=2, warmup=0)),
    )
    now = make_optimizer(config, learning_rate(config, steps=2, warmup=0), params)
    assert jax.tree.structure(now.init(params)) == jax.tree.structure(earlier.init(params))


def test_a_decay_factor_for_what_does_not_decay_and_a_hidden_pattern_are_errors():
    for config, pattern in (
        (OptimizerConfig(weight_decay_scale={"llm/.*": 5.0}), "llm/.*"),  # by default nothing of the decoder decays
        (OptimizerConfig(learning_rate_scale={".*": 0.5, "img/.*": 0.1}), "img/.*"),
    ):
        with refused(ConfigError, "config.unknown-name", f"_scale: '{pattern}'"):
            make_optimizer(config, learning_rate(config, steps=2, warmup=0), random_tree(0))


def test_the_second_moment_of_bfloat16_parameters_is_float32():
    config, params = OptimizerConfig(), {name: x.astype(jnp.bfloat16) for name, x in random_tree(0).items()}
    state = make_optimizer(config, learning_rate(config, steps=2, warmup=0), params).init(params)
    assert {x.dtype for x in adam_moments(state).nu.values()} == {jnp.dtype("float32")}


def adam_moments(state):
    (found,) = (part for part in state if hasattr(part, "nu"))
    return found
