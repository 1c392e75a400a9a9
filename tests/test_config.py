"""Configuration files and overrides: what is accepted, and the one line that each mistake gives."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from config_files import assert_refused, write
from expected_errors import refused

from data_pipelines.settings import Effect
from rllava_jax.config import Config, ConfigError, DataConfig, MeshConfig, RegionConfig, TrainConfig
from rllava_jax.config.loading import load
from rllava_jax.config.stored import changed, effect_of, from_json, to_json

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file that changes one setting."""
    return write(tmp_path, "config = Config(train=TrainConfig(batch_size=16))")


# Files


def test_a_file_gives_its_values_and_the_defaults_of_the_rest(plain: Path) -> None:
    assert load(plain) == Config(train=TrainConfig(batch_size=16))


def test_every_configuration_of_the_repository_loads() -> None:
    assert CONFIGS
    for path in CONFIGS:
        overrides = ["--config.data.root=somewhere"]
        if 'size="checkpoint"' in path.read_text():
            with refused(ConfigError, "config.conflict", "--config.init.checkpoint=DIR"):
                load(path, overrides)
            overrides.append("--config.init.checkpoint=elsewhere")
        load(path, overrides)


def test_a_list_in_a_file_becomes_the_tuple_that_the_field_declares(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'config = Config(regions=RegionConfig(encoders=["crop", "loc"]))'))
    assert config.regions.encoders == ("crop", "loc")


def test_an_unknown_keyword_in_a_file_names_line_and_nearest_field(tmp_path: Path) -> None:
    path = write(tmp_path, "train = TrainConfig(batch_sise=8)\nconfig = Config(train=train)")
    assert_refused(path, "config.unknown-field", f"{path}:2: ", "TrainConfig", "'batch_sise'", "'batch_size'")


def test_an_unknown_keyword_of_another_section_names_that_section(tmp_path: Path) -> None:
    path = write(tmp_path, "config = Config(learning_rate=1e-3)")
    assert_refused(path, "config.unknown-field", f"{path}:2: ", "'learning_rate'", "'optimizer.learning_rate'")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ('train=TrainConfig(batch_size="8")', "train.batch_size", "'8'"),
        ("train=TrainConfig(batch_size=8.5)", "train.batch_size", "8.5"),
        ("train=TrainConfig(batch_size=True)", "train.batch_size", "True"),
        ("regions=RegionConfig(outlines=1)", "regions.outlines", "1"),
        ("data=DataConfig(root=object)", "data.root", "<class 'object'>"),
        ('optimizer=OptimizerConfig(learning_rate=float("nan"))', "optimizer.learning_rate", "nan"),
        ('regions=RegionConfig(encoders="crop")', "regions.encoders", "'crop'"),
        ('regions=RegionConfig(encoders=("crop", 2))', "regions.encoders", "2"),
        ('data=DataConfig(families={"vqa": "much"})', "data.families.vqa", "'much'"),
        ("data=DataConfig(policy=0.5)", "data.policy", "0.5"),
        ("data=DataConfig(mix=3)", "data.mix", "3"),
    ],
)
def test_an_ill_typed_value_in_a_file_names_field_and_value(
    tmp_path: Path, section: str, field: str, value: str
) -> None:
    path = write(tmp_path, f"config = Config({section})")
    assert_refused(path, "config.invalid-value", f"{path}: {field}", value)


def test_a_section_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "config = Config(model=TrainConfig())")
    assert_refused(path, "config.unknown-field", f"{path}: ", "model.duration")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("config = Config(", ":2: "),
        ("x = 1\nconfig = Confog()", ":3: NameError: name 'Confog'"),
        ("settings = Config()", "`config`"),
    ],
)
def test_a_file_that_does_not_run_gives_one_line_with_its_line_number(tmp_path: Path, body: str, expected: str) -> None:
    path = write(tmp_path, body)
    assert_refused(path, "config.file-fails", str(path), expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.py"
    assert_refused(path, "file.missing", str(path))


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
    value: Any = load(plain, [f"--config.{override}"])
    for name in override.partition("=")[0].split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_an_override_changes_nothing_else(plain: Path) -> None:
    other = load(plain, ["--config.data.families.identify=0.9", "--config.seed=7"])
    assert changed(to_json(load(plain)), to_json(other)) == ["data.families.identify", "seed"]


def test_the_last_of_two_overrides_wins(plain: Path) -> None:
    assert load(plain, ["--config.seed=1", "--config.seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "code", "named"),
    [
        ("train.batchsize=8", "config.unknown-field", "'batch_size'"),
        ("trian.batch_size=8", "config.unknown-field", "'train'"),
        ("learning_rate=1", "config.unknown-field", "'optimizer.learning_rate'"),
        ("mesh.zzz=1", "config.unknown-field", "data, fsdp, tensor, slices"),
        ("train=1", "config.invalid-override", "duration, batch_size,"),
        ("train.batch_size.x=1", "config.unknown-field", "'x'"),
        ("train.batch_size=many", "config.invalid-value", "'many'"),
        ("train.batch_size=8.5", "config.invalid-value", "'8.5'"),
        ("train.batch_size=0", "config.invalid-value", "greater than 0"),
        ("regions.outlines=maybe", "config.invalid-value", "'maybe'"),
        ("data.policy.wrong=inf", "config.invalid-value", "'inf'"),
        ("regions.encoders=[crop", "config.invalid-value", "tuple"),
        ("data.families=identify", "config.invalid-value", "'identify'"),
        ("data.families={identify: much}", "config.invalid-value", "identify: 'much'"),
        ("train.batch_size", "config.invalid-override", "--config.section.field=value"),
    ],
)
def test_a_wrong_override_is_repeated_with_its_remedy(plain: Path, override: str, code: str, named: str) -> None:
    override = f"--config.{override}"
    assert_refused(plain, code, f"{override}: ", named, overrides=(override,))


@pytest.mark.parametrize(("name", "remedy"), [("crp", "'crop'"), ("zoom", "crop, align, overlay, loc")])
def test_a_region_encoder_that_nobody_registered_is_named_with_its_remedy(plain: Path, name: str, remedy: str) -> None:
    override = f"--config.regions.encoders=crop,{name}"
    assert_refused(plain, "config.invalid-value", "regions.encoders", repr(name), remedy, overrides=(override,))


def test_an_argument_that_is_not_an_override_is_refused(plain: Path) -> None:
    override = "train.batch_size=8"
    assert_refused(plain, "config.invalid-override", f"{override}: ", "--config.section", overrides=(override,))


# JSON


def test_json_and_back_is_the_same_configuration(plain: Path) -> None:
    config = load(plain, ["--config.regions.encoders=crop,loc", "--config.data.policy.wrong=0.3"])
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
    with refused(ConfigError, "config.unknown-field", "run/config.json: ", "'data.policy.show'", "'shown'"):
        from_json(values, where="run/config.json")


def test_a_setting_that_was_added_since_takes_its_default_and_the_log_names_it(caplog) -> None:
    config = Config(train=TrainConfig(batch_size=8), data=DataConfig(source="phantom"))
    values = to_json(config)
    del values["train"]["accumulate"], values["data"]["policy"]["wrong"]
    with caplog.at_level(logging.INFO):
        assert from_json(values) == config
    assert "train.accumulate" in caplog.text
    assert "data.policy.wrong" in caplog.text


def test_json_with_an_ill_typed_value_is_refused() -> None:
    values = to_json(Config())
    values["train"]["accumulate"] = "2"
    with refused(ConfigError, "config.invalid-value", "config.json: train.accumulate: '2'"):
        from_json(values)


def test_differences_of_equal_configurations_are_none() -> None:
    assert changed(to_json(Config()), to_json(Config())) == []


def test_differences_are_dotted_names_and_include_what_only_one_side_has() -> None:
    old = to_json(Config(data=DataConfig(families={"vqa": 1.0})))
    new = to_json(Config(data=DataConfig(families={"identify": 1.0}), regions=RegionConfig(encoders=("loc",))))
    del new["mesh"]["fsdp"]
    expected = ["regions.encoders", "data.families.vqa", "mesh.fsdp", "data.families.identify"]
    assert changed(old, new) == expected


def test_reading_a_configuration_does_not_import_jax() -> None:
    code = "import sys, rllava_jax.config.loading; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_json_without_a_section_is_refused() -> None:
    with refused(ConfigError, "config.missing-field", "config.json: model.size"):
        from_json({key: value for key, value in to_json(Config()).items() if key != "model"})


def test_what_a_resumed_or_compared_run_may_differ_in_is_declared_at_the_field() -> None:
    assert effect_of("train.batch_size") is None
    assert effect_of("train.duration") is Effect.SCALE
    assert effect_of("mesh.fsdp") is Effect.NOTHING
    assert effect_of("data.mix.any.root") is Effect.NOTHING
    assert effect_of("data.mix.any.weight") is None
    assert effect_of("evaluation.bootstrap") is Effect.EVALUATION
    assert effect_of("evaluation.gallery") is Effect.NOTHING
    assert effect_of("model.dimensions.vision.width") is Effect.SCALE
    old, new = to_json(Config()), to_json(Config(seed=1, mesh=MeshConfig(fsdp=8)))
    assert changed(old, new) == ["mesh.fsdp", "seed"]
    assert changed(old, new, besides=(Effect.NOTHING,)) == ["seed"]
