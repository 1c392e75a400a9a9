"""The loss, against optax's cross-entropy over the logits of the whole batch at once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rllava_jax.training.losses.cross_entropy import suffix_losses

B, T, D, V = 5, 13, 16, 50


def problem(dtype=jnp.float32, seed=0):
    """States, table, targets, and a mask of 0 to 7 targets that stand anywhere."""
    rng = np.random.default_rng(seed)
    states, table = rng.normal(size=(B, T, D)), rng.normal(size=(V, D))
    mask = np.zeros((B, T), np.float32)
    for row, count in enumerate((0, 1, 3, 7, 4)):
        mask[row, rng.choice(T, count, replace=False)] = 1
    targets = rng.integers(0, V, (B, T)).astype(np.int32)
    return jnp.asarray(states, dtype), jnp.asarray(table, dtype), jnp.asarray(targets), jnp.asarray(mask)


def plain(states, table, targets, mask, *, smoothing=0.0, z_loss=0.0):
    """All logits at once, in float32."""
    logits = jnp.einsum("BTD,VD->BTV", states.astype(jnp.float32), table.astype(jnp.float32))
    labels = optax.smooth_labels(jax.nn.one_hot(targets, V), smoothing)
    losses = optax.softmax_cross_entropy(logits, labels) + z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
    return (losses * mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)


OPTIONS = [{}, {"smoothing": 0.1}, {"z_loss": 1e-2}, {"smoothing": 0.2, "z_loss": 1e-3}]


@pytest.mark.parametrize("chunk", [1, 4, 8, 13, 40])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_chunked_loss_and_gradients_equal_the_plain_ones(chunk, options):
    states, table, targets, mask = problem()
    weight = jnp.arange(1.0, B + 1)

    def chunked(states, table):
        return (suffix_losses(states, table, targets, mask, chunk=chunk, **options)[0] * weight).sum()

    def whole(states, table):
        return (plain(states, table, targets, mask, **options) * weight).sum()

    found, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(states, table) for f in (chunked, whole))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_chunked_loss_in_bfloat16_is_as_near_as_its_inputs_allow():
    states, table, targets, mask = problem(jnp.bfloat16)
    losses, _ = suffix_losses(states, table, targets, mask, chunk=4)
    # The products of bfloat16 numbers are exact in float32 and are summed there.
    np.testing.assert_allclose(losses, plain(states, table, targets, mask), rtol=1e-5)


def test_accuracy_is_of_all_targets_together():
    states, table, targets, mask = problem()
    logits = jnp.einsum("BTD,VD->BTV", states, table)
    easy = jnp.where(jnp.arange(T) % 3 == 0, logits.argmax(axis=-1), targets)
    expected = ((logits.argmax(axis=-1) == easy) * mask).sum() / mask.sum()
    assert float(suffix_losses(states, table, easy, mask, chunk=4)[1]) == pytest.approx(float(expected))


def test_loss_is_a_mean_over_tokens_and_then_over_examples():
    """By hand: a vocabulary of two, whose logits are given by one-hot states."""
    rows = np.log([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]).T  # [V, D]
    states = jnp.eye(3)[jnp.asarray([[0, 0, 0], [1, 2, 1]])]
    targets, mask = jnp.asarray([[0, 1, 1], [0, 0, 1]]), jnp.asarray([[0, 1, 0], [1, 1, 0]])
    losses, _ = suffix_losses(states, jnp.asarray(rows), targets, mask, chunk=2)
    np.testing.assert_allclose(losses, [math.log(2), (math.log(4 / 3) + math.log(4)) / 2], rtol=1e-6)


def test_an_example_without_targets_has_no_loss_and_a_batch_without_them_no_gradient():
    states, table, targets, mask = problem()
    assert float(suffix_losses(states, table, targets, mask, chunk=4)[0][0]) == 0
    gradients = jax.grad(lambda *x: suffix_losses(*x, targets, 0 * mask, chunk=4)[0].sum(), (0, 1))(states, table)
    assert not any(np.any(gradient) for gradient in gradients)


def test_logits_of_the_whole_batch_are_never_held():
    """Not in the forward pass, and not in the backward."""
    states, table, targets, mask = problem()

    def loss(states, table):
        return suffix_losses(states, table, targets, mask, chunk=2)[0].sum()

    program = jax.jit(jax.grad(loss, (0, 1))).lower(states, table).compile().as_text()
    assert f"f32[{B * 2},{V}]" in program or f"f32[{B},2,{V}]" in program
    for positions in range(3, T + 2):
        assert f"[{B},{positions},{V}]" not in program
        assert f"[{B * positions},{V}]" not in program


def test_a_frozen_table_costs_no_gradient():
    states, table, targets, mask = problem()

    def size(arguments):
        def loss(states, table):
            return suffix_losses(states, table, targets, mask, chunk=2)[0].sum()

        return jax.jit(jax.grad(loss, arguments)).lower(states, table).compile().cost_analysis()["flops"]

    # Forward, logits again, and to the states: three products of the five.
    assert size((0,)) < 0.8 * size((0, 1))


def test_only_as_many_chunks_run_as_the_longest_suffix_needs():
    states, table, targets, _ = problem()

    def losses(count):
        mask = jnp.asarray(np.arange(T)[None] < np.full((B, 1), count), jnp.float32)
        # What stands in positions that are not reached cannot matter, not even as NaN.
        poisoned = states.at[:, 4:].set(jnp.nan) if count <= 4 else states
        return suffix_losses(poisoned, table, targets, mask, chunk=4)[0]

    assert np.isfinite(losses(4)).all()
    assert np.isfinite(losses(5)).all()
