"""Configuration files and overrides: what is accepted, and the one line that each mistake gives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
from rllava_jax.config_loading import differences, from_json, load, load_config, to_json, upgraded
from rllava_jax.config_validation import validate, validate_patches
from rllava_jax.model.sizes import SIZES, dimensions_of, model_size

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file that changes one setting."""
    return write(tmp_path, "config = Config(train=TrainConfig(batch_size=16))")


def write(folder: Path, body: str) -> Path:
    path = folder / "mine.py"
    path.write_text(f"from rllava_jax.config import *\n{body}\n")
    return path


def error_line(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    line = str(error.value)
    assert "\n" not in line
    return line


# Files


def test_a_file_gives_its_values_and_the_defaults_of_the_rest(plain: Path) -> None:
    assert load_config(plain) == Config(train=TrainConfig(batch_size=16))


def test_every_configuration_of_the_repository_loads() -> None:
    assert CONFIGS
    for path in CONFIGS:
        overrides = ["--config.data.root=somewhere"]
        if 'size="checkpoint"' in path.read_text():
            with pytest.raises(ConfigError, match=r"write --config\.init\.checkpoint=DIR"):
                load(path, overrides)
            overrides.append("--config.init.checkpoint=elsewhere")
        load(path, overrides)


def test_a_list_in_a_file_becomes_the_tuple_that_the_field_declares(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'config = Config(regions=RegionConfig(encoders=["crop", "loc"]))'))
    assert config.regions.encoders == ("crop", "loc")


def test_an_unknown_keyword_in_a_file_names_line_and_nearest_field(tmp_path: Path) -> None:
    path = write(tmp_path, "train = TrainConfig(batch_sise=8)\nconfig = Config(train=train)")
    assert error_line(path) == f"{path}:2: TrainConfig has no field 'batch_sise'; did you mean 'batch_size'?"


def test_an_unknown_keyword_of_another_section_names_that_section(tmp_path: Path) -> None:
    path = write(tmp_path, "config = Config(learning_rate=1e-3)")
    assert error_line(path) == f"{path}:2: Config has no field 'learning_rate'; did you mean 'optimizer.learning_rate'?"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('train=TrainConfig(batch_size="8")', "train.batch_size: '8' is not int: "),
        ("train=TrainConfig(batch_size=8.5)", "train.batch_size: 8.5 is not int: "),
        ("train=TrainConfig(batch_size=True)", "train.batch_size: True is not int: "),
        ("regions=RegionConfig(outlines=1)", "regions.outlines: 1 is not bool: "),
        ("data=DataConfig(root=object)", "data.root: <class 'object'> is not str"),
        ('optimizer=OptimizerConfig(learning_rate=float("nan"))', "optimizer.learning_rate: nan is not float: "),
        ('regions=RegionConfig(encoders="crop")', "regions.encoders: 'crop' is not a tuple of one of 'crop', "),
        ('regions=RegionConfig(encoders=("crop", "zoom"))', "regions.encoders: ['crop', 'zoom'] is not a tuple of "),
        (
            'data=DataConfig(families={"vqa": "much"})',
            "data.families: {'vqa': 'much'} is not a mapping of str to float",
        ),
        ("data=DataConfig(policy=0.5)", "data.policy: 0.5 is not a PolicyConfig"),
        ("model=TrainConfig()", "model: TrainConfig("),
    ],
)
def test_an_ill_typed_value_in_a_file_names_field_value_and_type(tmp_path: Path, section: str, expected: str) -> None:
    path = write(tmp_path, f"config = Config({section})")
    assert error_line(path).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("config = Config(", ":2: '(' was never closed"),
        ("x = 1\nconfig = Confog()", ":3: NameError: name 'Confog' is not defined"),
        ("settings = Config()", ": defines no Config under the name `config`"),
    ],
)
def test_a_file_that_does_not_run_gives_one_line_with_its_line_number(tmp_path: Path, body: str, expected: str) -> None:
    path = write(tmp_path, body)
    assert error_line(path).startswith(f"{path}{expected}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.py"
    assert error_line(path) == f"{path}: there is no such configuration file"


# Overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batch_size=64", 64),
        ("train.duration=10 epochs", "10 epochs"),
        ("data.root=../a=b", "../a=b"),
        ("data.tokenizer=", ""),
        ("data.tokenizer=1000", "1000"),
        ("optimizer.learning_rate=1e-3", 0.001),
        ("optimizer.clip_norm=2", 2.0),
        ("regions.outlines=true", True),
        ("regions.outlines=False", False),
        ("model.remat=dots", "dots"),
        ("data.source=phantom", "phantom"),
        ("mesh.data=-1", -1),
        ("regions.encoders=crop,loc", ("crop", "loc")),
        ("regions.encoders=[crop, loc]", ("crop", "loc")),
        ('regions.encoders=("crop", "loc")', ("crop", "loc")),
        ('regions.encoders=("crop",)', ("crop",)),
        ("regions.encoders=loc", ("loc",)),
        ("regions.encoders=", ()),
        ("regions.encoders=()", ()),
        ("data.languages=en,no", ("en", "no")),  # YAML's usual loaders read this "no" as False
        ("optimizer.trainable=roi/.*,img/head/.*", ("roi/.*", "img/head/.*")),
        ('data.families={"identify": 1, "vqa": 1e-1}', {"identify": 1.0, "vqa": 0.1}),
        ("data.families={identify: 1}", {"identify": 1.0}),
        ("data.policy.shown_by_family.identify=0.9", 0.9),
        ("data.prompt.detect=find {question}", "find {question}"),
    ],
)
def test_an_override_is_read_as_its_field_declares(plain: Path, override: str, expected: Any) -> None:
    value: Any = load_config(plain, [f"--config.{override}"])
    for name in override.partition("=")[0].split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_an_override_changes_nothing_else(plain: Path) -> None:
    changed = load_config(plain, ["--config.data.families.identify=0.9", "--config.seed=7"])
    assert differences(to_json(load_config(plain)), to_json(changed)) == ["data.families.identify", "seed"]


def test_the_last_of_two_overrides_wins(plain: Path) -> None:
    assert load_config(plain, ["--config.seed=1", "--config.seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.train.batchsize=8", "unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("--config.trian.batch_size=8", "unknown key 'trian'; did you mean 'train'?"),
        ("--config.learning_rate=1", "unknown key 'learning_rate'; did you mean 'optimizer.learning_rate'?"),
        ("--config.mesh.zzz=1", "unknown key 'zzz'; valid here: data, fsdp, tensor, slices"),
        ("--config.train=1", "'train' is a section; set one of its fields (duration, batch_size,"),
        ("--config.train.batch_size.x=1", "there is nothing inside a field of type int, so no 'x'"),
        ("--config.train.batch_size=many", "'many' is not int: "),
        ("--config.train.batch_size=8.5", "'8.5' is not int: "),
        ("--config.regions.outlines=maybe", "'maybe' is not bool: "),
        ("--config.data.policy.wrong=inf", "'inf' is not float: "),
        ("--config.regions.encoders=crop,zoom", "['crop', 'zoom'] is not a tuple of "),
        ("--config.regions.encoders=[crop", "not readable as a tuple of "),
        ("--config.data.families=identify", "'identify' is not a mapping of str to float: "),
        ("--config.data.families={identify: much}", "{'identify': 'much'} is not a mapping of str to float"),
        ("--config.train.batch_size", "an override is written --config.section.field=value"),
        ("train.batch_size=8", "an override is written --config.section.field=value"),
    ],
)
def test_a_wrong_override_is_repeated_with_its_remedy(plain: Path, override: str, expected: str) -> None:
    assert error_line(plain, override).startswith(f"{override}: {expected}")


# JSON


def test_json_and_back_is_the_same_configuration(plain: Path) -> None:
    config = load_config(plain, ["--config.regions.encoders=crop,loc", "--config.data.policy.wrong=0.3"])
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("section", [None, *(field.name for field in dataclasses.fields(Config))])
def test_json_and_back_keeps_every_field(section: str | None) -> None:
    values = to_json(Config())
    if section is None:
        assert list(values) == [field.name for field in dataclasses.fields(Config)]
    elif isinstance(values[section], dict):
        assert list(values[section]) == [field.name for field in dataclasses.fields(getattr(Config(), section))]


def test_json_with_an_unknown_key_is_refused() -> None:
    values = to_json(Config())
    values["data"]["policy"]["show"] = 1.0
    with pytest.raises(ConfigError, match=r"^run/config\.json: unknown key 'data\.policy\.show'; did you mean 'shown'"):
        from_json(values, where="run/config.json")


def test_json_without_a_key_is_refused_and_not_filled_with_the_default() -> None:
    values = to_json(Config())
    del values["train"]["accumulate"]
    with pytest.raises(ConfigError, match=r"^config\.json: train\.accumulate is missing"):
        from_json(values)


def test_json_with_an_ill_typed_value_is_refused() -> None:
    values = to_json(Config())
    values["train"]["accumulate"] = "2"
    with pytest.raises(ConfigError, match=r"^config\.json: train\.accumulate: '2' is not int"):
        from_json(values)


def test_differences_of_equal_configurations_are_none() -> None:
    assert differences(to_json(Config()), to_json(Config())) == []


def test_differences_are_dotted_names_and_include_what_only_one_side_has() -> None:
    old = to_json(Config(data=DataConfig(families={"vqa": 1.0})))
    new = to_json(Config(data=DataConfig(families={"identify": 1.0}), regions=RegionConfig(encoders=("loc",))))
    del new["mesh"]["fsdp"]
    expected = ["regions.encoders", "data.families.vqa", "mesh.fsdp", "data.families.identify"]
    assert differences(old, new) == expected


# What must hold between settings


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
        validate(config)
    assert str(error.value).startswith(f"{field}: ")
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
    validate(config)


def test_loading_validates_and_repeats_file_and_overrides(plain: Path) -> None:
    line = error_line(plain, "--config.train.accumulate=3")
    assert line.startswith(f"{plain} --config.train.accumulate=3: train.batch_size: 16 is not possible; ")


@pytest.mark.parametrize(
    ("regions", "field"),
    [(RegionConfig(crop_size=100), "regions.crop_size"), (RegionConfig(crop_size=28, tokens=16), "regions.tokens")],
)
def test_a_crop_that_does_not_fit_the_patches_is_refused(regions: RegionConfig, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        validate_patches(Config(regions=regions), patch=14)


def test_the_crop_size_is_free_when_nothing_is_cropped() -> None:
    validate_patches(Config(regions=RegionConfig(encoders=("align",), crop_size=100)), patch=14)
    validate_patches(replace(Config(), regions=RegionConfig(crop_size=56, tokens=16)), patch=14)


def test_reading_a_configuration_does_not_import_jax() -> None:
    code = "import sys, rllava_jax.config_loading; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_configuration_of_version_0_1_0_means_what_it_meant() -> None:
    values = to_json(Config())
    for added in ("init", "lora"):
        del values[added]
    for section, names in {
        "model": ("dimensions", "vocab", "layers", "attention"),
        "optimizer": ("name", "learning_rate_scale", "moment_dtype", "weight_decay_scale", "ema"),
        "train": (
            "label_smoothing",
            "z_loss",
            "loss_chunk",
            "on_bad_step",
            "spike_factor",
            "max_skipped",
            "data_wait_warning",
            "stall_seconds",
            "compilation_cache",
        ),
        "data": ("mix", "mix_temperature", "window", "long_examples_allowed", "documents"),
        "mesh": ("tensor", "slices"),
    }.items():
        for added in names:
            del values[section][added]
    del values["data"]["prompt"]["caption"]
    values["model"]["remat"] = True
    # What its defaults were, written out as every stored configuration is.
    values["model"]["frozen_dtype"] = "float32"
    values["optimizer"] |= {"trainable": [".*"], "weight_decay_on": ["(img|roi)/.*kernel"]}
    config = from_json(upgraded(values))
    assert (config.init.checkpoint, config.lora.rank, config.model.vocab) == ("", 0, 0)
    assert config.optimizer.trainable == (".*",)
    assert (config.data.mix, config.data.prompt) == ({}, DataConfig().prompt)
    assert (config.model.remat, config.mesh, config.train.on_bad_step) == ("full", MeshConfig(), "stop")
    with pytest.raises(ConfigError, match="model is missing"):
        from_json({key: value for key, value in to_json(Config()).items() if key != "model"})


def test_a_custom_size_is_complete_and_whole(tmp_path: Path) -> None:
    numbers = dimensions_of(SIZES["tiny"])
    assert model_size(ModelConfig("custom", numbers, vocab=2176)) == SIZES["tiny"]
    with pytest.raises(ConfigError, match=r"lacks 'vision\.width'"):
        model_size(ModelConfig("custom", {key: value for key, value in numbers.items() if key != "vision.width"}))
    with pytest.raises(ConfigError, match=r"unknown 'vision\.wide'"):
        model_size(ModelConfig("custom", {**numbers, "vision.wide": 3}))
    with pytest.raises(ConfigError, match=r"decoder\.heads = 2\.5 is no whole number"):
        model_size(ModelConfig("custom", {**numbers, "decoder.heads": 2.5}))


# Mixes

MIX = """
config = Config(data=DataConfig(mix={
    "slake": MixPart(source="slake", root="slake", policy=PolicyConfig()),
    "drawn": MixPart(anneal=((0.8, 0), (1, 0.5))),
}))
"""


def test_the_parts_of_a_mix_are_read_overridden_and_recorded(tmp_path: Path) -> None:
    changes = ["slake.weight=2", "slake.policy.shown=0.5", "slake.families={vqa: 1}", "drawn.anneal=[[0, 1], [1, 0]]"]
    config = load_config(write(tmp_path, MIX), [f"--config.data.mix.{change}" for change in changes])
    slake, drawn = config.data.mix.values()
    assert (slake.weight, slake.families, drawn.anneal) == (2.0, {"vqa": 1.0}, ((0.0, 1.0), (1.0, 0.0)))
    assert slake.policy is not None
    assert slake.policy.shown == 0.5
    assert drawn.policy is None
    assert from_json(to_json(config)) == config
    assert differences(to_json(load_config(write(tmp_path, MIX))), to_json(config)) == [
        "data.mix.slake.families",
        "data.mix.slake.weight",
        "data.mix.slake.policy.shown",
        "data.mix.drawn.anneal",
        "data.mix.slake.families.vqa",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mix.slak.weight=1", "unknown key 'slak'; did you mean 'slake'?"),
        ("mix.slake.wieght=1", "unknown key 'wieght'; did you mean 'weight'?"),
        ("mix.drawn.policy.shown=0", "there is no PolicyConfig here"),
        ("mix=1", "a mapping of sections; set a field of one of them (slake, drawn)"),
        ("mix.slake=1", "'slake' is a section"),
        ("mix.drawn.anneal=[[1]]", "is not a tuple of a tuple of float and float"),
        ("mix.drawn.anneal=[[1, 2], [0.5, 1]]", "in the order of the run"),
        ("mix.drawn.anneal=[[2, 2]]", "a share between 0 and 1"),
        ("mix.slake.root=", "slake needs the folder of its published files: --config.data.mix.slake.root=DIR"),
        ("mix.slake.weight=-1", "data.mix.slake.weight: -1.0"),
        ("mix.drawn.weight=2", "data.mix.drawn.weight: 2.0 is not possible; anneal takes its place"),
        ("mix.slake.policy.wrong=2", "data.mix.slake.policy.wrong: 2.0"),
        ("mix.slake.families={vqa: 0}", "data.mix.slake.families: {'vqa': 0.0}"),
        ("mix.slake.source=slak", "did you mean 'slake'?"),
    ],
)
def test_what_is_wrong_in_a_mix_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in error_line(write(tmp_path, MIX), f"--config.data.{override}")


def test_a_mix_of_no_weight_and_a_temperature_without_a_mix_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MIX)
    temperature = "--config.data.mix_temperature=2"
    none = ["--config.data.mix.slake.weight=0", "--config.data.mix.drawn.anneal="]
    assert "data.mix" in error_line(path, *none, "--config.data.mix.drawn.weight=0")
    assert "data.mix_temperature: 2.0" in error_line(write(tmp_path, "config = Config()"), temperature)
