"""Configuration files and overrides: what is accepted, and the one line that each mistake gives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from config_files import error_line, write

from rllava_jax.config import Config, ConfigError, DataConfig, RegionConfig, TrainConfig
from rllava_jax.config.loading import differences, from_json, load, load_config, to_json

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file that changes one setting."""
    return write(tmp_path, "config = Config(train=TrainConfig(batch_size=16))")


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


def test_reading_a_configuration_does_not_import_jax() -> None:
    code = "import sys, rllava_jax.config.loading; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_json_without_a_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="model is missing"):
        from_json({key: value for key, value in to_json(Config()).items() if key != "model"})
