"""The training step: the same numbers however it is divided over devices and time."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import BATCH, CONFIG, TEXT, VOCAB, adam, assert_trains_alike, batch, made, one_device, run_of

from rllava_jax.config import MeshConfig
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import abstract, merge
from rllava_jax.model.sharding import make_mesh
from rllava_jax.training.logs import TrainingLog
from rllava_jax.training.losses.registry import total_loss


@pytest.fixture(scope="module")
def on_one_device():
    return run_of(CONFIG, one_device())


@pytest.fixture(scope="module")
def on_eight_devices():
    """Both axes at work, and two micro-batches."""
    return run_of(CONFIG, make_mesh(MeshConfig(2, 4)), accumulate=2)


@pytest.mark.slow
def test_accumulated_micro_batches_equal_the_full_batch(on_one_device):
    lengths = batch()["mask_loss"].sum(axis=1)
    assert len(set(lengths)) > 1  # a mean over all tokens would differ
    assert_trains_alike(run_of(CONFIG, one_device(), accumulate=4), on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8)])
def test_eight_devices_train_as_one(on_one_device, data, fsdp):
    assert_trains_alike(run_of(CONFIG, make_mesh(MeshConfig(data, fsdp))), on_one_device)


@pytest.mark.slow
def test_accumulation_over_both_axes_trains_as_one_device(on_one_device, on_eight_devices):
    assert_trains_alike(on_eight_devices, on_one_device)


@pytest.mark.slow
def test_training_learns_the_batch_it_sees(on_one_device):
    metrics, state = on_one_device.train(*[batch()] * 10)
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert int(state.step) == 10


@pytest.mark.slow
def test_one_program_trains_with_and_without_regions(on_one_device):
    with_regions, _ = on_one_device.train(batch(shown=True))
    without, _ = on_one_device.train(batch(shown=False))
    assert with_regions[0]["loss"] != without[0]["loss"]
    assert on_one_device.step._cache_size() == 1


@pytest.mark.slow
def test_a_bad_step_leaves_all_of_the_state_but_its_number():
    config = replace(
        CONFIG,
        optimizer=replace(CONFIG.optimizer, ema=0.9),
        train=replace(CONFIG.train, spike_factor=2.0, on_bad_step="skip"),
    )
    run = run_of(config, one_device())
    poisoned = batch(1)
    poisoned["region_crop_coverage"][3] = np.nan
    poisoned["region_valid"][3] = True
    metrics, state = run.train(batch(0), poisoned)
    assert [row["bad"] for row in metrics] == [False, True]
    _, before = run.train(batch(0))
    assert (int(before.step), int(state.step)) == (1, 2)
    before, after = (jax.tree.leaves(each._replace(step=0)) for each in (before, state))
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    assert np.flatnonzero(~np.isfinite(metrics[1]["example_loss"])).tolist() == [3]
    # And training goes on from there.
    metrics, _ = run.train(batch(0), poisoned, batch(2))
    assert not metrics[2]["bad"]
    # A skipped batch takes no place in the schedule, and what is logged is what was applied.
    clean, _ = run.train(batch(0), batch(2))
    assert [row["learning_rate"] for row in metrics[::2]] == [row["learning_rate"] for row in clean]
    assert np.isfinite(metrics[2]["example_loss"]).all()


def test_after_a_bad_step_that_stops_the_run_nothing_moves_any_more(on_one_device):
    run = on_one_device
    poisoned = batch(1)
    poisoned["region_crop_coverage"][3] = np.nan
    poisoned["region_valid"][3] = True
    metrics, state = run.train(batch(0), poisoned, batch(2))
    assert [row["bad"] for row in metrics] == [False, True, True]
    _, before = run.train(batch(0))
    assert int(state.step) == 1
    for left, right in zip(jax.tree.leaves(before.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_a_loss_far_above_its_mean_is_a_spike_once_the_mean_is_known(on_one_device):
    config = replace(CONFIG, train=replace(CONFIG.train, spike_factor=1.5, on_bad_step="skip"))
    run = run_of(config, one_device())
    given = batch(0)
    other = given | {"text": np.where(given["mask_loss"], (given["text"] + 7) % VOCAB, given["text"]).astype(np.int32)}
    metrics, _ = run.train(*[given] * 10, other, *[given] * 20, other, given)
    bad = [step for step, row in enumerate(metrics) if row["bad"]]
    assert metrics[10]["loss"] > 1.5 * np.mean([row["loss"] for row in metrics[:10]])
    assert bad == [31]
    never, _ = on_one_device.train(*[given] * 30, other)
    assert not any(row["bad"] for row in never)


@pytest.mark.slow
def test_example_losses_stand_in_the_order_of_the_batch(on_one_device, on_eight_devices):
    losses = [run.train(batch(0))[0][0]["example_loss"] for run in (on_one_device, on_eight_devices)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert len(set(losses[0].round(4))) == BATCH


@pytest.mark.slow
def test_frozen_parameters_never_change_and_have_no_optimiser_state():
    pattern = r"(roi|img/head)/.*"
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, trainable=(pattern,), weight_decay=0.1))
    run = run_of(config, one_device())
    _, state = run.train(batch(0), batch(1))
    assert {name.split("/")[0] for name in state.frozen} == {"img", "llm"}
    for name, value in run.initial.frozen.items():
        np.testing.assert_array_equal(state.frozen[name], value, err_msg=name)
    assert {"roi/geometry/kernel", "roi/inside", "img/head/kernel"} <= state.params.keys()
    for name, value in run.initial.params.items():
        assert not np.array_equal(state.params[name], value), name
    assert adam(state).mu.keys() == adam(state).nu.keys() == state.params.keys()


def test_frozen_parameters_take_their_own_type():
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, trainable=("roi/.*",)))
    config = replace(config, model=replace(config.model, frozen_dtype="bfloat16"))
    _, shapes = abstract(config, vocab=VOCAB)
    assert {name: shape.dtype for name, shape in shapes.items()} == {
        name: jnp.float32 if name.startswith("roi/") else jnp.bfloat16 for name in shapes
    }


@pytest.fixture(scope="module")
def loss_of(on_one_device):
    """Loss of a batch under fresh parameters."""
    graphdef = made(CONFIG, one_device()).graphdef
    params = on_one_device.initial.params

    @jax.jit
    def loss(batch):
        inputs = Inputs.from_batch(batch)
        return total_loss(merge(graphdef, params), inputs, CONFIG)[1]

    return lambda batch: {name: value.tolist() for name, value in loss(batch).items()}


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
    for pixels in (inputs.image, inputs.given("region_pixels")):
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels.ravel()[::3], [-1, -0.6, 1], rtol=1e-6)
    assert inputs.mask_input.tolist() == [[True, False]]
    assert inputs.regions is None


@pytest.mark.slow
def test_resuming_drops_the_log_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "loss": 1}\n{"step": 4, "lo')
    with TrainingLog(tmp_path, CONFIG.train, first_step=2, steps=4) as log:
        log.advance()
        log.write(3, {"loss": jnp.asarray(1.5)}, examples=4, tokens=10)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 3), (2, 2), (3, 1.5)]
    assert {"examples_per_second", "tokens_per_second", "step_seconds", "data_wait_fraction"} <= rows[-1].keys()
