"""A leading ~ is the home folder in every option and every setting that names a file or a folder."""

import argparse
import dataclasses
import importlib
import typing

import pytest
from expected_errors import refused

from data_pipelines.core.command_line import Parser, file_or_folder
from data_pipelines.core.errors import ConfigError
from rllava_jax.__main__ import COMMANDS
from rllava_jax.config import Config, loading, stored
from rllava_jax.config.stored import entries_of, section_of

# How the help calls what names a file or a folder.
PLACES = {"DIR", "FILE", "FILE|DIR", "RUN_A", "RUN_B", "RUN_DIR", "SOURCE", "DESTINATION", "CHECKPOINT"}
MODULES = [*(module for module, _ in COMMANDS.values()), "rllava_jax.report.summary"]
SETTINGS = ("data.root", "data.mix.part.root", "data.tokenizer", "init.checkpoint", "train.compilation_cache")


class Caught(Exception):
    """Has the parser that a command made."""


def parsers_of(module, monkeypatch):
    """The parser of a command, and those of its sub-commands."""

    def catch(parser, *_, **__):
        raise Caught(parser)

    monkeypatch.setitem(module.main.__globals__, "run_command", catch)
    with pytest.raises(Caught) as caught:
        module.main([])
    waiting, found = [caught.value.args[0]], []
    while waiting:
        parser = waiting.pop()
        assert isinstance(parser, Parser)
        found.append(parser)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_option_that_names_a_file_takes_the_home_folder(name, monkeypatch):
    places = 0
    for parser in parsers_of(importlib.import_module(name), monkeypatch):
        for action in parser._actions:
            said = f"{parser.prog} {'/'.join(action.option_strings) or action.dest} {action.metavar}"
            words = set((action.help or "").lower().replace(",", " ").split()[:3])
            if PLACES & ({action.metavar} if isinstance(action.metavar, str) else {*(action.metavar or ())}):
                places += 1
                assert action.type is file_or_folder, said
            elif action.nargs != 0 and action.type is None and action.choices is None:
                assert not words & {"file", "folder", "directory", "path"}, f"{said}: name it DIR or FILE"
    assert places


@pytest.mark.parametrize(
    ("given", "meant"),
    [("~/runs", "HOME/runs"), ("~", "HOME"), ("a/~", "a/~"), ("./~", "./~"), ("gs://b/~", "gs://b/~"), ("", "")],
)
def test_the_home_folder_stands_for_a_leading_tilde(given, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    assert file_or_folder(given) == meant.replace("HOME", "/somebody")


def test_an_option_names_no_home_folder_of_nobody():
    parser = Parser()
    parser.add_argument("--out", type=file_or_folder)
    with refused(ConfigError, "option.invalid-value", "--out", "~nobody-here"):
        parser.parse_args(["--out=~nobody-here/x"])


def settings_of(section, prefix=""):
    """Dotted name and annotation of every setting; `part` stands for the name of an entry."""
    hints = typing.get_type_hints(section, include_extras=True)
    for field in dataclasses.fields(section):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        inner = section_of(hint)
        entries = entries_of(hint)
        if inner:
            yield from settings_of(inner, f"{name}.")
        elif entries and section_of(entries):
            yield from settings_of(section_of(entries), f"{name}.part.")
        else:
            yield name, hint


def test_the_settings_that_name_files_are_all_of_one_type():
    marked = [name for name, hint in settings_of(Config) if "expanded" in repr(hint)]
    assert sorted(marked) == sorted(SETTINGS)
    suspicious = {"root", "checkpoint", "tokenizer", "cache", "path", "dir", "file", "folder", "out", "workdir"}
    for name, hint in settings_of(Config):
        if name.replace("_", ".").split(".")[-1] in suspicious and "str" in repr(hint):
            assert name in SETTINGS, name


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_names_a_file_takes_the_home_folder(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "config.py"
    file.write_text(
        "from rllava_jax.config import Config, DataConfig, MixPart\n"
        "config = Config(data=DataConfig(mix={'part': MixPart(), 'other': MixPart()}))\n"
    )
    config = loading.load(file, [f"--config.{setting}=~/x"])
    assert value_of(config, setting) == str(tmp_path / "x")
    in_file = file.read_text() + f"from dataclasses import replace\n{assignment(setting)}\n"
    file.write_text(in_file)
    assert value_of(loading.load(file), setting) == str(tmp_path / "x")
    with refused(ConfigError, "config.invalid-value", setting.split(".")[-1], "~nobody-here"):
        loading.load(file, [f"--config.{setting}=~nobody-here/x"])
    assert stored.to_json(config) == stored.to_json(stored.from_json(stored.to_json(config), where="stored"))


def value_of(config, setting):
    value = config
    for name in setting.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def assignment(setting):
    section, *rest = setting.split(".")
    if rest[0] == "mix":
        return "config = replace(config, data=replace(config.data, mix={'part': MixPart(root='~/x')}))"
    return f"config = replace(config, {section}=replace(config.{section}, {rest[0]}='~/x'))"
