"""Flops counted from dimensions, against the very program: what JAX is asked for, and what XLA counts."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import one_device

from rllava_jax.config import Config, DataConfig, LoraConfig, ModelConfig, OptimizerConfig, RegionConfig, TrainConfig
from rllava_jax.model.sizes import SIZES, GemmaConfig, PaliGemmaConfig, SiglipConfig, dimensions_of, model_size
from rllava_jax.planning.flops import sequence_length, training_flops
from rllava_jax.planning.plan import abstract_batch
from rllava_jax.training.program import make_program
from rllava_jax.training.step import make_train_step

VOCAB = 512
VISION = SiglipConfig(width=32, depth=3, mlp=80, heads=4, image_size=112)
DECODER = GemmaConfig(width=48, depth=2, mlp=160, heads=4, kv_heads=1, head_dim=16, query_scale=0.25)
GEMMA2 = dataclasses.replace(DECODER, kv_heads=2, post_norms=True, attention_cap=50.0)
LORA = LoraConfig(rank=4, alpha=8)
BOTH = LoraConfig(rank=4, alpha=8, targets=("q", "o", "gate", "down", "vision.q", "vision.fc1", "vision.fc2", "head"))


def configured(remat="none", *, decoder=DECODER, lora=None, encoders=("crop", "align"), trainable=()) -> Config:
    size = PaliGemmaConfig(VISION, decoder)
    return Config(
        model=ModelConfig("custom", dimensions_of(size), compute_dtype="float32", remat=remat, layers="scanned"),
        lora=lora or LoraConfig(),
        regions=RegionConfig(encoders=encoders, max_regions=2, tokens=4, crop_size=56),
        data=DataConfig(text_length=17),
        optimizer=OptimizerConfig(trainable=trainable),
        train=TrainConfig(batch_size=2, loss_chunk=16),
    )


def step_of(config: Config) -> tuple[Any, Any]:
    """The jitted step on one device, and its program."""
    mesh = one_device()
    made = make_program(config, mesh, vocab=VOCAB, steps=10, warmup=0)
    step = make_train_step(made, config, mesh)
    return step.trace(made.abstract, abstract_batch(config, model_size(config.model, vocab=VOCAB))), made


def asked_for(jaxpr: Any) -> float:
    """Operations of every matrix product of a program, a scan's body as often as it runs; other loops run once."""
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    total += times * asked_for(inner)
    return total


CASES = {
    "full": configured(),
    "full, remat full": configured("full"),
    "full, remat dots": configured("dots"),
    "full, remat attention": configured("attention"),
    "gemma 2, remat full": configured("full", decoder=GEMMA2),
    "lora": configured(lora=LORA),
    "lora, remat full": configured("full", lora=LORA),
    "lora in both towers, remat full": configured("full", lora=BOTH),
    "lora without regions": configured("full", lora=LORA, encoders=()),
    "only the projection": configured(encoders=(), trainable=("img/head/.*",)),
    "only the decoder": configured("full", trainable=("llm/layers/.*",)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_flops_by_dimensions_are_those_that_the_program_asks_for(case):
    config = CASES[case]
    traced, made = step_of(config)
    parts = training_flops(config, model_size(config.model, vocab=VOCAB), made.abstract.params)
    counted = sum(part.hardware for part in parts) * config.train.batch_size
    # Left out on purpose: the resampling of position embeddings to a crop's grid, and boxes to interpolation matrices.
    assert counted == pytest.approx(asked_for(traced.jaxpr), rel=0.002)


@pytest.mark.slow
def test_flops_agree_with_xla_where_there_is_one_layer_to_count():
    size = PaliGemmaConfig(
        dataclasses.replace(VISION, depth=1, width=128, mlp=512),
        dataclasses.replace(DECODER, depth=1, width=128, mlp=512),
    )
    config = configured(encoders=())
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dimensions=dimensions_of(size)))
    traced, made = step_of(config)
    analysis = traced.lower().compile().cost_analysis()
    counted = sum(p.hardware for p in training_flops(config, size_with_vocab(size), made.abstract.params)) * 2
    # XLA also counts what is done element by element, the optimiser above all.
    assert 0.8 * analysis["flops"] < counted < analysis["flops"]


def size_with_vocab(size: PaliGemmaConfig) -> PaliGemmaConfig:
    return dataclasses.replace(size, decoder=dataclasses.replace(size.decoder, vocab=VOCAB))


def test_paligemma_3b_forward_is_two_flops_a_parameter_and_token():
    config = Config(model=ModelConfig("paligemma-3b-224"), regions=RegionConfig(encoders=()))
    size = SIZES["paligemma-3b-224"]
    parts = {part.part: part for part in training_flops(config, size, {"llm/layers/mlp/linear"})}
    layer = 2048 * 8 * 256 * 2 + 2 * 2048 * 256 + 3 * 2048 * 16384
    assert sequence_length(config, size) == 256 + 39
    assert parts["decoder"].forward == 2.0 * 18 * layer * 295
    assert parts["vision"].backward == 0
    assert parts["decoder"].backward == pytest.approx(parts["decoder"].forward * (1 + 2048 * 16384 / layer))


def test_align_adds_little_and_crop_what_its_tokens_cost():
    def flops(encoders: tuple[str, ...]) -> float:
        regions = RegionConfig(encoders=encoders, crop_size=224, tokens=16)
        config = Config(model=ModelConfig("paligemma-3b-224"), regions=regions, data=DataConfig(text_length=64))
        parts = training_flops(config, SIZES["paligemma-3b-224"], NAMES)
        return sum(part.model for part in parts)

    plain, align, crop = flops(()), flops(("align",)), flops(("crop",))
    assert align / plain < 1.05
    # A crop of the image's own side costs the tower once more, and 16 tokens more in the decoder.
    tower = 6 * (27 * (4 * 1152**2 + 2 * 1152 * 4304) + 14 * 14 * 3 * 1152) * 256
    assert crop - align == pytest.approx(tower, rel=0.05)


BLOCK = "img/Transformer/encoderblock"
NAMES = [
    "img/embedding/kernel", "img/head/kernel", "llm/embedder/input_embedding", "roi/geometry/kernel",
    *(f"{BLOCK}/MultiHeadDotProductAttention_0/{n}/kernel" for n in ("query", "key", "value", "out")),
    *(f"{BLOCK}/MlpBlock_0/Dense_{n}/kernel" for n in (0, 1)),
    *(f"llm/layers/attn/{n}/w" for n in ("q_einsum", "kv_einsum", "attn_vec_einsum")),
    "llm/layers/mlp/gating_einsum", "llm/layers/mlp/linear",
]  # fmt: skip


def test_a_step_is_traced_without_an_array():
    traced, made = step_of(CASES["lora"])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made.abstract))
    assert np.prod(traced.jaxpr.out_avals[0].shape) == 1
