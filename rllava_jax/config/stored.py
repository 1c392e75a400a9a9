"""A configuration as nested JSON values, and back: what config.json holds, and what overrides change.

pydantic checks the values against the annotations of the fields (`schema.py`, `data_pipelines/settings.py`) and the
validators of the sections; here its findings become one line that names the field, the value and the remedy.
"""

import dataclasses
import json
import logging
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NotRequired

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from data_pipelines.core.errors import ConfigError, UnknownSetting
from data_pipelines.core.registry import nearest
from data_pipelines.core.schemas import file_as
from data_pipelines.settings import Effect
from rllava_jax.config import Config

logger = logging.getLogger(__name__)

_STRUCTURE = ("dataclass_type", "dict_type", "unexpected_keyword_argument")  # pydantic's names of such errors


def to_json(section: Any) -> dict[str, Any]:
    """A section as nested dicts and lists. Nothing is checked; what JSON cannot hold becomes a value that no field can.

    Raises:
      TypeError: a mapping's key is not text.
    """
    as_json = json.dumps(dataclasses.asdict(section), default=lambda value: {"not JSON": repr(value)})
    return pydantic_core.from_json(as_json)


def from_json(values: Mapping[str, Any], *, where: str = "config.json") -> Config:
    """Builds the Config that `to_json` wrote; settings added since take their defaults, and the log names them.

    The default of a setting that is added must therefore be what the code did before. A whole section that is missing
    is damage.

    Raises:
      ConfigError: an unknown, ill-typed or impossible value, or a section is missing; the line begins with `where`.
    """
    config: Config = read(values, Config, where=where)
    present = dict(_leaves(values))
    added = [name for name, _ in _leaves(to_json(config)) if name not in present]
    for name in added:
        if "." in name and name.split(".")[0] not in values:
            raise ConfigError(
                f"{where}: {name} is missing; was it written by another version of the code?",
                code="config.missing-field",
            )
    if added:
        logger.info("%s: was written before %s; the defaults are taken", where, ", ".join(added))
    return config


class Conversion(TypedDict):
    """What is read of a conversion.json."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    lineage: NotRequired[list[dict[str, Any]]]


class Start(TypedDict):
    """What a run began with, and what that had begun with."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    name: str
    step: int
    trained: NotRequired[dict[str, Any]]
    started_from: NotRequired["Start"]
    conversion: NotRequired[Conversion]


class RunFacts(TypedDict):
    """What is read of a config.json, beside the settings, which `from_json` checks."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    config: dict[str, Any]
    tokenizer_sha256: NotRequired[str]
    started_from: NotRequired[Start]


def run_facts(workdir: Path, *, remedy: str = "choose another --workdir") -> dict[str, Any]:
    """What the run in a workdir wrote down of itself, `provenance.describe`; of its settings only that they are there.

    Raises:
      ConfigError: config.json is missing, or is not a run's.
    """
    return dict(file_as(RunFacts, workdir / "config.json", remedy=remedy, error=ConfigError))


def read(values: Any, kind: Any, *, where: str, structure_alone: bool = False) -> Any:
    """The section of that kind, whose missing fields take their defaults. Raises as `from_json`.

    Args:
      structure_alone: check only that sections and mappings are such, and what fields they have, so that overrides find
        their way; what else is wrong an override may still correct, and the result may be None.
    """
    try:
        # JSON's own mode is what lets a strict check accept a list for a tuple: JSON has no tuples.
        return _adapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        for found in error.errors(include_url=False):
            if found["type"] in _STRUCTURE or not structure_alone:
                raise explain(found, kind, where=where) from None
    return None


def explain(found: Mapping[str, Any], kind: Any, *, where: str) -> ConfigError:
    """One of pydantic's findings about a value of type `kind`, as a line with the field, the value and the remedy."""
    place = [str(part) for part in found["loc"] if part != "[key]"]
    if found["type"] == "unexpected_keyword_argument":
        for key in place[:-1]:
            kind = entry_of(kind, key)
        line = f"unknown key {'.'.join(place)!r}; {nearest_key(place[-1], list(fields_of(section_of(kind))))}"
        return UnknownSetting(f"{where}: {line}" if where else line)
    value, context = found["input"], found.get("ctx", {})
    remedy, code = found["msg"][0].lower() + found["msg"][1:], "config.invalid-value"
    if found["type"] == "config.conflict":
        place, value, remedy, code = [*place, context["field"]], context["value"], context["remedy"], found["type"]
    elif "error" in context:
        remedy = str(context["error"])
    name = ": ".join(part for part in (where, ".".join(place)) if part)
    return ConfigError(f"{name}: {value!r} is not possible; {remedy}", code=code)


def changed(old: Mapping[str, Any], new: Mapping[str, Any], *, besides: Collection[Effect] = ()) -> list[str]:
    """The dotted names whose values differ between two results of `to_json`, or that only one of them has.

    Args:
      besides: settings that have one of these effects are left out.
    """
    old_leaves, new_leaves = dict(_leaves(old)), dict(_leaves(new))
    names = dict.fromkeys([*old_leaves, *new_leaves])
    differing = [name for name in names if old_leaves.get(name, ...) != new_leaves.get(name, ...)]
    return [name for name in differing if effect_of(name) not in besides]


def effect_of(name: str) -> Effect | None:
    """The effect that a setting declares, or the section it is in; None has an effect on the trained parameters."""
    annotation: Any = Config
    effect = None
    for key in name.split("."):
        annotation = entry_of(annotation, key)
        marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Effect)]
        effect = marks[-1] if marks else effect
    return effect


def section_of(annotation: Any) -> Any:
    """The dataclass that a field holds, or may hold beside None; None where it holds something else."""
    plain = _plain(annotation)
    return plain if isinstance(plain, type) and dataclasses.is_dataclass(plain) else None


def entries_of(annotation: Any) -> Any:
    """The annotation of a mapping's values; None for what is not a mapping."""
    plain = _plain(annotation)
    return typing.get_args(plain)[1] if typing.get_origin(plain) is dict else None


def entry_of(annotation: Any, key: str) -> Any:
    """The annotation of what stands under `key` in a section or mapping; None where nothing does."""
    section = section_of(annotation)
    return fields_of(section).get(key) if section else entries_of(annotation)


@cache
def fields_of(section: type) -> dict[str, Any]:
    """Field → annotation of a section."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def nearest_key(key: str, siblings: Collection[str]) -> str:
    """Names the key that was probably meant: one beside it by spelling, or one of that name in another section."""
    remedy = nearest(key, siblings)
    elsewhere = [name for name, _ in _leaves(to_json(Config())) if name.rsplit(".", 1)[-1] == key]
    if remedy.startswith("choose") and elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return remedy


def _plain(annotation: Any) -> Any:
    """A type without its marks, and without None."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return typing.get_args(annotation)[0] if isinstance(annotation, types.UnionType) else annotation


def _leaves(values: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted name and value of every leaf; an empty mapping is itself a leaf."""
    for key, value in values.items():
        dotted = f"{name}.{key}".lstrip(".")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, dotted)
        else:
            yield dotted, value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
