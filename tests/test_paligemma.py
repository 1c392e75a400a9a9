"""The model against the reference's numbers."""

import dataclasses
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, GOLDEN, assert_close, golden_model, load, logits_of, training_inputs, with_params

from rllava_jax.config import ModelConfig, RegionConfig, Remat
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.layers import better_unrolled
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.sizes import SIZES, model_size
from rllava_jax.training.losses.cross_entropy import suffix_losses


def count(model, prefix=""):
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return sum(math.prod(param.shape) for path, param in flat if "/".join(path).startswith(prefix))


@pytest.mark.parametrize(
    ("size", "parameters"), [("paligemma-3b-224", 2_923_335_408), ("paligemma2-3b-224", 3_032_094_960)]
)
def test_size_has_the_published_number_of_parameters(size, parameters):
    model = nnx.eval_shape(lambda: PaliGemma(model_size(ModelConfig(size)), rngs=nnx.Rngs(0)))
    assert count(model) == parameters


def test_vision_tower_and_table_have_the_published_number_of_parameters():
    model = nnx.eval_shape(lambda: PaliGemma(model_size(ModelConfig("paligemma-3b-224")), rngs=nnx.Rngs(0)))
    assert count(model, "img/") == 414_803_696
    assert count(model, "img/head") == 2_361_344
    assert count(model, "llm/embedder") == 526_647_296


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.slow
def test_every_named_size_can_be_built(size):
    model = nnx.eval_shape(lambda: PaliGemma(model_size(ModelConfig(size)), rngs=nnx.Rngs(0)))
    assert model.img.pos_embedding.shape[1] == (model_size(ModelConfig(size)).vision.image_size // 14) ** 2


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(ValueError, match=r"'paligemma-3b-22'.*nearest is 'paligemma-3b-224'"):
        model_size(ModelConfig("paligemma-3b-22"))


def test_region_branch_adds_at_most_one_percent_at_3b():
    regions = RegionConfig(encoders=("crop", "align", "overlay", "loc"), tokens=16)
    model = nnx.eval_shape(lambda: PaliGemma(model_size(ModelConfig("paligemma-3b-224")), regions, rngs=nnx.Rngs(0)))
    assert 0 < count(model, "roi/") <= 0.01 * 2_923_335_408


def test_training_logits_are_the_references():
    model, golden = golden_model()
    logits = logits_of(model, training_inputs(golden).truncated(11))
    assert_close(logits, golden["out/logits"])


def test_padding_mask_leaves_the_logits_of_real_tokens_unchanged():
    model, golden = golden_model()
    inputs = training_inputs(golden).truncated(11)
    real = np.asarray(inputs.text) != 0
    assert not real.all()
    masked = logits_of(model, dataclasses.replace(inputs, mask_input=jnp.asarray(real)))
    assert_close(np.asarray(masked)[real], golden["out/logits"][real])


def golden_losses(model, golden):
    states = model.hidden_states(training_inputs(golden).truncated(11))
    table = model.llm.embedder.input_embedding[...]
    return suffix_losses(states, table, golden["in/text"][:, 1:], golden["in/mask_loss"][:, 1:], chunk=4)[0]


@pytest.mark.slow
def test_loss_per_example_is_the_references():
    model, golden = golden_model()
    losses = golden_losses(model, golden)
    assert_close(losses, golden["out/loss_per_example"])


def test_gemma2_logits_agree_with_transformers():
    """`golden/make_paligemma2.py` made these with transformers' PaliGemma 2, float32, eager attention, no final cap."""
    golden = load(GOLDEN / "paligemma2_tiny.npz")
    decoder = dataclasses.replace(CONFIG.decoder, kv_heads=2, post_norms=True, attention_cap=50.0, vocab=512)
    model = with_params(lambda: PaliGemma(dataclasses.replace(CONFIG, decoder=decoder), rngs=nnx.Rngs(0)), golden)
    valid = jnp.asarray(golden["in/mask_input"], bool)
    inputs = Inputs(
        image=jnp.asarray(golden["in/image"]),
        text=jnp.asarray(golden["in/text"]),
        mask_ar=jnp.asarray(golden["in/mask_ar"]),
        mask_input=valid,
    )
    logits = logits_of(model, inputs)
    assert_close(np.asarray(logits)[np.asarray(valid)], golden["out/logits"][np.asarray(valid)])


@pytest.mark.slow
def test_hooks_capture_the_attention_of_every_layer_and_change_nothing():
    model, golden = golden_model()
    inputs = training_inputs(golden).truncated(11)
    captured = model(
        inputs,
        vision_hook=lambda weights, layer: (weights, weights),
        decoder_hook=lambda weights, layer: (weights, weights),
    )
    length = 16 + 11
    assert captured.vision_collected.shape == (2, 3, 4, 16, 16)
    assert captured.decoder_collected.shape == (2, 3, 4, length, length)
    np.testing.assert_allclose(captured.decoder_collected.sum(-1), 1, rtol=1e-5)
    # The first suffix token is hidden from the image: prefix-LM.
    assert np.abs(captured.decoder_collected[:, :, :, :16, -1]).max() == 0
    assert_close(captured.logits, golden["out/logits"])


def test_a_hook_may_replace_the_weights_of_one_layer():
    model, golden = golden_model()
    inputs = training_inputs(golden).truncated(11)

    def uniform_in_layer_1(weights, layer):
        return jnp.where(layer == 1, jnp.ones_like(weights) / weights.shape[-1], weights), layer

    changed = model(inputs, decoder_hook=uniform_in_layer_1)
    assert changed.decoder_collected.tolist() == [0, 1]
    assert np.abs(np.asarray(changed.logits) - golden["out/logits"]).max() > 1e-3


@pytest.mark.slow
def test_an_unused_hook_adds_nothing_to_the_program():
    model, golden = golden_model()
    inputs = training_inputs(golden).truncated(11)
    graphdef, params = nnx.split(model)

    def operations(**hooks):
        traced = jax.jit(lambda params: nnx.merge(graphdef, params)(inputs, **hooks).logits)
        return traced.lower(params).compile().as_text().count(" = ")

    # A hook that takes nothing and changes nothing compiles to the program without one; one that collects does not.
    assert operations() == operations(decoder_hook=lambda weights, layer: (weights, None))
    assert operations() < operations(decoder_hook=lambda weights, layer: (weights * 1.5, None))


def test_layers_are_unrolled_on_cpu_where_they_are_small_and_scanned_elsewhere():
    golden = load(GOLDEN / "paligemma1_tiny.npz")

    def loops(layers, remat="none"):
        settings = ModelConfig(layers=layers, remat=remat)
        model = with_params(lambda: PaliGemma(CONFIG, settings=settings, rngs=nnx.Rngs(0)), golden)
        graphdef, params = nnx.split(model)
        traced = jax.make_jaxpr(lambda params: golden_losses(nnx.merge(graphdef, params), golden))(params)
        return sum(equation.primitive.name == "scan" for equation in traced.eqns)

    assert loops("scanned") == loops("unrolled") + 2
    assert loops("auto") == loops("unrolled")
    # Written out, nothing would keep XLA from recomputing the attention weights of all layers at once.
    assert loops("auto", "attention") == loops("scanned", "attention") == loops("unrolled", "attention") + 2
    published = nnx.eval_shape(lambda: PaliGemma(model_size(ModelConfig("paligemma-3b-224")), rngs=nnx.Rngs(0)))
    assert not better_unrolled(nnx.split(published.llm.layers)[1])


@pytest.mark.slow
def test_every_rematerialisation_gives_the_same_gradients_with_layers_scanned_or_unrolled():
    golden = load(GOLDEN / "paligemma1_tiny.npz")
    gradients = []
    for remat, layers in [
        *((remat, "scanned") for remat in get_args(Remat)),
        ("none", "unrolled"),
        ("attention", "unrolled"),
        ("full", "unrolled"),
    ]:
        settings = ModelConfig(layers=layers, remat=remat)
        model = with_params(lambda settings=settings: PaliGemma(CONFIG, settings=settings, rngs=nnx.Rngs(0)), golden)
        graphdef, params = nnx.split(model)

        def loss(params, graphdef=graphdef):
            return golden_losses(nnx.merge(graphdef, params), golden).mean()

        gradients.append(jax.jit(jax.grad(loss))(params))
    plain, *others = map(jax.tree.leaves, gradients)
    for other in others:
        for once, again in zip(plain, other, strict=True):
            # Sums are taken in another order; where they nearly cancel, float32 leaves an error of the summands' size:
            # 1.8e-7 for one of 131,072 entries on one kind of processor, none on another.
            np.testing.assert_allclose(once, again, rtol=1e-5, atol=3e-7)
