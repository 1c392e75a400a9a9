"""Where a model comes from: its stages, oldest first, which travel through runs, exports and imports.

A stage is a small JSON object without any path. Its "stage" is one of
  random    it began with random numbers;
  imported  it began as a file or folder of someone else's: source, model, format, dtype, size;
  unknown   it began as a folder of this project's whose record was gone: source;
  trained   run, steps, and `provenance.training_facts` where they were recorded;
  exported  dtype, adapters (none, merged, kept), regions (none, kept, left out); what follows was read back from that.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rllava_jax.checkpoint.errors import DamagedCheckpoint
from rllava_jax.checkpoint.provenance import CONVERSION_FILE, training_facts
from rllava_jax.config import Config
from rllava_jax.model.sizes import SIZES
from rllava_jax.runtime.workdirs import workdir_of

Stage = dict[str, Any]

_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "random": {},
    "imported": {"source": str, "model": str, "format": str, "dtype": str, "size": str},
    "unknown": {"source": str},
    "trained": {"run": str, "steps": int},
    "exported": {"dtype": str, "adapters": str, "regions": str},
}
_FACTS: dict[str, type | tuple[type, ...]] = {
    "data": str,
    "split": str,
    "languages": list,
    "batch_size": int,
    "learning_rate": (int, float),
    "seed": int,
    "trainable": list,
    "lora": dict,
    "regions": list,
    "shown": (int, float),
    "wrong": (int, float),
}
_LORA: dict[str, type | tuple[type, ...]] = {"rank": int, "alpha": (int, float), "targets": list}
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def lineage(files: Mapping[str, bytes], config: Config, *, folder: Path, step: int) -> list[Stage]:
    """The stages of a checkpoint.

    Args:
      files: its assets. config: that it was trained with. folder: of its run's checkpoints.

    Raises:
      CheckpointError: its record is damaged.
    """
    begun = json.loads(files["config.json"]).get("started_from")
    if begun:
        stages = _of_start(begun)
    elif CONVERSION_FILE in files:
        stages = _of_conversion(_json(files[CONVERSION_FILE], folder / str(step) / "assets" / CONVERSION_FILE))
    else:
        stages = [{"stage": "random"}]
    return [*stages, _trained(workdir_of(folder).name, step, training_facts(config))] if step else stages


def _json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(content)
        if not isinstance(values, dict):
            raise ValueError("it is not a mapping")
    except ValueError as error:
        raise DamagedCheckpoint(f"{path}: is damaged ({error}); take another step, or import the model again") from None
    return values


def _of_start(facts: Mapping[str, Any]) -> list[Stage]:
    """The stages of the checkpoint that `provenance.start_of` wrote down."""
    if "started_from" in facts:
        stages = _of_start(facts["started_from"])
    elif "conversion" in facts:
        stages = _of_conversion(facts["conversion"])
    else:
        stages = [{"stage": "random"}]
    if not facts["step"]:
        return stages
    return [*stages, _trained(last_part(facts["name"]), facts["step"], facts.get("trained", {}))]


def _of_conversion(record: Mapping[str, Any]) -> list[Stage]:
    """The stages of an imported model; early records held those of one import, unlisted."""
    return list(record["lineage"]) if "lineage" in record else [_imported(record)]


def _trained(run: str, steps: int, facts: Mapping[str, Any]) -> Stage:
    return {"stage": "trained", "run": run, "steps": steps, **facts}


def _imported(facts: Mapping[str, Any]) -> Stage:
    return _named({"stage": "imported", **{name: str(facts.get(name) or "") for name in _FIELDS["imported"]}})


def _named(stage: Stage) -> Stage:
    """The stage with names for what may have been paths."""
    named = dict(stage)
    for name in ("source", "run", "model"):
        if name in stage and not (name == "model" and _HUB_NAME.fullmatch(stage[name])):
            named[name] = last_part(stage[name])
    return named


def exported_stage(config: Config, kept: Config, *, dtype: str) -> Stage:
    """The stage that an export adds.

    Args:
      config: of the checkpoint. kept: of what was written of it.
    """
    adapters = "none" if not config.lora.rank else "kept" if kept.lora.rank else "merged"
    regions = "none" if not config.regions.encoders else "kept" if kept.regions.encoders else "left out"
    return {"stage": "exported", "dtype": dtype, "adapters": adapters, "regions": regions}


def import_record(source: Path, facts: Mapping[str, Any], *, size: str, ours: bool) -> dict[str, Any]:
    """What an imported checkpoint keeps of its source.

    Args:
      facts: that the reader found. ours: the source is a folder that this project exported.

    Raises:
      CheckpointError: the folder's own record is damaged.
    """
    record = {"source": Path(os.path.abspath(source)).name, **facts, "size": size}
    return {**record, "lineage": _recorded(source, record["source"]) if ours else [_imported(record)]}


def _recorded(folder: Path, name: str) -> list[Stage]:
    path = folder / CONVERSION_FILE
    if not path.is_file():
        return [{"stage": "unknown", "source": name}]
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if "lineage" not in record:
            return [{"stage": "unknown", "source": name}]
        return [_checked(stage) for stage in record["lineage"]] or [{"stage": "unknown", "source": name}]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(
            f"{path}: is damaged ({' '.join(str(error).split())}); export the model again, or remove the file and "
            "with it the model's past"
        ) from None


def _checked(stage: Mapping[str, Any]) -> Stage:
    """A stage as this module writes it, and nothing else that the file holds.

    Raises:
      KeyError, TypeError, ValueError: the stage is invalid.
    """
    kind = stage["stage"]
    fields = _FIELDS[kind]
    if kind == "trained" and "data" in stage:
        fields = fields | _FACTS
        _check_types(stage["lora"], _LORA if stage["lora"] else {})
    _check_types(stage, fields)
    return _named({"stage": kind, **{name: stage[name] for name in fields}})


def _check_types(values: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]]) -> None:
    for name, kind in fields.items():
        value = values[name]
        if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(x, str) for x in value)):
            raise ValueError(f"{name} is {value!r}")


def is_published(stages: Sequence[Stage]) -> bool:
    """Whether it began as someone else's model of a size that Google publishes."""
    first = stages[0]
    return first["stage"] == "imported" and first["size"] in SIZES and first["size"] != "tiny"


def last_part(name: str) -> str:
    """The last part of a path, in one line: no folder of a machine enters a record."""
    return " ".join(name.replace("\\", "/").rstrip("/").rpartition("/")[2].split())
