"""A family of decoders is data: layers that differ within a stack, norms on queries and keys, bases, scales and masks.

The family here is Gemma 3's plan in small: three local layers for one global, and a stack that ends within the pattern.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_runs import CONFIG, SMALL, VOCAB, batch, one_device, run_of

from rllava_jax.config import ModelConfig
from rllava_jax.inference.decode import extend, prefill, unrolled_layers
from rllava_jax.model import sizes
from rllava_jax.model.gemma import Gemma, windowed
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.sizes import DecoderFamily, GemmaConfig, LayerKind

LOCAL, GLOBAL = LayerKind(window=4, rope_base=10_000.0), LayerKind(rope_base=1e6, rope_factor=8.0)
FAMILY = DecoderFamily((LOCAL, LOCAL, LOCAL, GLOBAL), qk_norm=True, embedding_scale=5.0, causal_prefix=True)
DEPTH = 6  # one pattern, and two local layers more
TOY = replace(SMALL, decoder=replace(SMALL.decoder, depth=DEPTH, post_norms=True, vocab=VOCAB, family=FAMILY))


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "toy", TOY)


def randomised(module):
    """The module with every parameter of consequence: norms and new parameters start at zero."""
    graphdef, params = nnx.split(module)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, moved))


@functools.cache
def model(layers="scanned", size=TOY):
    return randomised(PaliGemma(size, settings=ModelConfig(layers=layers), rngs=nnx.Rngs(0)))


def inputs():
    arrays = Inputs.from_batch({name: value[:3] for name, value in batch().items() if not name.startswith("region")})
    return replace(arrays, text=jnp.asarray(arrays.text), mask_ar=jnp.ones_like(arrays.mask_ar))


def test_it_trains_by_the_name_of_its_size():
    run = run_of(replace(CONFIG, model=ModelConfig("toy", layers="scanned")), one_device())
    metrics, state = run.train(batch(), batch())
    assert metrics[1]["loss"] < metrics[0]["loss"]
    for name in ("_query_norm", "_key_norm"):
        scale = state.params[f"llm/layers/attn/{name}/scale"]
        assert scale.shape == (DEPTH, 16)
        assert (np.abs(scale) > 0).any(axis=1).all(), "a layer's norm has not trained"


def test_layers_are_the_same_scanned_by_groups_and_unrolled():
    scanned, unrolled = model("scanned"), model("unrolled")
    np.testing.assert_allclose(scanned(inputs()).logits, unrolled(inputs()).logits, rtol=1e-5, atol=1e-5)
    seen = scanned(inputs(), decoder_hook=lambda weights, layer: (weights, layer)).decoder_collected
    assert seen.tolist() == list(range(DEPTH))


@pytest.mark.parametrize("unrolled", [False, True])
def test_cached_steps_equal_the_whole_sequence_at_once(unrolled):
    toy, whole, first = model(), inputs(), 3
    whole = replace(whole, mask_input=jnp.ones_like(whole.mask_input))
    expected = toy(whole).logits
    new = whole.text.shape[1] - first
    # Two positions of padding: a window counts positions, not slots.
    prompt = jax.tree.map(lambda x: x if x.ndim == 4 else jnp.pad(x[:, :first], ((0, 0), (0, 2))), whole)
    logits, state, _ = prefill(toy, prompt, new_tokens=new)
    np.testing.assert_allclose(logits, expected[:, first - 1], rtol=1e-4, atol=1e-4)
    layers = unrolled_layers(toy) if unrolled else None
    if unrolled:
        state = state._replace(cache=tuple(type(state.cache)(*pair) for pair in zip(*state.cache, strict=True)))
    for step in range(new):
        slot = jnp.asarray(state.filled.shape[1] - new + step)
        logits, state, _ = extend(toy, state, whole.text[:, first + step], slot, layers)
        np.testing.assert_allclose(logits, expected[:, first + step], rtol=1e-4, atol=1e-4)


def test_a_window_hides_what_lies_further_back():
    seen = windowed(jnp.tri(6, dtype=bool)[None], jnp.arange(6)[None], jnp.arange(6)[None], 3)[0]
    assert [int(row.sum()) for row in seen] == [1, 2, 3, 3, 3, 3]
    only_local = replace(TOY, decoder=replace(TOY.decoder, depth=1))
    arrays = inputs()
    arrays = replace(arrays, mask_input=jnp.ones_like(arrays.mask_input))
    changed = replace(arrays, text=arrays.text.at[:, 2].set(arrays.text[:, 2] ^ 1))
    local, other = (model(size=only_local)(given).logits for given in (arrays, changed))
    moved = np.abs(np.asarray(local - other)).max(axis=(0, 2)) > 1e-6
    assert moved.tolist() == [2 <= place < 2 + 4 for place in range(moved.size)]


def test_each_part_of_the_family_matters():
    whole = model()(inputs()).logits
    for change in (
        {"pattern": (LOCAL,)},
        {"pattern": (replace(LOCAL, rope_base=1e6), LOCAL, LOCAL, GLOBAL)},
        {"pattern": (LOCAL, LOCAL, LOCAL, replace(GLOBAL, rope_factor=1.0))},
        {"embedding_scale": 0.0},
    ):
        decoder = replace(TOY.decoder, family=replace(FAMILY, **change))
        assert np.abs(model(size=replace(TOY, decoder=decoder))(inputs()).logits - whole).max() > 1e-3, change


def test_a_causal_prefix_hides_later_words_of_the_prompt():
    arrays = inputs()
    prompt = replace(arrays, mask_ar=jnp.zeros_like(arrays.mask_ar), mask_input=jnp.ones_like(arrays.mask_input))
    changed = replace(prompt, text=prompt.text.at[:, -1].set(prompt.text[:, -1] ^ 1))
    full = replace(TOY, decoder=replace(TOY.decoder, family=replace(FAMILY, causal_prefix=False)))
    for size, hidden in ((TOY, True), (full, False)):
        first, second = (model(size=size)(given).logits[:, 0] for given in (prompt, changed))
        assert np.allclose(first, second, atol=1e-6) == hidden


def test_a_gemma_3_gives_the_logits_of_transformers():
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    theirs = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=64,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=7,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=20,
            sliding_window=5,
            layer_types=[("full" if i % 6 == 5 else "sliding") + "_attention" for i in range(7)],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    family = DecoderFamily((*(LayerKind(window=5, rope_base=1e4),) * 5, GLOBAL), qk_norm=True)
    config = GemmaConfig(48, 7, 80, 4, 2, 16, 20**-0.5, post_norms=True, vocab=64, family=family)
    weights = {name.removeprefix("model."): value.numpy() for name, value in theirs.state_dict().items()}

    def stacked(name, of_layer=lambda weight: weight):
        return jnp.stack([of_layer(weights[f"layers.{i}.{name}.weight"]) for i in range(7)])

    def heads(weight):  # [N · H, D] → [N, D, H]
        return weight.reshape(-1, 16, 48).transpose(0, 2, 1)

    ours = Gemma(config, ModelConfig(layers="scanned"), nnx.Rngs(0))
    ours.embedder.input_embedding[...] = jnp.asarray(weights["embed_tokens.weight"])
    ours.final_norm.scale[...] = jnp.asarray(weights["norm.weight"])
    block = ours.layers
    for norm, name in (
        (block.pre_attention_norm, "input_layernorm"),
        (block.post_attention_norm, "post_attention_layernorm"),
        (block.pre_ffw_norm, "pre_feedforward_layernorm"),
        (block.post_ffw_norm, "post_feedforward_layernorm"),
        (block.attn._query_norm, "self_attn.q_norm"),
        (block.attn._key_norm, "self_attn.k_norm"),
    ):
        norm.scale[...] = stacked(name)
    block.attn.q_einsum.w[...] = stacked("self_attn.q_proj", heads)
    key, value = (stacked(f"self_attn.{name}_proj", heads) for name in "kv")
    block.attn.kv_einsum.w[...] = jnp.stack([key, value], axis=1)
    block.attn.attn_vec_einsum.w[...] = stacked("self_attn.o_proj", lambda weight: weight.T.reshape(4, 16, 48))
    gate, up = (stacked(f"mlp.{name}_proj", np.transpose) for name in ("gate", "up"))
    block.mlp.gating_einsum[...] = jnp.stack([gate, up], axis=1)
    block.mlp.linear[...] = stacked("mlp.down_proj", np.transpose)

    tokens = np.random.default_rng(0).integers(0, 64, (2, 12))
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))
    causal = jnp.broadcast_to(jnp.tri(12, dtype=bool), (2, 12, 12))
    states = ours(ours.embedder.encode(jnp.asarray(tokens), jnp.float32), positions, causal).states
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(ours.embedder.decode(states), expected, rtol=1e-4, atol=5e-5)
