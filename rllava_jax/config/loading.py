"""Reads a configuration file and its command-line overrides into a checked `Config`.

A configuration file is Python that leaves a `Config`, or a `Curriculum` of several, under the name `config`; overrides
are `--config.a.b=value`.
"""

import re
import runpy
import traceback
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from data_pipelines.core.errors import ConfigError, InvalidOverride, InvalidSetting, MissingFile, UnknownSetting
from data_pipelines.core.paths import local_path
from rllava_jax import config as config_module
from rllava_jax.config import Config, Curriculum, Stage
from rllava_jax.config.curriculum import check_stages, stage_configs
from rllava_jax.config.stored import (
    entries_of,
    entry_of,
    explain,
    fields_of,
    from_json,
    nearest_key,
    read,
    section_of,
    to_json,
)
from rllava_jax.config.validation import check_sections_agree

OVERRIDE_PREFIX = "--config."
_STAGES = f"{OVERRIDE_PREFIX}stages"


def load(
    path: str | Path, overrides: Sequence[str] = (), *, placeholders: Mapping[str, str] | None = None
) -> Config | Curriculum:
    """Executes the file, applies the overrides in order, and checks the result (`config/validation.py`).

    The value of an override is written as its field's type wants it: `--config.train.batch_size=64`,
    `--config.data.root=DIR`, `--config.regions.encoders=crop,loc` (a tuple; empty for none),
    `--config.data.families='{identify: 1, vqa: 2}'` (replaces the whole mapping) or
    `--config.data.families.identify=1` (sets one entry). Of a curriculum it holds for every stage, and
    `--config.stages.NAME.train.batch_size=64` for one of them, over the former; `--config.stages.NAME.evaluate=true`
    sets a field of the stage itself.

    Args:
      placeholders: dotted key → what stands for it where it is left empty and would be asked for (a data set's root,
        a checkpoint that names the size): a plan needs neither.

    Raises:
      MissingFile: there is no such file.
      ConfigError: it cannot be run or defines no Config; or a key is unknown (the nearest valid one is named);
        or a value has the wrong type or contradicts another.
    """
    defined = _execute(local_path(path, what="--config"))
    where = " ".join([str(path), *overrides])
    values = to_json(defined)
    read(values, type(defined), where=str(path), structure_alone=True)
    if isinstance(defined, Config):
        return validated(defined, overrides, where=str(path), placeholders=placeholders)
    for_one = [override for override in overrides if override.startswith((_STAGES + ".", _STAGES + "="))]
    for_all = [override for override in overrides if override not in for_one]
    stages = values["stages"].values()
    for stage in stages:
        _override(stage["config"], for_all, {})
    of_stage = "|".join(name for name in fields_of(Stage) if name != "config")
    for override in for_one:
        # A field of the stage itself, or one of its configuration, which the user does not name on the way.
        written = re.sub(rf"^({re.escape(_STAGES)}\.[^.=]+\.)(?!({of_stage})[.=])", r"\1config.", override)
        _apply_override(values, written, Curriculum, said=override)
    for stage in stages:
        _override(stage["config"], (), placeholders or {})
    curriculum: Curriculum = read(values, Curriculum, where=where)
    check_stages(curriculum, where=str(path))
    for name, config in stage_configs(curriculum, Path("WORKDIR")).items():
        check_sections_agree(config, where=f"{where}: stages.{name}")
    return curriculum


def validated(
    config: Config, overrides: Sequence[str] = (), *, where: str = "", placeholders: Mapping[str, str] | None = None
) -> Config:
    """The configuration with overrides and placeholders as of `load`, checked as one that is read from a file.

    Raises:
      ConfigError: naming the dotted field, its value and the remedy, for the first setting that is wrong; the line
        begins with `where`.
    """
    values, where = to_json(config), " ".join([where, *overrides])
    _override(values, overrides, placeholders or {})
    config = from_json(values, where=where)
    check_sections_agree(config, where=where)
    return config


def _override(values: dict[str, Any], overrides: Sequence[str], placeholders: Mapping[str, str]) -> None:
    for override in overrides:
        _apply_override(values, override)
    for key, value in placeholders.items():
        section, field = key.split(".")
        if not values[section][field] and (section != "init" or values["model"]["size"] == "checkpoint"):
            values[section][field] = value
        if key == "data.root":
            for part in values["data"]["mix"].values():
                part["root"] = part["root"] or value


def stage_names(path: str | Path) -> list[str]:
    """The stages that a configuration file defines; none for a single run. Raises as `load`."""
    defined = _execute(local_path(path, what="--config"))
    return list(defined.stages) if isinstance(defined, Curriculum) else []


def _execute(path: Path) -> Config | Curriculum:
    """Runs a configuration file; whatever goes wrong in it becomes one line with the file's line number."""
    if not path.is_file():
        raise MissingFile(f"{path}: there is no such configuration file")
    try:
        namespace = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}:{error.lineno}: {error.msg}", code="config.file-fails") from error
    except Exception as error:
        in_file = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise _failure(error).within(f"{path}:{in_file[-1]}" if in_file else str(path)) from error
    config = namespace.get("config")
    if not isinstance(config, Config | Curriculum):
        raise ConfigError(
            f"{path}: defines no Config under the name `config`, but {config!r}", code="config.file-fails"
        )
    return config


def _failure(error: Exception) -> ConfigError:
    """Python's complaint in one line; one about an unknown keyword names the nearest field."""
    unknown = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    section = section_of(getattr(config_module, unknown[1], None)) if unknown else None
    if unknown and section:
        remedy = nearest_key(unknown[2], list(fields_of(section)))
        return UnknownSetting(f"{unknown[1]} has no field {unknown[2]!r}; {remedy}")
    return ConfigError(f"{type(error).__name__}: {' '.join(str(error).split())}", code="config.file-fails")


def _apply_override(values: dict[str, Any], override: str, section: type = Config, *, said: str = "") -> None:
    """Sets one value inside `values`, the nested dicts of a section; `said` is what the user wrote, for messages."""
    name, equals, text = override.partition("=")
    said = said or override
    if not name.startswith(OVERRIDE_PREFIX) or not equals:
        raise InvalidOverride(f"{said}: an override is written {OVERRIDE_PREFIX}section.field=value")
    *sections, last = name.removeprefix(OVERRIDE_PREFIX).split(".")
    annotation: Any = section
    for key in sections:
        annotation, values = _inside(annotation, key, values, said), values[key]
    annotation = _inside(annotation, last, values, said)
    if inner := section_of(annotation):
        raise InvalidOverride(f"{said}: {last!r} is a section; set one of its fields ({', '.join(fields_of(inner))})")
    if section_of(entries_of(annotation)):
        names = ", ".join(values[last]) or "none: the configuration file names them"
        raise InvalidOverride(f"{said}: {last!r} is a mapping of sections; set a field of one of them ({names})")
    values[last] = _parse(text, annotation, said)


def _inside(annotation: Any, key: str, values: Mapping[str, Any] | None, said: str) -> Any:
    """The annotation of entry `key` of a section or mapping that has these values."""
    section, entries = section_of(annotation), entries_of(annotation)
    if section and values is None:
        raise InvalidOverride(f"{said}: there is no {section.__name__} here to set a field of; give the file one")
    if not section and not entries:
        raise UnknownSetting(f"{said}: {key!r} stands below a plain value; leave it out")
    known = list(fields_of(section) if section else values or {})
    if (section or section_of(entries)) and key not in known:
        raise UnknownSetting(f"{said}: unknown key {key!r}; {nearest_key(key, known)}")
    return entry_of(annotation, key)


def _parse(text: str, annotation: Any, said: str) -> Any:
    """Reads the text of an override as its field's type.

    Tuples and dicts are written in YAML's flow syntax, of which JSON is a part. Its base loader leaves `1e-3` and `no`
    alone, which its usual loaders turn into a string and a False; pydantic reads the leaves.
    """
    origin = typing.get_origin(typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation)
    value: Any = text.strip() if origin in (tuple, dict) else text
    if origin is tuple and not value.startswith("["):
        value = f"[{value[1:-1] if value.startswith('(') and value.endswith(')') else value}]"
    try:
        value = yaml.load(value, Loader=yaml.BaseLoader) if origin in (tuple, dict) else value
        return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InvalidSetting(f"{said}: not a {origin.__name__}: {reason}") from None
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0], annotation, where=said) from None
