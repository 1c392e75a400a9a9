"""Reads a configuration file and its command-line overrides into a checked `Config`, and to and from JSON.

A configuration file is Python that leaves a `Config`, or a `Curriculum` of several, under the name `config`; overrides
are `--config.a.b=value`.
Every value is checked against the annotation of its field, because a dataclass does not check its arguments.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import runpy
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from data_pipelines.core.errors import ConfigError
from data_pipelines.core.paths import local_path
from rllava_jax import config as config_module
from rllava_jax.config import Config, Curriculum, Stage
from rllava_jax.config.curriculum import check_stages, stage_configs
from rllava_jax.config.validation import validate

OVERRIDE_PREFIX = "--config."
_STAGE_PREFIX = f"{OVERRIDE_PREFIX}stages."


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, placeholders: Mapping[str, str] | None = None
) -> Config:
    """Executes the file, applies the overrides in order, and checks the result (`config_validation.validate`).

    The value of an override is written as its field's type wants it: `--config.train.batch_size=64`,
    `--config.data.root=DIR`, `--config.regions.encoders=crop,loc` (a tuple; empty for none),
    `--config.data.families='{identify: 1, vqa: 2}'` (replaces the whole mapping) or
    `--config.data.families.identify=1` (sets one entry).

    Args:
      placeholders: dotted key → what stands for it where it is left empty and would be asked for (a data set's root,
        a checkpoint that names the size): a plan needs neither.

    Raises:
      ConfigError: the file cannot be run or defines no Config; or a key is unknown (the nearest valid one is named);
        or a value has the wrong type or contradicts another.
    """
    loaded = load(path, overrides, placeholders=placeholders)
    if isinstance(loaded, Curriculum):
        raise ConfigError(f"{path}: defines stages ({', '.join(loaded.stages)}); one run is wanted here")
    return loaded


def load(
    path: str | Path, overrides: Sequence[str] = (), *, placeholders: Mapping[str, str] | None = None
) -> Config | Curriculum:
    """As `load_config`, of a file that may define a curriculum.

    There an override holds for every stage, and `--config.stages.NAME.train.batch_size=64` for one of them, over the
    former; `--config.stages.NAME.evaluate=true` sets a field of the stage itself.
    """
    defined = _execute(local_path(path, what="--config"))
    if isinstance(defined, Config):
        config = _overridden(to_json(defined, where=str(path)), overrides, placeholders or {}, str(path))
        _validate(config, f"{' '.join([str(path), *overrides])}: ")
        return config
    for override in overrides:
        if override.partition("=")[0] == _STAGE_PREFIX.removesuffix("."):
            names = ", ".join(defined.stages)
            raise ConfigError(
                f"{override}: set a field of one stage, {_STAGE_PREFIX}NAME.SECTION.FIELD=VALUE ({names})"
            )
    stages = _section_to_json(defined, Curriculum, "", str(path))["stages"]
    for_one = [override for override in overrides if override.startswith(_STAGE_PREFIX)]
    for_all = [override for override in overrides if override not in for_one]
    for values in stages.values():
        for override in for_all:
            _apply_override(values["config"], override)
    for override in for_one:
        _apply_to_stage(stages, override)
    curriculum = Curriculum(
        {
            name: Stage(
                **{**values, "config": _overridden(values["config"], (), placeholders or {}, f"{path}: {name}")}
            )
            for name, values in stages.items()
        }
    )
    check_stages(curriculum, where=str(path))
    for name, config in stage_configs(curriculum, Path("WORKDIR")).items():
        _validate(config, f"{' '.join([str(path), *overrides])}: stages.{name}: ")
    return curriculum


def overridden(config: Config, overrides: Sequence[str], *, where: str) -> Config:
    """A stored configuration with overrides as of `load_config`, checked; error lines begin with `where`."""
    changed = _overridden(to_json(config), overrides, {}, where)
    _validate(changed, f"{' '.join([where, *overrides])}: ")
    return changed


def _overridden(
    values: dict[str, Any], overrides: Sequence[str], placeholders: Mapping[str, str], where: str
) -> Config:
    for override in overrides:
        _apply_override(values, override)
    for key, value in placeholders.items():
        section, field = key.split(".")
        if not values[section][field] and (section != "init" or values["model"]["size"] == "checkpoint"):
            values[section][field] = value
        if key == "data.root":
            for part in values["data"]["mix"].values():
                part["root"] = part["root"] or value
    return from_json(values, where=where)


def _validate(config: Config, where: str) -> None:
    try:
        validate(config)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def _apply_to_stage(stages: Mapping[str, dict[str, Any]], override: str) -> None:
    name, _, rest = override.removeprefix(_STAGE_PREFIX).partition(".")
    if name not in stages:
        raise ConfigError(f"{override}: unknown stage {name!r}; {_nearest(name, list(stages))}")
    key = re.split("[.=]", rest, maxsplit=1)[0]
    of_stage = key in _hints(Stage) and key != "config"
    values = stages[name] if of_stage else stages[name]["config"]
    _apply_override(values, OVERRIDE_PREFIX + rest, Stage if of_stage else Config, said=override)


def to_json(config: Config, *, where: str = "config") -> dict[str, Any]:
    """Returns the configuration as JSON-ready nested dicts, with lists in place of tuples.

    Raises:
      ConfigError: a value does not have the type that its field declares; the line begins with `where`.
    """
    return _section_to_json(config, Config, "", where)


def from_json(values: Mapping[str, Any], *, where: str = "config.json") -> Config:
    """Builds the Config that `to_json` wrote. Every field must be there: a default would hide a difference.

    Raises:
      ConfigError: an unknown, missing or ill-typed key; the line begins with `where`.
    """
    return _section_from_json(values, Config, "", where)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the dotted names whose values differ between two results of `to_json`, or that only one of them has."""
    old_leaves, new_leaves = dict(_leaves(old)), dict(_leaves(new))
    missing = object()
    names = dict.fromkeys([*old_leaves, *new_leaves])
    return [name for name in names if old_leaves.get(name, missing) != new_leaves.get(name, missing)]


def stage_names(path: str | Path) -> list[str]:
    """The stages that a configuration file defines; none for a single run. Raises as `load_config`."""
    defined = _execute(local_path(path, what="--config"))
    return list(defined.stages) if isinstance(defined, Curriculum) else []


def _execute(path: Path) -> Config | Curriculum:
    """Runs a configuration file; whatever goes wrong in it becomes one line with the file's line number."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such configuration file")
    try:
        namespace = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        in_file = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f"{path}:{in_file[-1]}" if in_file else str(path)
        raise ConfigError(f"{line}: {_explain(error)}") from error
    config = namespace.get("config")
    if not isinstance(config, Config | Curriculum):
        raise ConfigError(f"{path}: defines no Config under the name `config`, but {config!r}")
    return config


def _explain(error: Exception) -> str:
    """Turns Python's complaint about an unknown keyword into one that names the nearest field."""
    unknown = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    section = getattr(config_module, unknown[1], None) if unknown else None
    if unknown and dataclasses.is_dataclass(section):
        fields = [field.name for field in dataclasses.fields(section)]
        return f"{unknown[1]} has no field {unknown[2]!r}; {_nearest(unknown[2], fields)}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _apply_override(values: dict[str, Any], override: str, section: type = Config, *, said: str = "") -> None:
    """Sets one value inside `values`, the nested dicts of a section; `said` is what the user wrote, for messages."""
    name, equals, text = override.partition("=")
    override = said or override
    if not name.startswith(OVERRIDE_PREFIX) or not equals:
        raise ConfigError(f"{override}: an override is written {OVERRIDE_PREFIX}section.field=value")
    *sections, last = name.removeprefix(OVERRIDE_PREFIX).split(".")
    annotation: Any = section
    for key in sections:
        annotation = _annotation_of(annotation, key, values, override)
        values = values[key]
    annotation = _annotation_of(annotation, last, values, override)
    if inner := _section_type(annotation):
        names = ", ".join(field.name for field in dataclasses.fields(inner))
        raise ConfigError(f"{override}: {last!r} is a section; set one of its fields ({names})")
    if _section_type(_entries(annotation)):
        names = ", ".join(values[last]) or "none: the configuration file names them"
        raise ConfigError(f"{override}: {last!r} is a mapping of sections; set a field of one of them ({names})")
    values[last] = _checked(_parse(text, annotation, override), annotation, override, strict=False)


def _annotation_of(annotation: Any, key: str, values: Mapping[str, Any] | None, override: str) -> Any:
    """Returns the type of entry `key` of a section or of a dict field, whose values are `values`."""
    if section := _section_type(annotation):
        hints = _hints(section)
        if key not in hints:
            raise ConfigError(f"{override}: unknown key {key!r}; {_nearest(key, list(hints))}")
        if values is None:
            raise ConfigError(f"{override}: there is no {section.__name__} here to set a field of; give the file one")
        return hints[key]
    if entry := _entries(annotation):
        if _section_type(entry) and key not in (values or {}):
            raise ConfigError(f"{override}: unknown key {key!r}; {_nearest(key, list(values or {}))}")
        return entry
    raise ConfigError(f"{override}: there is nothing inside a field of type {_describe(annotation)}, so no {key!r}")


def _section_type(annotation: Any) -> type | None:
    """The dataclass that a field holds, or may hold beside None; None where it holds something else."""
    if typing.get_origin(annotation) is types.UnionType:
        annotation = typing.get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) else None


def _entries(annotation: Any) -> Any:
    """The type of a mapping's values; None for what is no mapping."""
    return typing.get_args(annotation)[1] if typing.get_origin(annotation) is dict else None


def _parse(text: str, annotation: Any, override: str) -> Any:
    """Splits the text of a tuple or dict by YAML's flow syntax, of which JSON is a part; all leaves stay text.

    YAML's base loader leaves `1e-3` and `no` alone, which its usual loaders turn into a string and a False.
    """
    origin = typing.get_origin(annotation)
    if origin not in (tuple, dict):
        return text
    text = text.strip()
    if origin is tuple and not text.startswith("["):
        text = f"[{text[1:-1] if text.startswith('(') and text.endswith(')') else text}]"
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{override}: not readable as {_describe(annotation)}: {reason}") from None


def _section_to_json(section: Any, cls: type, name: str, where: str) -> dict[str, Any]:
    if not isinstance(section, cls):
        raise ConfigError(f"{where}: {name}: {section!r} is not a {cls.__name__}")
    return {
        key: _value_to_json(getattr(section, key), annotation, f"{name}.{key}".lstrip("."), where)
        for key, annotation in _hints(cls).items()
    }


def _value_to_json(value: Any, annotation: Any, name: str, where: str) -> Any:
    if section := _section_type(annotation):
        if value is None and section is not annotation:
            return None
        return _section_to_json(value, section, name, where)
    entry = _entries(annotation)
    if _section_type(entry):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{where}: {name}: {value!r} is not {_describe(annotation)}")
        return {key: _value_to_json(item, entry, f"{name}.{key}", where) for key, item in value.items()}
    return _jsonable(value, annotation, f"{where}: {name}")


def _jsonable(value: Any, annotation: Any, where: str) -> Any:
    try:
        plain = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {value!r} is not {_describe(annotation)}") from None
    return json.loads(json.dumps(_checked(plain, annotation, where, strict=True)))


def _section_from_json(values: Any, cls: type, name: str, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {name or 'the configuration'}: {values!r} is not a mapping of {cls.__name__}")
    hints = _hints(cls)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {f'{name}.{key}'.lstrip('.')!r}; {_nearest(key, list(hints))}")
    arguments = {}
    for key, annotation in hints.items():
        dotted = f"{name}.{key}".lstrip(".")
        if key not in values:
            raise ConfigError(f"{where}: {dotted} is missing; was it written by another version of the code?")
        arguments[key] = _value_from_json(values[key], annotation, dotted, where)
    return cls(**arguments)


def _value_from_json(value: Any, annotation: Any, name: str, where: str) -> Any:
    if section := _section_type(annotation):
        if value is None and section is not annotation:
            return None
        return _section_from_json(value, section, name, where)
    entry = _entries(annotation)
    if _section_type(entry):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {name}: {value!r} is not {_describe(annotation)}")
        return {key: _value_from_json(item, entry, f"{name}.{key}", where) for key, item in value.items()}
    return _checked(value, annotation, f"{where}: {name}", strict=True)


@cache
def _adapter(annotation: Any, strict: bool) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(strict=strict, allow_inf_nan=False))


def _checked(value: Any, annotation: Any, where: str, *, strict: bool) -> Any:
    """Returns `value` as `annotation` wants it. Strict is for JSON values, where true is no 1; lax is for text."""
    adapter = _adapter(annotation, strict)
    try:
        # JSON's own mode is what lets a strict check accept a list for a tuple: JSON has no tuples.
        return adapter.validate_json(json.dumps(value)) if strict else adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = f" (entry {'.'.join(map(str, first['loc']))})" if first["loc"] else ""
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{where}: {value!r} is not {_describe(annotation)}{entry}: {reason}") from None


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Returns field → type of a section."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _describe(annotation: Any) -> str:
    """Names a type as the configuration's documentation would: `int`, `one of 'a', 'b'`, `a tuple of str`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple and arguments[-1] is ...:
        return f"a tuple of {_describe(arguments[0])}"
    if origin is tuple:
        return f"a tuple of {' and '.join(map(_describe, arguments))}"
    if origin is dict:
        return f"a mapping of {_describe(arguments[0])} to {_describe(arguments[1])}"
    return annotation.__name__ if isinstance(annotation, type | types.GenericAlias) else str(annotation)


def _nearest(key: str, siblings: list[str]) -> str:
    """Names the key that was probably meant: one beside it by spelling, or one of that name in another section."""
    if near := difflib.get_close_matches(key, siblings, n=1):
        return f"did you mean {near[0]!r}?"
    everywhere = [name for name, _ in _leaves(to_json(Config()))]
    if elsewhere := [name for name in everywhere if name.rsplit(".", 1)[-1] == key]:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return f"valid here: {', '.join(siblings)}"


def _leaves(values: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted name and value of every leaf; an empty mapping is itself a leaf."""
    for key, value in values.items():
        dotted = f"{name}.{key}".lstrip(".")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, dotted)
        else:
            yield dotted, value
