"""The mesh, and where every parameter lives on it."""

import logging
import math
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from expected_errors import refused
from jax.sharding import PartitionSpec
from small_runs import CONFIG, SMALL, VOCAB, adam, assert_trains_alike, batch, initial, made, one_device, run_of

from rllava_jax.config import Config, ConfigError, LoraConfig, LoraTarget, MeshConfig, ModelConfig, RegionConfig
from rllava_jax.model import partition_rules, sizes
from rllava_jax.model.lora import is_adapter
from rllava_jax.model.params import abstract
from rllava_jax.model.partition_rules import RULES, check_rules, parameter_spec
from rllava_jax.model.sharding import make_mesh, parameter_shardings, say_what_is_held_whole
from rllava_jax.training.program import initial_state


@pytest.fixture(scope="module")
def on_one_device():
    return run_of(CONFIG, one_device())


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, fsdp=2, tensor=2),
        MeshConfig(data=1, fsdp=1, tensor=4, slices=2),
    ],
    ids=["all three axes", "two slices and a head each"],
)
def test_every_mesh_trains_as_one_device(on_one_device, mesh):
    assert_trains_alike(run_of(CONFIG, make_mesh(mesh)), on_one_device)


@pytest.mark.slow
def test_every_mesh_makes_the_initial_state_of_one_device():
    program = made(CONFIG, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    state = initial_state(CONFIG, program, vocab=VOCAB)
    assert jax.tree.map(lambda x: x.sharding, state) == program.shardings
    jax.tree.map(np.testing.assert_array_equal, state, initial(CONFIG))


@pytest.mark.slow
def test_gemma_2_is_cut_over_tensor_with_its_key_value_heads():
    decoder = replace(SMALL.decoder, kv_heads=2, post_norms=True, attention_cap=50.0)
    numbers = sizes.dimensions_of(replace(SMALL, decoder=decoder))
    config = replace(CONFIG, model=ModelConfig("custom", numbers, layers="scanned"))
    run = run_of(config, make_mesh(MeshConfig(2, 2, 2)))
    assert_trains_alike(run, run_of(config, one_device()))
    spec = run.shardings.params["llm/layers/attn/kv_einsum/w"].spec
    assert spec == PartitionSpec(None, None, "tensor", "fsdp")


def test_a_single_key_value_head_is_whole_on_every_device_of_tensor_and_said_so(caplog):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    shapes = made(CONFIG, mesh).abstract.params
    spec = parameter_shardings(mesh, shapes)["llm/layers/attn/kv_einsum/w"].spec
    assert spec == PartitionSpec(None, None, None, "fsdp")
    with caplog.at_level(logging.INFO):
        say_what_is_held_whole(mesh, shapes)
    assert "mesh.tensor=2: key-value heads are held whole on each of them: llm/layers/attn/kv_einsum/w" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        say_what_is_held_whole(make_mesh(MeshConfig(8)), shapes)
    assert not caplog.text


@pytest.mark.slow
def test_tensor_cuts_what_it_computes_apart():
    """No device holds, or computes, all heads, all of a feed-forward, or the whole vocabulary."""
    run = run_of(CONFIG, make_mesh(MeshConfig(1, 1, 8 // 2, slices=2)))
    width, mlp, heads, dim = 64, 128, 4, 16
    shares = {name: run.shardings.params[name].shard_shape(value.shape) for name, value in run.initial.params.items()}
    assert shares["llm/layers/attn/q_einsum/w"] == (2, heads // 4, width, dim)
    assert shares["llm/layers/mlp/gating_einsum"] == (2, 2, width, mlp // 4)
    assert shares["llm/embedder/input_embedding"] == (VOCAB // 4, width)
    state = jax.tree.map(jax.device_put, run.initial, run.shardings)
    program = run.step.lower(state, batch()).compile().as_text()
    examples = 16 // 2
    positions = 4 + 2 * 4 + 7  # image patches, two regions' tokens, text but its last
    cut, whole = (f"f32[{examples * positions},{size}]" for size in (mlp // 4, mlp))
    assert cut in program
    assert whole not in program


@pytest.mark.slow
def test_parameters_and_their_moments_are_cut_alike():
    _, state = run_of(CONFIG, make_mesh(MeshConfig(2, 4))).train(batch())
    for name, param in state.params.items():
        for moment in (adam(state).mu[name], adam(state).nu[name]):
            assert moment.sharding.is_equivalent_to(param.sharding, param.ndim), name
    table = state.params["llm/embedder/input_embedding"]
    assert table.sharding.spec == PartitionSpec(None, "fsdp")
    assert {shard.data.shape for shard in table.addressable_shards} == {(VOCAB, 64 // 4)}
    bias = state.params["img/head/bias"]
    assert {shard.data.shape for shard in bias.addressable_shards} == {bias.shape}


@pytest.mark.parametrize("size", [name for name in sizes.SIZES if name != "small"])
@pytest.mark.slow
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


def test_every_rule_is_the_one_that_holds_for_some_parameter(monkeypatch):
    _, shapes = abstract(CONFIG, vocab=VOCAB)
    check_rules(shapes)
    monkeypatch.setitem(RULES, "llm", {**RULES["llm"], r"layers/attn/q_einsum/weight": (None, "fsdp")})
    with refused(ConfigError, "mesh.partition-rules", "llm/layers/attn/q_einsum/weight"):
        check_rules(shapes)


def test_a_rule_that_an_earlier_one_hides_is_an_error(monkeypatch):
    _, shapes = abstract(CONFIG, vocab=VOCAB)
    monkeypatch.setitem(RULES, "llm", {r"layers/attn/.*": (None,) * 4, **RULES["llm"]})
    with refused(ConfigError, "mesh.partition-rules", "llm/layers/attn/q_einsum/w"):
        check_rules(shapes)


def test_a_new_parameter_declares_its_axes_where_it_is_defined(monkeypatch):
    _, shapes = abstract(CONFIG, vocab=VOCAB)
    shapes |= {"roi/toy/kernel": jax.ShapeDtypeStruct((8, 16), jnp.float32)}
    with refused(ConfigError, "mesh.partition-rules", "roi/toy/kernel"):
        check_rules(shapes)
    monkeypatch.setattr(partition_rules, "RULES", dict(RULES))
    partition_rules.register_rules("roi/toy", {r"kernel": (None, "fsdp")})
    check_rules(shapes)
    sharding = parameter_shardings(make_mesh(MeshConfig(1, 8)), shapes)["roi/toy/kernel"]
    assert sharding.spec == PartitionSpec(None, "fsdp")
    del shapes["roi/toy/kernel"]  # its rules idle in a model without it
    check_rules(shapes)
    with pytest.raises(ValueError, match="roi/toy already has other rules"):
        partition_rules.register_rules("roi/toy", {r"kernel": ()})


def test_rules_of_the_region_branch_may_idle_without_one():
    _, shapes = abstract(replace(CONFIG, regions=RegionConfig(encoders=())), vocab=VOCAB)
    assert not any(name.startswith("roi/") for name in shapes)
    check_rules(shapes)


def test_a_rule_of_another_rank_is_an_error(monkeypatch):
    monkeypatch.setitem(RULES, "img", {r"head/kernel": ("fsdp", None, None)})
    with refused(ConfigError, "mesh.partition-rules", "img/head/kernel", "3 axes"):
        parameter_spec("img/head/kernel", (8, 8), {"fsdp": 1, "tensor": 1})


def test_a_parameter_without_a_rule_is_an_error():
    shapes = {"llm/adapter/down": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    with refused(ConfigError, "mesh.partition-rules", "llm/adapter/down", "2 axes"):
        parameter_shardings(one_device(), shapes)


def test_fsdp_that_does_not_divide_names_the_parameter():
    shapes = {"img/head/kernel": jax.ShapeDtypeStruct((12, 64), jnp.float32)}
    with refused(ConfigError, "mesh.mismatch", "mesh.fsdp: 8", "axis 0 of img/head/kernel (12, 64)", "divisor of 12"):
        parameter_shardings(make_mesh(MeshConfig(1, 8)), shapes)


def test_mesh_takes_the_rest_of_the_devices():
    assert dict(make_mesh(MeshConfig()).shape) == {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(2, -1)).shape) == {"slice": 1, "data": 2, "fsdp": 4, "tensor": 1}
    assert dict(make_mesh(MeshConfig(1, 2, -1, 2)).shape) == {"slice": 2, "data": 1, "fsdp": 2, "tensor": 2}
    for wrong in (MeshConfig(3, -1), MeshConfig(4, 1), MeshConfig(16, 1), MeshConfig(-1, 1, 3)):
        with refused(ConfigError, "mesh.mismatch", "8 devices"):
            make_mesh(wrong)


def test_neighbours_on_tensor_are_neighbouring_devices():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    assert [[device.id for device in row] for row in mesh.devices.reshape(-1, 2)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("size", ["paligemma-3b-224", "paligemma2-28b-224"])
def test_adapters_are_cut_along_the_axes_of_their_projection(size):
    config = Config(model=ModelConfig(size), lora=LoraConfig(rank=4, targets=get_args(LoraTarget)))
    _, shapes = abstract(config, vocab=sizes.PALIGEMMA_VOCAB)
    shardings = parameter_shardings(make_mesh(MeshConfig(1, 4, 2)), shapes)
    specs = {name: tuple(sharding.spec) for name, sharding in shardings.items() if is_adapter(name)}
    attention = "llm/layers/attn"
    assert specs[f"{attention}/q_einsum/lora/a"] == (None, "fsdp")  # [L, D, r]
    assert specs[f"{attention}/q_einsum/lora/b"] == (None, None, "tensor")  # [L, r, N, H]
    assert specs[f"{attention}/attn_vec_einsum/lora/a"] == (None, "tensor")  # [L, N, H, r]
    assert specs[f"{attention}/attn_vec_einsum/lora/b"] == (None, None, "fsdp")  # [L, r, D]
    key = (None, None, "tensor") if size == "paligemma2-28b-224" else ()
    assert specs[f"{attention}/kv_einsum/lora_k/b"] == key  # [L, r, K, H]
    assert specs["llm/layers/mlp/lora_down/a"] == (None, "tensor")  # [L, F, r]
    assert specs["img/head/lora/a"] == ("fsdp",)  # [W, r]
