"""A loss enters in one file: its function, its weight, its metrics, and a head with parameters of its own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import write_checkpoint
from expected_errors import refused
from flax import nnx
from small_runs import CONFIG, VOCAB, assert_trains_alike, batch, made, one_device, run_of
from starting_models import begin, random_params, small_model, small_tokenizer, starting_from, write_model

from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import ConfigError, MeshConfig
from rllava_jax.config.loading import validated
from rllava_jax.interop.export_checkpoint import export_checkpoint
from rllava_jax.model.params import HEADS, abstract
from rllava_jax.model.partition_rules import register_rules
from rllava_jax.model.sharding import make_mesh, sharded_shapes
from rllava_jax.training.losses.registry import LOSSES, Loss, register_loss
from rllava_jax.training.program import initial_state, restored_state
from rllava_jax.training.state import stored


def small_logits(model, inputs, config):
    """Keeps logits small: a mean over the examples, as the cross-entropy is."""
    each = jnp.square(model(inputs).logits).mean(axis=(1, 2))
    return each.mean(), {"logit_square": each.mean(), "logit_square_each": each}


def contrastive(model, inputs, config):
    """Tells the examples of a batch from each other, so that half a batch is another problem."""
    states = model(inputs).logits.mean(axis=1)
    states /= jnp.linalg.norm(states, axis=-1, keepdims=True)
    return -jnp.diag(jax.nn.log_softmax(states @ states.T)).mean(), {}


def answer_length(model, inputs, config):
    """The answer's length, read by a head of its own."""
    found = model.heads.answer_length(model(inputs).logits.mean(axis=1))[:, 0]
    return jnp.square(found - inputs.mask_loss.sum(axis=1)).mean(), {}


class LengthHead(nnx.Module):
    def __init__(self, config, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (config.decoder.vocab, 1)) / 8)
        self.bias = nnx.Param(jnp.zeros((1,)))

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...]


register_loss("small_logits", Loss(small_logits))
register_loss("contrastive", Loss(contrastive, averages=False))
register_loss("answer_length", Loss(answer_length, head=LengthHead))
register_rules("heads/answer_length", {"kernel": ("fsdp", None), "bias": ()})
KERNEL = "heads/answer_length/kernel"


def trained_on(**losses):
    return replace(CONFIG, train=replace(CONFIG.train, losses=losses))


def test_weighted_losses_are_summed_and_their_metrics_logged():
    (row,), _ = run_of(trained_on(cross_entropy=1.0, small_logits=0.5), one_device()).train(batch())
    (alone,), _ = run_of(CONFIG, one_device()).train(batch())
    assert row["loss/cross_entropy"] == pytest.approx(alone["loss"], rel=1e-6)
    assert row["loss"] == pytest.approx(row["loss/cross_entropy"] + 0.5 * row["loss/small_logits"], rel=1e-6)
    assert row["logit_square"] == row["loss/small_logits"] == pytest.approx(row["logit_square_each"].mean(), rel=1e-5)
    assert row.keys() - alone.keys() == {
        "loss/cross_entropy", "loss/small_logits", "logit_square", "logit_square_each"
    }  # fmt: skip


def test_accumulated_micro_batches_of_two_losses_equal_the_full_batch():
    config = trained_on(cross_entropy=1.0, small_logits=0.5)
    accumulated, whole = run_of(config, one_device(), accumulate=2), run_of(config, one_device())
    assert_trains_alike(accumulated, whole)
    rows = [run.train(batch())[0][0] for run in (accumulated, whole)]
    assert rows[0]["logit_square"] == pytest.approx(rows[1]["logit_square"], rel=1e-5)
    np.testing.assert_allclose(rows[0]["logit_square_each"], rows[1]["logit_square_each"], rtol=1e-5)


def test_a_loss_over_the_whole_batch_is_one_on_many_devices_and_refuses_micro_batches():
    config = trained_on(contrastive=1.0)
    rows = [run_of(config, mesh).train(batch())[0][0] for mesh in (one_device(), make_mesh(MeshConfig(2, 4)))]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
    with refused(ConfigError, "config.conflict", "train.accumulate", "2", "contrastive"):
        made(replace(config, train=replace(config.train, accumulate=2)), one_device())


def test_an_unknown_loss_is_refused():
    with refused(ConfigError, "config.unknown-name", "train.losses", "cross_entrpy"):
        made(trained_on(cross_entrpy=1.0), one_device())


@pytest.mark.parametrize("losses", [{"cross_entropy": 0.0}, {}], ids=["without weight", "none"])
def test_losses_without_any_weight_are_refused(losses):
    with refused(ConfigError, "config.invalid-value", "train.losses"):
        validated(trained_on(**losses))


def test_a_second_loss_of_one_name_is_refused():
    with pytest.raises(ValueError, match="small_logits"):
        register_loss("small_logits", Loss(contrastive))
    assert LOSSES["small_logits"].function is small_logits


@pytest.fixture(scope="module")
def with_head():
    """A run with a head on eight devices, after one step."""
    config, mesh = trained_on(cross_entropy=1.0, answer_length=0.1), make_mesh(MeshConfig(1, 8))
    run = run_of(config, mesh)
    return config, run, run.train(batch(0))[1]


def test_a_head_is_initialised_trained_and_sharded(with_head):
    _, run, state = with_head
    assert not np.array_equal(state.params[KERNEL], run.initial.params[KERNEL])
    assert {shard.data.shape for shard in state.params[KERNEL].addressable_shards} == {(VOCAB // 8, 1)}
    # What the model had without it is initialised as without it.
    plain = initial_state(CONFIG, made(CONFIG, one_device()), vocab=VOCAB)
    for name, value in plain.params.items():
        np.testing.assert_array_equal(value, run.initial.params[name], err_msg=name)


class Position:
    """Stands for the data iterator."""

    def get_state(self):
        return {"next_batch": 1}

    def set_state(self, state):
        assert state == {"next_batch": 1}


def test_a_head_is_saved_and_resumed(with_head, tmp_path, monkeypatch):
    _, run, state = with_head
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, *stored(state), Position(), {})
        checkpoints.wait()
        resumed = restored_state(checkpoints, run.program, Position())
        for left, right in zip(jax.tree.leaves(resumed), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(left, right)
        assert resumed.params[KERNEL].sharding == state.params[KERNEL].sharding
        # Answering needs no head: a process that does not know it reads the rest.
        monkeypatch.delitem(HEADS, "answer_length")
        _, shapes = abstract(trained_on(cross_entropy=1.0, answer_length=0.1), vocab=VOCAB)
        params = checkpoints.restore_params(1, sharded_shapes(one_device(), shapes))
    assert params.keys() == state.params.keys() - {KERNEL, "heads/answer_length/bias"}


def test_a_run_without_the_loss_starts_from_the_checkpoint_without_its_head(tmp_path, caplog):
    tokenizer = small_tokenizer(tmp_path)
    config = small_model(trained_on(cross_entropy=1.0, answer_length=0.1), tokenizer)
    params = random_params(config)
    folder = write_model(tmp_path / "model", config, tokenizer, params)
    with caplog.at_level("INFO"):
        begun, found = begin(starting_from(replace(config, train=CONFIG.train), folder), tmp_path)
    assert begun.keys() == params.keys() - {KERNEL, "heads/answer_length/bias"}
    assert set(found.values()) == {"loaded"}
    np.testing.assert_array_equal(begun["img/head/kernel"], params["img/head/kernel"])
    assert KERNEL in caplog.text


def test_a_head_without_published_names_is_not_exported(with_head, tmp_path):
    config = with_head[0]
    tokenizer = small_tokenizer(tmp_path)
    vocab = tokenizer.vocab_size
    config = replace(config, model=replace(config.model, vocab=vocab))
    params = {name: np.zeros(s.shape, s.dtype) for name, s in abstract(config, vocab=vocab)[1].items()}
    write_checkpoint(tmp_path / "run", config, params, tokenizer)
    with refused(ConfigError, "export.unsupported", KERNEL):
        export_checkpoint(tmp_path / "run", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
