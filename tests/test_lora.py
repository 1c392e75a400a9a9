"""Low-rank adapters: what they compute, merging them, and training nothing else."""

import dataclasses
import math
import re
from typing import get_args

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, GOLDEN, assert_close, load, training_inputs
from small_runs import CONFIG as TRAINING
from small_runs import adam, assert_trains_alike, batch, one_device, run_of

from rllava_jax.config import Config, ConfigError, LoraConfig, LoraTarget, MeshConfig, ModelConfig, RegionConfig
from rllava_jax.config.loading import load as load_config
from rllava_jax.model import sizes
from rllava_jax.model.lora import TARGETS, Adapter, delta, merged
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.params import abstract, merge, split
from rllava_jax.model.sharding import make_mesh, parameter_shardings

ALL = get_args(LoraTarget)
MEDM = LoraConfig(rank=12, alpha=32, targets=("q", "k", "v", "o", "up", "down"))
LORA = LoraConfig(rank=3, alpha=7.5, targets=ALL)
GEMMA2 = dataclasses.replace(
    CONFIG, decoder=dataclasses.replace(CONFIG.decoder, kv_heads=2, post_norms=True, attention_cap=50.0)
)
SIZES = {"gemma1": CONFIG, "gemma2": GEMMA2}


def is_adapter(name):
    return "/lora" in name


def random_params(shapes):
    """Random numbers for every parameter, B among them, of sizes that keep a tiny model's activations near 1."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        if name.endswith(("scale", "bias")):
            return rng.normal(scale=0.1, size=shape) + (name.startswith("img/") and name.endswith("scale"))
        return rng.normal(scale=0.25 if is_b(name) else 0.12, size=shape)

    return {name: jnp.asarray(draw(name, shape.shape), jnp.float32) for name, shape in shapes.items()}


def is_b(name):
    return is_adapter(name) and name.endswith("/b")


def in_target(target, name):
    return target is not None and name.rpartition("/")[0] == TARGETS[target].adapter


def only(target, params):
    """The base and one target's adapter."""
    return {name: value for name, value in params.items() if not is_adapter(name) or in_target(target, name)}


def silenced(params, *, but=None):
    """All adapters, those of other targets with B zero."""
    return {
        name: jnp.zeros_like(value) if is_b(name) and not in_target(but, name) else value
        for name, value in params.items()
    }


class Model:
    """A tiny model with all adapters: its parameters, and logits with and without adapters, compiled once each."""

    def __init__(self, size, lora=LORA):
        inputs = training_inputs(load(GOLDEN / "paligemma1_tiny.npz")).truncated(11)
        base, _ = split(nnx.eval_shape(lambda: PaliGemma(size, rngs=nnx.Rngs(0))))
        graphdef, shapes = split(nnx.eval_shape(lambda: PaliGemma(size, lora=lora, rngs=nnx.Rngs(0))))
        self.params = random_params(shapes)
        self.base = {name: value for name, value in self.params.items() if not is_adapter(name)}
        self.logits = jax.jit(lambda params: merge(graphdef, params)(inputs).logits)
        self.base_logits = jax.jit(lambda params: merge(base, params)(inputs).logits)


@pytest.fixture(scope="module")
def models():
    return {name: Model(size) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def doubled():
    """The same model with twice the alpha."""
    return Model(CONFIG, dataclasses.replace(LORA, alpha=2 * LORA.alpha))


def relative_change(actual, reference):
    return np.abs(actual - reference).max() / np.abs(reference).max()


def test_without_lora_the_parameters_are_the_published_ones():
    published = {key.removeprefix("params/") for key in load(GOLDEN / "paligemma1_tiny.npz") if "params/" in key}
    for lora in (None, LoraConfig(), LoraConfig(rank=0, targets=ALL)):
        _, params = split(nnx.eval_shape(lambda lora=lora: PaliGemma(CONFIG, lora=lora, rngs=nnx.Rngs(0))))
        assert params.keys() == published


def test_an_adapter_adds_two_matrix_products_to_the_program_and_none_of_its_own_size():
    """Seven projections in the decoder's scanned layer, six in the tower's, and `head`; A · B itself is never made."""
    inputs = training_inputs(load(GOLDEN / "paligemma1_tiny.npz")).truncated(11)

    def products(lora):
        graphdef, params = split(
            nnx.eval_shape(
                lambda: PaliGemma(CONFIG, lora=lora, settings=ModelConfig(layers="scanned"), rngs=nnx.Rngs(0))
            )
        )
        program = str(jax.make_jaxpr(lambda params: merge(graphdef, params)(inputs).logits)(params))
        return re.findall(r":f32\[([\d,]*)\] = dot_general\[", program)

    without = products(None)
    assert products(LoraConfig(rank=0, targets=ALL)) == without
    assert len(products(dataclasses.replace(LORA, targets=("o",)))) == len(without) + 2
    with_all = products(LORA)
    assert len(with_all) == len(without) + 2 * 14
    tokens = {"81", "48"}  # 3 examples of 16 patches and 11 text tokens, or of 16 patches
    for shape in without:
        with_all.remove(shape)
    assert {shape.split(",")[0] for shape in with_all} == tokens


@pytest.mark.parametrize("target", ALL)
def test_only_the_requested_target_exists(target):
    lora = dataclasses.replace(LORA, targets=(target,))
    _, params = split(nnx.eval_shape(lambda: PaliGemma(CONFIG, lora=lora, rngs=nnx.Rngs(0))))
    site = TARGETS[target]
    assert {name for name in params if is_adapter(name)} == {f"{site.adapter}/a", f"{site.adapter}/b"}
    # Beside its projection, and of every layer.
    assert site.base in params
    assert site.adapter.rpartition("/")[0] in site.base
    if site.stacked:
        assert params[f"{site.adapter}/a"].shape[0] == params[f"{site.adapter}/b"].shape[0] == 2


def test_adapters_have_the_shapes_of_their_projections():
    _, params = split(nnx.eval_shape(lambda: PaliGemma(GEMMA2, lora=LORA, rngs=nnx.Rngs(0))))
    shapes = {name: params[name].shape for name in params if is_adapter(name)}
    layers, width, vision, heads, kv_heads, dim, mlp, rank = 2, 64, 32, 4, 2, 16, 128, 3
    assert shapes["llm/layers/attn/q_einsum/lora/a"] == (layers, width, rank)
    assert shapes["llm/layers/attn/q_einsum/lora/b"] == (layers, rank, heads, dim)
    for kind in ("lora_k", "lora_v"):
        assert shapes[f"llm/layers/attn/kv_einsum/{kind}/a"] == (layers, width, rank)
        assert shapes[f"llm/layers/attn/kv_einsum/{kind}/b"] == (layers, rank, kv_heads, dim)
    assert shapes["llm/layers/attn/attn_vec_einsum/lora/a"] == (layers, heads, dim, rank)
    assert shapes["llm/layers/attn/attn_vec_einsum/lora/b"] == (layers, rank, width)
    for kind in ("lora_gate", "lora_up"):
        assert shapes[f"llm/layers/mlp/{kind}/a"] == (layers, width, rank)
        assert shapes[f"llm/layers/mlp/{kind}/b"] == (layers, rank, mlp)
    assert shapes["llm/layers/mlp/lora_down/a"] == (layers, mlp, rank)
    assert shapes["llm/layers/mlp/lora_down/b"] == (layers, rank, width)
    block = "img/Transformer/encoderblock"
    for kind in ("query", "key", "value"):
        assert shapes[f"{block}/MultiHeadDotProductAttention_0/{kind}/lora/a"] == (layers, vision, rank)
        assert shapes[f"{block}/MultiHeadDotProductAttention_0/{kind}/lora/b"] == (layers, rank, 4, 8)
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/out/lora/a"] == (layers, 4, 8, rank)
    assert shapes[f"{block}/MultiHeadDotProductAttention_0/out/lora/b"] == (layers, rank, vision)
    assert shapes[f"{block}/MlpBlock_0/Dense_0/lora/a"] == (layers, vision, rank)
    assert shapes[f"{block}/MlpBlock_0/Dense_0/lora/b"] == (layers, rank, 64)
    assert shapes[f"{block}/MlpBlock_0/Dense_1/lora/a"] == (layers, 64, rank)
    assert shapes[f"{block}/MlpBlock_0/Dense_1/lora/b"] == (layers, rank, vision)
    assert shapes["img/head/lora/a"] == (vision, rank)
    assert shapes["img/head/lora/b"] == (rank, width)


def test_medms_setting_has_the_number_of_parameters_of_the_formula():
    def count(lora):
        config = Config(model=ModelConfig("paligemma-3b-224"), lora=lora)
        _, shapes = abstract(config, vocab=sizes.PALIGEMMA_VOCAB)
        return sum(shape.size for name, shape in shapes.items() if is_adapter(name))

    layers, width, heads, kv_heads, dim, mlp = 18, 2048, 8, 1, 256, 16384
    query_and_output = 2 * (width + heads * dim)
    key_and_value = 2 * (width + kv_heads * dim)
    up_and_down = 2 * (width + mlp)
    assert count(MEDM) == layers * 12 * (query_and_output + key_and_value + up_and_down) == 10_727_424
    with_gate = dataclasses.replace(MEDM, targets=(*MEDM.targets, "gate"))
    assert count(with_gate) == 10_727_424 + layers * 12 * (width + mlp) == 14_708_736


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.slow
def test_with_b_zero_the_model_is_the_base_model_bit_for_bit(models, name):
    model = models[name]
    np.testing.assert_array_equal(model.logits(silenced(model.params)), model.base_logits(model.base))


def fresh(lora, **seeds):
    """Random parameters as a model draws them."""
    make = jax.jit(
        lambda: split(PaliGemma(CONFIG, RegionConfig(), lora=lora, rngs=nnx.Rngs(**seeds)))[1],
        # Optimised, drawing takes six times as long to compile.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return make()


@pytest.fixture(scope="module")
def drawn():
    """Parameters of seed 0 with all adapters."""
    return fresh(LORA, default=0)


@pytest.mark.slow
def test_b_starts_at_zero_and_a_as_pefts(drawn):
    """PEFT draws A by kaiming_uniform(a=√5): uniform within ± 1 / √(all that is contracted)."""
    fan_in = {"q": 64, "k": 64, "v": 64, "o": 64, "gate": 64, "up": 64, "down": 128, "vision.fc2": 64}
    for target, site in TARGETS.items():
        assert not drawn[f"{site.adapter}/b"].any()
        a = np.asarray(drawn[f"{site.adapter}/a"]) * math.sqrt(fan_in.get(target, 32))
        assert 0.9 < np.abs(a).max() <= 1, target
        assert np.std(a) == pytest.approx(3**-0.5, rel=0.15), target
        if site.stacked:
            assert not np.array_equal(a[0], a[1])


@pytest.mark.slow
def test_base_weights_of_a_seed_are_the_same_with_and_without_lora(drawn):
    base = fresh(None, default=0)
    assert {name for name in drawn if not is_adapter(name)} == base.keys()
    for name, value in base.items():
        np.testing.assert_array_equal(drawn[name], value, err_msg=name)


@pytest.mark.parametrize("seeds", [{"default": 0}, {"params": 0}])
@pytest.mark.slow
def test_an_adapters_random_numbers_do_not_depend_on_the_other_targets(drawn, seeds):
    params = fresh(dataclasses.replace(LORA, targets=("down", "head")), **seeds)
    for name in ("llm/layers/mlp/lora_down/a", "img/head/lora/a"):
        np.testing.assert_array_equal(params[name], drawn[name])


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("target", ALL)
def test_merged_and_unmerged_logits_agree_on_each_target_alone(models, name, target):
    model = models[name]
    logits = model.logits(silenced(model.params, but=target))
    assert relative_change(logits, model.base_logits(model.base)) > 1e-3
    alone = dataclasses.replace(LORA, targets=(target,))
    assert_close(model.base_logits(merged(only(target, model.params), alone)), logits)


@pytest.mark.parametrize("name", SIZES)
def test_merged_and_unmerged_logits_agree_on_all_targets(models, name):
    model = models[name]
    weights = merged(model.params, LORA)
    assert weights.keys() == model.base.keys()
    assert_close(model.base_logits(weights), model.logits(model.params))


@pytest.mark.parametrize("target", ALL)
def test_alpha_scales_each_target(models, doubled, target):
    """Twice the alpha is twice the B, to the bit: a factor of two rounds nothing."""
    params = silenced(models["gemma1"].params, but=target)
    adapter = TARGETS[target].adapter
    twice = params | {f"{adapter}/b": 2 * params[f"{adapter}/b"]}
    np.testing.assert_array_equal(doubled.logits(params), models["gemma1"].logits(twice))
    assert relative_change(doubled.logits(params), models["gemma1"].logits(params)) > 1e-3


# A projection as PyTorch's Linear holds it, [out, in]: heads and head dim merged, heads outermost.
LINEAR = {
    "q": lambda w: w.transpose(0, 2, 1).reshape(-1, w.shape[1]),
    "o": lambda w: w.reshape(-1, w.shape[-1]).T,
    "gate": lambda w: w.T,
    "vision.q": lambda w: w.reshape(w.shape[0], -1).T,
}
LINEAR |= dict.fromkeys(("k", "v"), LINEAR["q"])
LINEAR |= dict.fromkeys(("up", "down", "vision.fc1", "vision.fc2", "head"), LINEAR["gate"])
LINEAR |= dict.fromkeys(("vision.k", "vision.v"), LINEAR["vision.q"])
LINEAR |= {"vision.o": LINEAR["o"]}


@pytest.mark.parametrize("target", ALL)
def test_a_layers_delta_is_pefts(models, target):
    """PEFT: `(alpha / r) · B @ A` with A [r, in] and B [out, r], added to a Linear's weight [out, in]."""
    site = TARGETS[target]
    a, b = (np.asarray(models["gemma2"].params[f"{site.adapter}/{half}"]) for half in "ab")
    scale = LORA.alpha / LORA.rank
    stack = delta(target, a, b, scale)
    for layer in range(2) if site.stacked else (...,):
        one = delta(target, a[layer], b[layer], scale)
        np.testing.assert_allclose(one, stack[layer], rtol=1e-5, atol=1e-6)
        expected = scale * b[layer].reshape(LORA.rank, -1).T @ a[layer].reshape(-1, LORA.rank).T
        np.testing.assert_allclose(LINEAR[target](one), expected, rtol=1e-5, atol=1e-6)


def test_the_output_projection_has_one_low_rank_for_all_heads_together(models):
    """`y = x Wᵀ + alpha / r · (x Aᵀ) Bᵀ` over the heads' concatenated outputs, one layer of the decoder."""
    graphdef, _ = split(nnx.eval_shape(lambda: PaliGemma(GEMMA2, lora=LORA, rngs=nnx.Rngs(0))))
    layers = nnx.split(merge(graphdef, models["gemma2"].params).llm.layers)
    block = nnx.merge(layers[0], jax.tree.map(lambda x: x[1], layers[1]))
    projection = block.attn.attn_vec_einsum
    x = np.random.default_rng(1).normal(size=(2, 5, 4, 16)).astype(np.float32)
    weight, a, b = (np.asarray(v[...], np.float64) for v in (projection.w, projection.lora.a, projection.lora.b))
    flat = x.reshape(2, 5, 64)
    expected = flat @ weight.reshape(64, 64) + 7.5 / 3 * (flat @ a.reshape(64, 3)) @ b
    assert_close(projection("TNH,NHD->TD", jnp.asarray(x)), expected, 1e-6)
    per_head = np.einsum("bsnh,nhr->bsnr", x, a) @ b
    assert_close(per_head.sum(axis=2), flat @ a.reshape(64, 3) @ b, 1e-6)


def test_the_scale_is_not_rounded_to_the_compute_type():
    """32 / 12 is 0.2 % more in bfloat16, which would tell a model from its merged weights on every token alike."""
    lora = LoraConfig(rank=12, alpha=32)
    adapter = Adapter(TARGETS["head"], (64, 512), lora, jax.random.key(0))
    rng = np.random.default_rng(0)
    adapter.b[...] = jnp.asarray(rng.normal(size=(12, 512)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(256, 64)), jnp.bfloat16)
    out = adapter(x)
    assert out.dtype == jnp.bfloat16
    expected = 32 / 12 * np.asarray(x, np.float64) @ np.asarray(adapter.a[...]) @ np.asarray(adapter.b[...])
    slope = (np.asarray(out, np.float64) * expected).sum() / np.square(expected).sum()
    assert slope == pytest.approx(1, abs=5e-4)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_merging_keeps_type_and_library_and_rounds_once(models, dtype):
    params = {
        name: np.asarray(value).astype(np.float32 if is_adapter(name) else dtype)
        for name, value in models["gemma2"].params.items()
    }
    before = {name: value.copy() for name, value in params.items()}
    on_host = merged(params, LORA)
    on_device = merged(jax.tree.map(jnp.asarray, params), LORA)
    assert on_host.keys() == on_device.keys() == models["gemma2"].base.keys()
    rounding = 1e-6 if dtype == np.float32 else 2**-8
    for name, value in on_host.items():
        assert isinstance(value, np.ndarray)
        assert isinstance(on_device[name], jax.Array)
        assert value.dtype == on_device[name].dtype == dtype
        np.testing.assert_allclose(
            on_device[name].astype(np.float32), value.astype(np.float32), rtol=rounding, atol=rounding, err_msg=name
        )
    for name, value in params.items():
        np.testing.assert_array_equal(value, before[name])
    query = before["llm/layers/attn/q_einsum/w"].astype(np.float32) + delta(
        "q", *(params[f"llm/layers/attn/q_einsum/lora/{half}"] for half in "ab"), 7.5 / 3
    )
    assert_close(on_host["llm/layers/attn/q_einsum/w"].astype(np.float32), query, rounding)


def test_merging_without_lora_changes_nothing(models):
    base = models["gemma1"].base
    assert merged(base, LoraConfig()) == base


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("llm/layers/mlp/lora_up/b", "llm/layers/mlp/lora_up/b is missing"),
        ("img/head/kernel", "img/head/lora has no base img/head/kernel"),
    ],
)
def test_merging_half_an_adapter_or_one_without_base_is_an_error(models, left_out, message):
    params = {name: value for name, value in models["gemma1"].params.items() if name != left_out}
    with pytest.raises(ValueError, match=message):
        merged(params, LORA)


def test_merging_what_the_configuration_does_not_describe_is_an_error(models):
    params = models["gemma1"].params
    with pytest.raises(ValueError, match="img/head/lora/a is no adapter that the configuration targets"):
        merged(params, dataclasses.replace(LORA, targets=ALL[:-1]))
    with pytest.raises(ValueError, match="img/head/lora/a is no adapter"):
        merged(params, LoraConfig())
    with pytest.raises(ValueError, match="llm/layers/mlp/lora_gate/a is missing"):
        merged(only("q", params), LORA)
    with pytest.raises(ValueError, match="img/head/lora has rank 3 in a and 3 in b, not 4"):
        merged(params, dataclasses.replace(LORA, rank=4))
    with pytest.raises(ValueError, match="llm/lora_x/a is no adapter"):
        merged(params | {"llm/lora_x/a": jnp.zeros(1)}, LORA)


def test_a_target_that_does_not_exist_is_refused(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from rllava_jax.config import *\nconfig = Config(lora=LoraConfig(rank=4, targets=('q', 'query')))\n"
    )
    with pytest.raises(ConfigError, match=r"lora\.targets"):
        load_config(file)


# MedM's projections and some of the vision tower's; every target more takes seconds to compile.
TRAINED = dataclasses.replace(
    TRAINING, lora=dataclasses.replace(LORA, targets=(*MEDM.targets, "vision.o", "vision.fc1", "head"))
)


@pytest.fixture(scope="module")
def on_one_device():
    return run_of(TRAINED, one_device())


@pytest.mark.slow
def test_training_moves_adapters_and_regions_and_leaves_the_base_bit_identical_in_bfloat16(on_one_device):
    _, state = on_one_device.train(batch(0), batch(1), batch(2))
    assert {name.startswith("roi/") or is_adapter(name) for name in state.params} == {True}
    assert len([name for name in state.params if is_adapter(name)]) == 2 * 9
    for name, value in on_one_device.initial.params.items():
        assert state.params[name].dtype == jnp.float32, name
        assert not np.array_equal(state.params[name], value), name
    assert {name.split("/")[0] for name in state.frozen} == {"img", "llm"}
    for name, value in on_one_device.initial.frozen.items():
        assert state.frozen[name].dtype == jnp.bfloat16, name
        np.testing.assert_array_equal(state.frozen[name], value, err_msg=name)


@pytest.mark.slow
def test_the_optimiser_state_holds_nothing_of_the_base(on_one_device):
    _, state = on_one_device.train(batch())
    leaves = jax.tree_util.tree_leaves_with_path(state.optimizer)
    names = [path[-1].key for path, _ in leaves if hasattr(path[-1], "key")]
    assert sorted(names) == sorted(2 * list(state.params))
    assert not set(names) & state.frozen.keys()
    assert all(leaf.size == 1 for path, leaf in leaves if not hasattr(path[-1], "key"))
    assert adam(state).mu.keys() == adam(state).nu.keys() == state.params.keys()


@pytest.mark.slow
def test_training_with_adapters_learns_the_batch_it_sees(on_one_device):
    metrics, _ = on_one_device.train(*[batch()] * 10)
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]


@pytest.mark.slow
def test_eight_devices_train_adapters_as_one(on_one_device):
    assert_trains_alike(run_of(TRAINED, make_mesh(MeshConfig(2, 4))), on_one_device)


@pytest.mark.parametrize("size", sizes.SIZES)
@pytest.mark.slow
def test_fsdp_cuts_the_factor_that_has_the_width(size):
    """As the base: the axis of the decoder's or the vision tower's width is cut, the other factor is whole."""
    config = Config(model=ModelConfig(size), lora=LORA, regions=RegionConfig())
    _, shapes = abstract(config, vocab=sizes.model_size(ModelConfig(size)).decoder.vocab)
    shardings = parameter_shardings(make_mesh(MeshConfig(1, 8)), shapes)
    for target, site in TARGETS.items():
        a, b, _ = site.equation.replace("->", ",").split(",")
        width = "W" if target.startswith("vision") or target == "head" else "D"
        for half, axes in (("a", a), ("b", b)):
            spec = shardings[f"{site.adapter}/{half}"].spec
            axes = "L" * site.stacked + axes
            cut = [axis for axis, name in zip(axes, spec, strict=False) if name == "fsdp"]
            assert cut == ([width] if width in axes else []), (target, half)
