"""What must hold between settings, and the one line that each contradiction gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from config_files import assert_refused, write
from expected_errors import refused

from rllava_jax.config import (
    Config,
    ConfigError,
    DataConfig,
    EvaluationConfig,
    InitConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    TrainConfig,
)
from rllava_jax.config.loading import validated
from rllava_jax.config.validation import validate_patches
from rllava_jax.model.sizes import SIZES, dimensions_of, model_size


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (Config(regions=RegionConfig(tokens=15)), "regions.tokens"),
        (Config(regions=RegionConfig(encoders=("crop", "crop"))), "regions.encoders"),
        (Config(regions=RegionConfig(max_regions=0)), "regions.max_regions"),
        (Config(data=DataConfig(source="slake")), "data.root"),
        (Config(data=DataConfig(window="lungs")), "data.window"),
        (Config(data=DataConfig(families={"identity": 1.0})), "data.families"),
        (Config(data=DataConfig(families={"vqa": 1.0, "verify": -1.0})), "data.families.verify"),
        (Config(data=DataConfig(families={"vqa": 0.0})), "data.families"),
        (Config(data=DataConfig(prompt={"answer": "{question}"})), "data.prompt"),
        (
            Config(data=DataConfig(prompt={"answer": "{quest}{question}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question.__class__}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question[0]}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(
                data=DataConfig(
                    prompt={"answer": "{question:{question.__class__}}", "detect": "{question}", "caption": ""}
                )
            ),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question:>1000000000}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question:.2000}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question!r}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{} {question}", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question}", "detect": "detect", "caption": ""})),
            "data.prompt.detect",
        ),
        (
            Config(data=DataConfig(prompt={"answer": "{question", "detect": "{question}", "caption": ""})),
            "data.prompt.answer",
        ),
        (
            Config(
                regions=RegionConfig(encoders=("loc",)),
                data=DataConfig(prompt={"answer": "answer {question}", "detect": "{question}", "caption": ""}),
            ),
            "data.prompt.answer",
        ),
        (Config(data=DataConfig(policy=PolicyConfig(shown=1.2))), "data.policy.shown"),
        (Config(data=DataConfig(policy=PolicyConfig(shown_by_family={"vqa": 2.0}))), "data.policy.shown_by_family.vqa"),
        (Config(data=DataConfig(policy=PolicyConfig(shown_by_family={"vqas": 1.0}))), "data.policy.shown_by_family"),
        (Config(data=DataConfig(policy=PolicyConfig(wrong=0.1, wrong_kinds=()))), "data.policy.wrong_kinds"),
        (Config(optimizer=OptimizerConfig(learning_rate=0.0)), "optimizer.learning_rate"),
        (Config(optimizer=OptimizerConfig(b2=1.0)), "optimizer.b2"),
        (Config(optimizer=OptimizerConfig(trainable=("img/(",))), "optimizer.trainable"),
        (Config(optimizer=OptimizerConfig(warmup="never")), "optimizer.warmup"),
        (Config(model=ModelConfig(size="checkpoint")), "init.checkpoint"),
        (Config(model=ModelConfig(size="custom")), "model.dimensions"),
        (Config(model=ModelConfig(dimensions={"vision.width": 32})), "model.dimensions"),
        (Config(model=ModelConfig(vocab=-1)), "model.vocab"),
        (Config(init=InitConfig(step="5")), "init.step"),
        (Config(init=InitConfig(checkpoint="base", step="newest")), "init.step"),
        (Config(init=InitConfig(checkpoint="base"), data=DataConfig(tokenizer="x.model")), "data.tokenizer"),
        (Config(lora=LoraConfig(rank=-1)), "lora.rank"),
        (Config(lora=LoraConfig(rank=4, alpha=0.0)), "lora.alpha"),
        (Config(lora=LoraConfig(rank=4, targets=("q", "q"))), "lora.targets"),
        (Config(train=TrainConfig(duration="ten epochs")), "train.duration"),
        (Config(train=TrainConfig(duration="never")), "train.duration"),
        (Config(train=TrainConfig(duration="50 percent")), "train.duration"),
        (Config(train=TrainConfig(checkpoint_every="0 steps")), "train.checkpoint_every"),
        (Config(train=TrainConfig(log_every="never")), "train.log_every"),
        (Config(train=TrainConfig(batch_size=32, accumulate=3)), "train.batch_size"),
        (Config(train=TrainConfig(evaluate_every="1 epoch", best_metric="accuracy")), "train.best_metric"),
        (Config(train=TrainConfig(evaluate_every="1 epoch", best_metric="all/rihgt/accuracy")), "train.best_metric"),
        (
            Config(train=TrainConfig(evaluate_every="1 epoch"), evaluation=EvaluationConfig(families=("vqa",))),
            "train.best_metric",
        ),
        (Config(evaluation=EvaluationConfig(conditions=())), "evaluation.conditions"),
        (Config(evaluation=EvaluationConfig(families=("vqa", "vqa"))), "evaluation.families"),
        (Config(mesh=MeshConfig(data=0)), "mesh.data"),
        (Config(mesh=MeshConfig(data=-1, fsdp=-1)), "mesh.fsdp"),
        (Config(mesh=MeshConfig(data=-1, tensor=-1)), "mesh.tensor"),
        (Config(mesh=MeshConfig(slices=-1)), "mesh.slices"),
        (Config(mesh=MeshConfig(data=2, fsdp=3)), "train.batch_size"),
        (Config(mesh=MeshConfig(data=1, slices=3)), "train.batch_size"),
        (Config(train=TrainConfig(label_smoothing=1.0)), "train.label_smoothing"),
        (Config(train=TrainConfig(z_loss=-1.0)), "train.z_loss"),
        (Config(train=TrainConfig(loss_chunk=0)), "train.loss_chunk"),
        (Config(train=TrainConfig(spike_factor=0.5)), "train.spike_factor"),
        (Config(train=TrainConfig(max_skipped=0)), "train.max_skipped"),
        (Config(train=TrainConfig(data_wait_warning=2.0)), "train.data_wait_warning"),
        (Config(train=TrainConfig(stall_seconds=0.0)), "train.stall_seconds"),
        (Config(optimizer=OptimizerConfig(ema=1.0)), "optimizer.ema"),
        (Config(optimizer=OptimizerConfig(learning_rate_scale={"(": 1.0})), "optimizer.learning_rate_scale"),
        (Config(optimizer=OptimizerConfig(weight_decay_scale={"a": -1.0})), "optimizer.weight_decay_scale.a"),
        (Config(model=ModelConfig(image_size=-1)), "model.image_size"),
        (Config(seed=-1), "seed"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_field(config: Config, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        validated(config)
    assert error.value.code in ("config.conflict", "config.invalid-value")
    assert str(error.value).startswith((f"{field}: ", f"{field}."))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(regions=RegionConfig(encoders=())),
        Config(data=DataConfig(policy=PolicyConfig(wrong=0.0, wrong_kinds=()))),
        Config(data=DataConfig(source="slake", root="somewhere")),
        Config(train=TrainConfig(batch_size=30, accumulate=3, evaluate_every="1 epoch", checkpoint_every="never")),
        Config(train=TrainConfig(evaluate_every="1 epoch", best_metric="family=vqa/wrong:shifted/accuracy")),
        Config(mesh=MeshConfig(data=-1, fsdp=8)),
    ],
)
def test_settings_that_go_together_pass(config: Config) -> None:
    validated(config)


def test_loading_validates_and_repeats_file_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "config = Config(train=TrainConfig(batch_size=16))")
    override = "--config.train.accumulate=3"
    assert_refused(path, "config.conflict", f"{path} {override}: train.batch_size: 16", overrides=(override,))


@pytest.mark.parametrize(
    ("regions", "field"),
    [(RegionConfig(crop_size=100), "regions.crop_size"), (RegionConfig(crop_size=28, tokens=16), "regions.tokens")],
)
def test_a_crop_that_does_not_fit_the_patches_is_refused(regions: RegionConfig, field: str) -> None:
    with refused(ConfigError, "config.conflict", f"{field}: "):
        validate_patches(Config(regions=regions), patch=14)


def test_the_crop_size_is_free_when_nothing_is_cropped() -> None:
    validate_patches(Config(regions=RegionConfig(encoders=("align",), crop_size=100)), patch=14)
    validate_patches(replace(Config(), regions=RegionConfig(crop_size=56, tokens=16)), patch=14)


def test_a_custom_size_is_complete_and_whole() -> None:
    numbers = dimensions_of(SIZES["tiny"])
    assert model_size(ModelConfig("custom", numbers, vocab=2176)) == SIZES["tiny"]
    with pytest.raises(ConfigError, match=r"lacks 'vision\.width'"):
        model_size(ModelConfig("custom", {key: value for key, value in numbers.items() if key != "vision.width"}))
    with pytest.raises(ConfigError, match=r"unknown 'vision\.wide'"):
        model_size(ModelConfig("custom", {**numbers, "vision.wide": 3}))
    with refused(ConfigError, "config.invalid-value", "decoder.heads = 2.5"):
        model_size(ModelConfig("custom", {**numbers, "decoder.heads": 2.5}))
