"""A checkpoint becomes a folder that transformers loads, or big_vision's `.npz`."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.core.atomic_files import appears_whole, check_destination, holds_only, require_room
from data_pipelines.core.errors import OptionConflict
from data_pipelines.regions.encoders.protocol import region_encoders
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.manager import find_checkpoint
from rllava_jax.checkpoint.orbax_files import CALIBRATION_FILE
from rllava_jax.checkpoint.provenance import CONVERSION_FILE
from rllava_jax.config import Config, LoraConfig
from rllava_jax.config.stored import to_json
from rllava_jax.interop.big_vision import is_own_npz, write_npz
from rllava_jax.interop.errors import UnsupportedExport
from rllava_jax.interop.huggingface_config import config_json, generation_config_json
from rllava_jax.interop.layout import EMBEDDING, exported
from rllava_jax.interop.lineage import exported_stage, lineage
from rllava_jax.interop.model_card import model_card
from rllava_jax.interop.peft_adapter import write_adapter
from rllava_jax.interop.remote_files import json_file, processor_files, region_config_json, remote_code_files
from rllava_jax.interop.shards import write_shards
from rllava_jax.interop.source import DTYPES
from rllava_jax.interop.stored_params import StoredCheckpoint, in_dtype, merged_streams, spelled_tensors
from rllava_jax.interop.streaming import StreamedArray, with_progress
from rllava_jax.interop.tokenizer_files import TOKENIZER_FILES, huggingface_tokenizer_files, image_token_id
from rllava_jax.model.lora import is_adapter

logger = logging.getLogger(__name__)

# What may lie in an exported folder beside weights, tokenizer and code.
_FOLDER_FILES = (
    "README.md",
    "adapter",
    CALIBRATION_FILE,
    "config.json",
    CONVERSION_FILE,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
# transformers pads tables to a multiple of this, and so are the published folders'.
_ROWS_MULTIPLE = 64


def export_checkpoint(
    checkpoint: Path,
    destination: Path,
    *,
    step: str | None = None,
    dtype: str | None = None,
    keep_lora: bool = False,
    plain: bool = False,
    licence: str = "",
    shard_bytes: int = 2 * 2**30,
    overwrite: bool = False,
) -> None:
    """Writes DESTINATION, whole or not at all: a Hugging Face folder, or a file if its name ends in `.npz`.

    Args:
      step: see `find_checkpoint`.
      dtype: of the weights; None keeps the stored one, or of several the widest.
      keep_lora: the base as it was trained beside, and adapter/ for PEFT; else the adapters are added to the weights.
      plain: leave the region branch out.
      licence: for the model card; "" is the base model's.

    Raises:
      CheckpointError: the checkpoint cannot be read.
      ConfigError: the destination may not be written, or cannot hold what the checkpoint holds.
    """
    npz = destination.suffix.lower() == ".npz"
    kept, _ = find_checkpoint(checkpoint)
    check_destination(destination, source=kept, overwrite=overwrite, ours=is_own_npz if npz else _is_export)
    stored = StoredCheckpoint.open(checkpoint, step)
    _check_fits(stored, keep_lora=keep_lora, plain=plain, npz=npz)
    arrays = {name: array for name, array in stored.arrays.items() if not (plain and name.startswith("roi/"))}
    adapters = {name: array for name, array in arrays.items() if is_adapter(name)}
    if keep_lora:
        arrays = {name: array for name, array in arrays.items() if name not in adapters}
    elif adapters:
        lora = stored.config.lora
        arrays = merged_streams(arrays, lora)
        logger.info("the adapters are added to the weights (alpha / r = %g)", lora.alpha / lora.rank)
    # Merged weights are as exact as the widest of what they are made of: bfloat16 would round the adapters' share away.
    target = DTYPES[dtype] if dtype else _widest([*arrays.values(), *(() if keep_lora else adapters.values())])
    arrays = {name: in_dtype(array, target, name) for name, array in arrays.items()}
    require_room(destination, sum(array.nbytes for array in arrays.values()))
    with appears_whole(destination) as new:
        if npz:
            write_npz(new, with_progress(_unpadded(arrays, stored)), stored.size)
            return
        new.mkdir()
        config = _exported_config(stored.config, keep_lora=keep_lora, plain=plain)
        rows = table_rows(stored)
        tensors = (  # in the layout that both versions of transformers read
            (exported(name), padded_table(value, rows) if spelling.ours == EMBEDDING else value)
            for spelling, name, value in spelled_tensors(with_progress(arrays), stored.size)
        )
        total = write_shards(new, tensors, shard_bytes=shard_bytes)
        files = folder_files(stored, config, rows=rows, dtype=str(target))
        files["README.md"] = model_card(stored, config, adapter=keep_lora, dtype=str(target), licence=licence).encode()
        if CALIBRATION_FILE in stored.files and config.regions == stored.config.regions:  # else it is of other answers
            files[CALIBRATION_FILE] = stored.files[CALIBRATION_FILE]
        for name, content in files.items():
            (new / name).write_bytes(content)
        if keep_lora:
            write_adapter(new / "adapter", adapters, stored)
        logger.info("%s step %d: %s MiB in %s", stored.folder, stored.step, f"{total / 2**20:,.1f}", target)


def _is_export(path: Path) -> bool:
    names = {*_FOLDER_FILES, *TOKENIZER_FILES, *remote_code_files()}
    weights = ("model*.safetensors", "model.safetensors.index.json")
    return path.is_dir() and holds_only(path, names, weights, mark=CONVERSION_FILE)


def _check_fits(stored: StoredCheckpoint, *, keep_lora: bool, plain: bool, npz: bool) -> None:
    regions = any(name.startswith("roi/") for name in stored.arrays)
    adapters = any(is_adapter(name) for name in stored.arrays)
    if keep_lora and not adapters:
        raise OptionConflict(f"--keep-lora: {stored.folder} step {stored.step} was trained without LoRA; leave it out")
    if npz and keep_lora:
        raise UnsupportedExport("--keep-lora: big_vision's .npz has no adapters; leave it out, or export a folder")
    if npz and regions and not plain:
        raise UnsupportedExport(
            f"{stored.folder} step {stored.step}: has a region branch, which big_vision's .npz has no place for; "
            "leave it out with --plain, or export a folder"
        )
    unknown = [encoder.name for encoder in region_encoders(stored.config.regions) if not encoder.exportable]
    if unknown and not plain and not npz:
        raise UnsupportedExport(
            f"regions.encoders: {', '.join(unknown)}: the code of exported folders does not know it; leave regions out "
            "with --plain"
        )


def _widest(arrays: Iterable[StreamedArray]) -> np.dtype[Any]:
    kinds = {array.dtype for array in arrays}
    return kinds.pop() if len(kinds) == 1 else DTYPES["float32"]


def _exported_config(config: Config, *, keep_lora: bool, plain: bool) -> Config:
    """The configuration that travels with the folder: what the weights are now, and no path of their machine."""
    return dataclasses.replace(
        config,
        init=dataclasses.replace(config.init, checkpoint=""),
        data=dataclasses.replace(config.data, root="", tokenizer=""),
        lora=config.lora if keep_lora else LoraConfig(),
        regions=dataclasses.replace(config.regions, encoders=()) if plain else config.regions,
    )


def table_rows(stored: StoredCheckpoint) -> int:
    """Rows of the exported table: the checkpoint's own, or where `<image>` has none, as many as are published."""
    rows, image = stored.arrays[EMBEDDING].shape[0], image_token_id(stored.tokenizer)
    return rows if rows > image else -(-(image + 1) // _ROWS_MULTIPLE) * _ROWS_MULTIPLE


def _unpadded(arrays: Mapping[str, StreamedArray], stored: StoredCheckpoint) -> dict[str, StreamedArray]:
    """big_vision's table ends with the last token; rows that Hugging Face has beyond it are left out."""
    table, rows = arrays[EMBEDDING], stored.tokenizer.vocab_size
    if table.shape[0] > rows:
        logger.info("left out: %d rows of the token embedding that no token has", table.shape[0] - rows)
    cut = table.mapped(lambda block, start: block[: max(rows - start, 0)], shape=(rows, *table.shape[1:]))
    return {**arrays, EMBEDDING: cut}


def padded_table(table: np.ndarray, rows: int) -> np.ndarray:
    """The table with more rows, each the mean of those it has.

    Their logits are then the mean of all logits, so no greedy choice falls on them. (The published folders were padded
    with draws around that mean.)
    """
    if rows == len(table):
        return table
    mean = table.mean(axis=0, dtype=np.float32).astype(table.dtype)
    return np.concatenate([table, np.broadcast_to(mean, (rows - len(table), table.shape[1]))])


def folder_files(stored: StoredCheckpoint, config: Config, *, rows: int, dtype: str) -> dict[str, bytes]:
    """Everything of the folder but weights and model card: file name → content."""
    values = config_json(stored.size, rows=rows, image_token=image_token_id(stored.tokenizer), dtype=dtype)
    files: dict[str, bytes] = {}
    if config.regions.encoders:
        values |= region_config_json(config)
        files |= remote_code_files()
    values["rllava"] = {**values.get("rllava", {}), "config": to_json(config)}
    record = {
        "checkpoint": f"{stored.workdir.name} step {stored.step}",
        "dtype": dtype,
        "lineage": [*lineage(stored.record.facts), exported_stage(stored.config, config, dtype=dtype)],
        "versions": provenance.describe(config)["versions"],
    }
    files["config.json"] = json_file(values)
    files["generation_config.json"] = json_file(generation_config_json())
    files[CONVERSION_FILE] = json_file(record)
    return files | processor_files(config) | huggingface_tokenizer_files(stored.tokenizer)
