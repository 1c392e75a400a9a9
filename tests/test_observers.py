"""What a saliency tool needs, through public calls alone: attention while answering, and one teacher-forced pass."""

import io
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from starting_models import random_params, small_model, small_tokenizer, write_model

from data_pipelines.records import Region
from rllava_jax.config import Config, RegionConfig
from rllava_jax.inference.decode import generate
from rllava_jax.inference.predictor import Predictor
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import merge

LAYERS, HEADS, TOKENS = 2, 4, 5
QUESTION, BOXES = "is there a spleen?", [Region((0.1, 0.2, 0.6, 0.7))]


def weights_of(weights, layer):
    """A hook that takes the weights and leaves them as they are."""
    return weights, weights


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("observed")
    tokenizer = small_tokenizer(folder)
    config = replace(small_model(Config(), tokenizer), regions=RegionConfig(tokens=4, crop_size=28))
    write_model(folder / "model", config, tokenizer, random_params(config))
    return Predictor.load(folder / "model", new_tokens=TOKENS)


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def observed(predictor, image):
    batch = predictor.inputs(image, QUESTION, BOXES)
    return batch, predictor.generator.observe(predictor.params, batch, weights_of)


@pytest.mark.slow
def test_the_prompts_attention_sums_to_one_over_what_it_may_see(predictor, observed):
    batch, found = observed
    region_tokens = batch["regions"].shape[1] * 4
    sequence = predictor.patches + region_tokens + batch["text"].shape[1]
    assert found.of_prompt.shape == (LAYERS, 1, HEADS, sequence, sequence)
    last = sequence - batch["text"].shape[1] + int(batch["mask_input"].sum()) - 1  # which chooses the first token
    rows = np.asarray(found.of_prompt[:, 0, :, last])
    np.testing.assert_allclose(rows.sum(axis=-1), 1, rtol=1e-5)
    to_patches = rows[..., : predictor.patches]
    assert (to_patches > 0).all()
    assert (to_patches.sum(axis=-1) < 1).all()


@pytest.mark.slow
def test_every_decoded_token_shows_its_attention_to_the_image(predictor, observed):
    _, found = observed
    assert int((found.tokens[0] != 0).sum()) > 1  # something was decoded
    fed = np.asarray(found.of_tokens)[:, :, 0, :, 0]  # [N - 1, L, heads, cache slots]
    assert fed.shape == (TOKENS - 1, LAYERS, HEADS, found.of_prompt.shape[-1] + TOKENS)
    tokens = found.tokens[0].tolist()
    count = tokens.index(predictor.generator.tokenizer.eos_id) if bool(found.finished[0]) else TOKENS - 1
    np.testing.assert_allclose(fed[:count].sum(axis=-1), 1, rtol=1e-5)
    assert (fed[:count, ..., : predictor.patches] > 0).all()
    for number in range(count):  # a token sees itself and those before it, and none after
        own = found.of_prompt.shape[-1] + number
        assert (fed[number, ..., own] > 0).all()
        assert not fed[number, ..., own + 1 :].any()


def test_what_is_observed_is_the_answer(predictor, image, observed):
    answer = predictor.answer(image, QUESTION, BOXES)
    assert float(observed[1].log_prob[0]) == pytest.approx(answer.log_prob, rel=1e-5)
    assert bool(observed[1].finished[0]) == answer.finished


@pytest.mark.slow
def test_a_hook_that_takes_nothing_adds_nothing_to_the_program(predictor, image):
    generator, batch = predictor.generator, predictor.inputs(image, QUESTION)

    def operations(hook):
        def run(params):
            model = merge(generator.graphdef, params)
            return generate(model, Inputs.from_batch(batch), new_tokens=TOKENS, eos=1, hook=hook)

        return jax.jit(run).lower(predictor.params).compile().as_text().count(" = ")

    assert operations(lambda weights, layer: (weights, None)) == operations(None)
    assert operations(weights_of) > operations(None)


def test_one_teacher_forced_pass_shows_everything(predictor, image):
    answer = predictor.answer(image, QUESTION, BOXES)
    tokenizer, batch = predictor.generator.tokenizer, predictor.inputs(image, QUESTION, BOXES, answer="yes")
    found = predictor.generator.teacher_forced(predictor.params, batch, hook=weights_of, vision_hook=weights_of)
    length = batch["text"].shape[1]
    assert found.hidden_states.shape == (1, length, 64)
    assert found.logits.shape[:2] == (1, length)
    sequence = found.decoder_collected.shape[-1]
    assert found.decoder_collected.shape == (LAYERS, 1, HEADS, sequence, sequence)
    assert found.vision_collected.shape == (LAYERS, 1, HEADS, predictor.patches, predictor.patches)
    real = sequence - length + np.flatnonzero(batch["mask_input"][0])
    np.testing.assert_allclose(np.asarray(found.decoder_collected)[..., real, :].sum(axis=-1), 1, rtol=1e-5)
    # The answer's tokens stand after the prompt, and before them the model says what it says while decoding.
    (targets,) = np.nonzero(batch["mask_loss"][0])
    assert batch["text"][0, targets].tolist() == [*tokenizer.encode("yes"), tokenizer.eos_id]
    first = jax.nn.log_softmax(found.logits[0, targets[0] - 1, : tokenizer.vocab_size])
    observed = predictor.generator.observe(predictor.params, predictor.inputs(image, QUESTION, BOXES), weights_of)
    assert int(first.argmax()) == int(observed.tokens[0, 0])
    assert float(first.max()) >= answer.log_prob - 1e-4
