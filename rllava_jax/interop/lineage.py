"""Where a model comes from: its stages, oldest first, which travel through runs, exports and imports.

A stage is a small JSON object without any path. Its "stage" is one of
  random    it began with random numbers;
  imported  it began as a file or folder of someone else's: source, model, format, dtype, size;
  unknown   it began as a folder of this project's whose record was gone: source;
  trained   run, steps, and `provenance.training_facts` where they were recorded;
  exported  dtype, adapters (none, merged, kept), regions (none, kept, left out); what follows was read back from that.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, create_model

from data_pipelines.core.schemas import file_as
from rllava_jax.checkpoint.errors import DamagedCheckpoint
from rllava_jax.checkpoint.provenance import CONVERSION_FILE
from rllava_jax.config import Config
from rllava_jax.config.stored import Conversion
from rllava_jax.model.sizes import SIZES

Stage = dict[str, Any]


def _last_part(name: str) -> str:
    """The last part of a path, in one line: no folder of a machine enters a record."""
    return " ".join(name.replace("\\", "/").rstrip("/").rpartition("/")[2].split())


def _hub_name(name: str) -> str:
    return name if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) else _last_part(name)


_STRICT = ConfigDict(strict=True)
_Name = Annotated[str, AfterValidator(_last_part)]
_Model = Annotated[str, AfterValidator(_hub_name)]
_FIELDS: dict[str, dict[str, Any]] = {
    "random": {},
    "imported": {"source": _Name, "model": _Model, "format": str, "dtype": str, "size": str},
    "unknown": {"source": _Name},
    "trained": {"run": _Name, "steps": int},
    "exported": {"dtype": str, "adapters": str, "regions": str},
}
_FACTS: dict[str, Any] = {
    "data": str,
    "split": str,
    "languages": list[str],
    "batch_size": int,
    "learning_rate": int | float,
    "seed": int,
    "trainable": list[str],
    "lora": create_model("Lora", __config__=_STRICT, rank=int, alpha=int | float, targets=list[str])
    | create_model("NoLora", __config__=ConfigDict(extra="forbid")),
    "regions": list[str],
    "shown": int | float,
    "wrong": int | float,
}


def lineage(facts: Mapping[str, Any]) -> list[Stage]:
    """The stages of the checkpoint that `provenance.start_of` wrote down."""
    if "started_from" in facts:
        stages = lineage(facts["started_from"])
    elif "conversion" in facts:
        record = facts["conversion"]  # early ones held the facts of one import, unlisted
        stages = list(record["lineage"]) if "lineage" in record else [_imported(record)]
    else:
        stages = [{"stage": "random"}]
    if facts["step"]:
        run = {"stage": "trained", "run": _last_part(facts["name"]), "steps": facts["step"]}
        stages.append(run | facts.get("trained", {}))
    return stages


def _imported(facts: Mapping[str, Any]) -> Stage:
    return _checked({"stage": "imported", **{name: str(facts.get(name) or "") for name in _FIELDS["imported"]}})


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
    remedy = "export the model again, or remove the file and with it the model's past"
    record: Any = file_as(Conversion, path, remedy=remedy, error=DamagedCheckpoint) if path.is_file() else {}
    try:
        stages = [_checked(stage) for stage in record.get("lineage", ())]
        return stages or [{"stage": "unknown", "source": name}]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}: is damaged ({' '.join(str(error).split())}); {remedy}") from None


def _checked(stage: Mapping[str, Any]) -> Stage:
    """A stage as this module writes it, with names for what may have been paths, and nothing else that it holds.

    Raises:
      KeyError, TypeError, ValueError: the stage is invalid.
    """
    fields = _FIELDS[stage["stage"]] | (_FACTS if stage["stage"] == "trained" and "data" in stage else {})
    return create_model("Stage", __config__=_STRICT, stage=str, **fields)(**stage).model_dump()


def is_published(stages: Sequence[Stage]) -> bool:
    """Whether it began as someone else's model of a size that Google publishes."""
    first = stages[0]
    return first["stage"] == "imported" and first["size"] in SIZES and first["size"] != "tiny"
