"""Decoding against the reference's numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from expected_errors import refused
from flax import nnx
from golden_model import assert_close, decode, golden_model, logits_of, training_inputs

from data_pipelines.core.errors import ConfigError
from rllava_jax.inference.decode import Sampling, choose, extend, generate, prefill
from rllava_jax.model.inputs import Inputs


def prompts(golden, rows=slice(None), extra_padding=0):
    text, mask = golden["in/prompt_text"][rows], golden["in/prompt_mask"][rows]
    text, mask = (np.pad(array, ((0, 0), (0, extra_padding))) for array in (text, mask))
    return Inputs(
        image=jnp.asarray(golden["in/image"][rows]),
        text=jnp.asarray(text),
        mask_ar=jnp.zeros_like(text),
        mask_input=jnp.asarray(mask, bool),
    )


# The reference kept its KV cache in bfloat16 when it made these numbers. A key that lies within a millionth of a
# rounding tie may fall on its other side here, which moves that prompt's logits by up to 4e-4; in prompt 1, element 5
# of slot 2 in layer 0 is such a one. So each prompt is asked with images that differ by parts per million, and must
# agree with the reference for one of them.
NUDGES = (0.0, 1e-6, -1e-6, 2e-6, -2e-6, 3e-6, -3e-6)


def smallest_errors(golden, logits_of, expected):
    """Per prompt, the relative error [3] of the nudged image that agrees best."""
    asked = prompts(golden)
    nudged = [logits_of(dataclasses.replace(asked, image=asked.image * (1 + nudge))) for nudge in NUDGES]
    axes = tuple(range(1, expected.ndim))
    errors = [np.abs(np.asarray(logits) - expected).max(axes) / np.abs(expected).max(axes) for logits in nudged]
    return np.min(errors, axis=0)


def test_prompts_of_different_lengths_prefill_to_the_references_logits():
    model, golden = golden_model()
    assert len(set(golden["in/prompt_mask"].sum(1))) > 1
    logits_of = jax.jit(lambda prompt: prefill(model, prompt, new_tokens=1, cache_dtype=jnp.bfloat16)[0])
    assert (smallest_errors(golden, logits_of, golden["out/prefill_last_logits"]) <= 1e-5).all()


@pytest.mark.slow
def test_cached_steps_give_the_references_logits():
    model, golden = golden_model()
    tokens = jnp.asarray(golden["out/greedy_tokens"])

    @jax.jit
    def logits_of(prompt):
        _, state, _ = prefill(model, prompt, new_tokens=6, cache_dtype=jnp.bfloat16)
        first = state.filled.shape[1] - 6
        steps = []
        for step in range(6):
            logits, state, _ = extend(model, state, tokens[:, step], jnp.asarray(first + step))
            steps.append(logits)
        return jnp.stack(steps, axis=1)

    errors = smallest_errors(golden, logits_of, golden["out/extend_logits"])
    # From its second step on, prompt 1 meets a second tie.
    assert (errors <= np.array([1e-5, 3e-5, 1e-5])).all(), errors


@pytest.mark.slow
def test_cached_steps_equal_the_whole_sequence_at_once():
    """In float32, where no rounding of the cache blurs it: decoding is teacher forcing, one token at a time."""
    model, golden = golden_model()
    inputs = training_inputs(golden)
    suffix = golden["in/mask_ar"][0].argmax()
    tokens = jnp.asarray(golden["in/text"])
    prompt = dataclasses.replace(
        inputs, mask_ar=jnp.zeros_like(tokens), mask_input=jnp.arange(tokens.shape[1])[None] < jnp.full((3, 1), suffix)
    )
    causal = (jnp.arange(tokens.shape[1]) >= suffix).astype(jnp.int32)[None].repeat(3, axis=0)
    whole = logits_of(model, dataclasses.replace(inputs, mask_ar=causal))
    logits, state, _ = nnx.jit(lambda model, prompt: prefill(model, prompt, new_tokens=3))(model, prompt)
    first = state.filled.shape[1] - 3
    one_more = nnx.jit(extend)
    for step in range(3):
        assert_close(logits, whole[:, suffix - 1 + step])
        logits, state, _ = one_more(model, state, tokens[:, suffix + step], jnp.asarray(first + step))


def test_greedy_tokens_are_the_references():
    model, golden = golden_model()
    generated = decode(model, prompts(golden), new_tokens=6, eos=-1)
    np.testing.assert_array_equal(generated.tokens, golden["out/greedy_tokens"])
    assert not generated.finished.any()


def test_log_probability_is_the_sum_over_the_chosen_tokens():
    model, golden = golden_model()
    generated = decode(model, prompts(golden), new_tokens=6, eos=-1)
    logits = np.concatenate([golden["out/prefill_last_logits"][:, None], golden["out/extend_logits"][:, :-1]], axis=1)
    expected = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), golden["out/greedy_tokens"][..., None], axis=-1
    ).sum((1, 2))
    np.testing.assert_allclose(generated.log_prob, expected, rtol=1e-3)  # the expected one has a bfloat16 cache


@pytest.mark.slow
def test_a_row_stops_at_eos_and_the_others_go_on():
    model, golden = golden_model()
    tokens = golden["out/greedy_tokens"]
    row, other = 0, 1
    eos = int(tokens[row, 0])
    assert eos not in tokens[other]
    generated = decode(model, prompts(golden), new_tokens=6, eos=eos, pad=0)
    assert generated.tokens[row].tolist() == [eos, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(generated.tokens[other], tokens[other])
    assert generated.finished[row]
    assert not generated.finished[other]
    alone = decode(model, prompts(golden, slice(row, row + 1)), new_tokens=1, eos=-1)
    np.testing.assert_allclose(generated.log_prob[row], alone.log_prob[0], rtol=1e-5)


def test_padding_and_neighbours_do_not_change_an_answer():
    model, golden = golden_model()
    together = decode(model, prompts(golden), new_tokens=6, eos=-1)
    alone = decode(model, prompts(golden, slice(1, 2), extra_padding=7), new_tokens=6, eos=-1)
    np.testing.assert_array_equal(together.tokens[1], alone.tokens[0])
    np.testing.assert_allclose(together.log_prob[1], alone.log_prob[0], rtol=1e-5)


def test_one_program_serves_prompts_of_all_lengths():
    model, golden = golden_model()
    compiled = jax.jit(lambda prompt: generate(model, prompt, new_tokens=6, eos=-1).tokens)
    order = [2, 0, 1]
    np.testing.assert_array_equal(compiled(prompts(golden)), golden["out/greedy_tokens"])
    np.testing.assert_array_equal(compiled(prompts(golden, order)), golden["out/greedy_tokens"][order])
    assert compiled._cache_size() == 1


@pytest.mark.slow
def test_a_row_without_a_token_is_never_chosen_and_has_no_probability():
    """Published tables have more rows than their tokenizer has ids."""
    model, golden = golden_model()
    unbounded = golden["out/greedy_tokens"]
    vocab = int(unbounded[:, 0].max())  # so that at least one first choice is out of bounds
    logits = np.asarray(prefill(model, prompts(golden), new_tokens=1)[0])[:, :vocab]
    generated = decode(model, prompts(golden), new_tokens=1, eos=-1, vocab=vocab)
    np.testing.assert_array_equal(generated.tokens[:, 0], logits.argmax(axis=1))
    assert (generated.tokens[:, 0] != unbounded[:, 0]).any()
    expected = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(generated.tokens), axis=1)[:, 0]
    np.testing.assert_allclose(generated.log_prob, expected, rtol=1e-5)
    few, hot = 5, Sampling(temperature=50.0)
    drawn = decode(model, prompts(golden), new_tokens=6, eos=-1, vocab=few, sampling=hot, key=jax.random.key(0))
    assert set(np.asarray(drawn.tokens).ravel().tolist()) == set(range(few))


def test_top_p_draws_only_from_the_nucleus():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.vmap(lambda key: choose(logits, Sampling(temperature=1.0, top_p=0.7), key)[0])(keys)
    counts = np.bincount(np.asarray(drawn), minlength=4) / 400
    assert counts[2] == counts[3] == 0
    # 0.5 / 0.8 = 0.625; four standard errors are 0.1.
    assert abs(counts[0] - 0.625) < 0.1


def test_low_temperature_sharpens_towards_greedy():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    keys = jax.random.split(jax.random.key(0), 300)
    drawn = jax.vmap(lambda key: choose(logits, Sampling(temperature=0.1), key)[0])(keys)
    # p ∝ 0.5^10 : 0.3^10 : 0.2^10
    assert np.mean(np.asarray(drawn) == 0) > 0.97


@pytest.mark.slow
def test_sampling_needs_a_key_and_sane_settings():
    model, golden = golden_model()
    with pytest.raises(ValueError, match="needs a key"):
        generate(model, prompts(golden), new_tokens=1, eos=1, sampling=Sampling(temperature=1.0))
    with refused(ConfigError, "config.invalid-value", "top_p: 0.0"):
        Sampling(temperature=1.0, top_p=0.0)
