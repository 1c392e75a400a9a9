"""A published model becomes a checkpoint that training, prediction and export read.

DESTINATION/conversion.json           what it was made of
DESTINATION/checkpoints/0/params      the weights, under the published names, in the type that they had
DESTINATION/checkpoints/0/checksums   of every array, as they were read
DESTINATION/checkpoints/0/assets      config.json, tokenizer, preprocessing.json, conversion.json
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data_pipelines.core.atomic_files import appears_whole, check_destination, holds_only, require_room
from data_pipelines.settings import DataConfig, RegionConfig
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import CheckpointError, CheckpointMismatch
from rllava_jax.checkpoint.foreign_models import unusable_weights
from rllava_jax.checkpoint.integrity import key_of, summed
from rllava_jax.checkpoint.orbax_files import Assets, AssetsHandler, write_checksums
from rllava_jax.checkpoint.provenance import CONVERSION_FILE
from rllava_jax.config import Config
from rllava_jax.interop.big_vision import read_npz
from rllava_jax.interop.errors import MalformedImport, MissingImport, UnsupportedImport
from rllava_jax.interop.huggingface import read_folder
from rllava_jax.interop.layout import EMBEDDING
from rllava_jax.interop.lineage import import_record
from rllava_jax.interop.source import PublishedModel
from rllava_jax.interop.streaming import StreamedArray, streaming_handler, with_progress
from rllava_jax.model.params import abstract
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.model.sizes import PaliGemmaConfig, dimensions_of, name_of

logger = logging.getLogger(__name__)


def import_checkpoint(source: Path, destination: Path, *, tokenizer: Path | None, overwrite: bool) -> None:
    """Reads a big_vision `.npz` or a Hugging Face folder and writes DESTINATION, whole or not at all.

    Args:
      tokenizer: a SentencePiece model or a tokenizer.json, in place of the source's own; an `.npz` has none.

    Raises:
      CheckpointError: the source is damaged or no PaliGemma, or its tokenizer does not fit its token embedding.
      ConfigError: the destination may not be written.
      DataError: the tokenizer file is invalid.
    """
    check_destination(destination, source=source, overwrite=overwrite, ours=_is_import)
    _require_plain(source)
    found = _open(source)
    chosen = Tokenizer.load(tokenizer) if tokenizer is not None else found.tokenizer
    if chosen is None:
        raise CheckpointError(
            f"{source}: has no tokenizer beside it; give one with --tokenizer FILE (PaliGemma's is published as "
            "paligemma_tokenizer.model)",
            code="import.no-tokenizer",
        )
    rows = found.size.decoder.vocab
    if not chosen.fits(rows):
        raise CheckpointMismatch(
            f"{chosen.path}: has {chosen.vocab_size} ids, loc and seg tokens included, and the token embedding "
            f"{rows} rows; give this model's own with --tokenizer FILE"
        )
    config = imported_config(found.size, found.config)
    require_room(destination, sum(array.nbytes for array in found.arrays.values()))
    files = provenance.assets(config, make_preprocessor(config, chosen))
    facts = import_record(source, found.facts, size=config.model.size, ours=found.config is not None)
    record = json.dumps(facts, indent=2).encode()
    files[CONVERSION_FILE] = record
    for line in found.notes:
        logger.info("note: %s", line)
    logger.info("%s: %s", source, _summary(found, config, chosen))
    with appears_whole(destination) as folder:
        finite = {name: _finite(array, name, source) for name, array in found.arrays.items()}
        write_model(folder / "checkpoints", with_progress(finite), files)
        (folder / CONVERSION_FILE).write_bytes(record)


def _require_plain(source: Path) -> None:
    """Refuses pipes, which would be waited for, and devices, which would be read without end."""
    for path in [source, *(source.iterdir() if source.is_dir() else ())]:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise MalformedImport(f"{path}: is a device, a pipe or a socket; give a file")


def _finite(array: StreamedArray, name: str, source: Path) -> StreamedArray:
    """The array, which when streamed raises a CheckpointError for a weight that is no number."""

    def checked(block: np.ndarray, start: int) -> np.ndarray:
        if not (finite := np.isfinite(block)).all():
            place = np.argwhere(~finite)[0]
            said = f"{name}{[start + int(place[0]), *map(int, place[1:])]} is {block[tuple(place)]}"
            raise MalformedImport(f"{source}: {said}, and would make every answer so; give weights that are numbers")
        return block

    return array.mapped(checked)


def _is_import(path: Path) -> bool:
    # A run that has gone on in it would have more.
    return path.is_dir() and holds_only(path, {CONVERSION_FILE, "checkpoints"}, mark=CONVERSION_FILE)


def _open(source: Path) -> PublishedModel:
    if said := unusable_weights(source):
        raise UnsupportedImport(f"{source}: {said}")
    if source.is_dir():
        return read_folder(source, expected_shapes)
    if not source.exists():
        raise MissingImport(f"{source}: there is no such file or folder; give a .npz file or a Hugging Face folder")
    if source.suffix == ".safetensors":
        raise UnsupportedImport(
            f"{source}: is one file of a Hugging Face folder; give the folder, which has config.json too"
        )
    return read_npz(source, expected_shapes)


def expected_shapes(size: PaliGemmaConfig, config: Config | None) -> dict[str, tuple[int, ...]]:
    """Shapes of every array of a model: plain, or with regions and adapters as the configuration that trained it."""
    _, shapes = abstract(imported_config(size, config), vocab=size.decoder.vocab)
    return {name: shape.shape for name, shape in shapes.items()}


def imported_config(size: PaliGemmaConfig, trained: Config | None = None) -> Config:
    """The configuration of an imported model: `trained`, or plain PaliGemma with the project's prompt template."""
    if trained is None:
        # Room for a question and an answer; training sets its own.
        trained = Config(regions=RegionConfig(encoders=()), data=DataConfig(text_length=64))
    name = name_of(size)
    dimensions = dimensions_of(size) if name == "custom" else {}
    model = dataclasses.replace(trained.model, size=name, dimensions=dimensions, image_size=0, vocab=size.decoder.vocab)
    return dataclasses.replace(trained, model=model)


def _summary(found: PublishedModel, config: Config, tokenizer: Tokenizer) -> str:
    count = sum(array.nbytes // array.dtype.itemsize for array in found.arrays.values())
    dtypes = sorted({str(array.dtype) for array in found.arrays.values()})
    vision = found.size.vision
    return (
        f"{config.model.size}, {vision.image_size} pixels, {count:,} parameters in {'/'.join(dtypes)}; a table of "
        f"{found.arrays[EMBEDDING].shape[0]:,} rows for the {tokenizer.vocab_size:,} ids of {Path(tokenizer.path).name}"
    )


def write_model(folder: Path, arrays: Mapping[str, StreamedArray], files: Mapping[str, bytes]) -> None:
    """Writes a checkpoint of step 0 with parameters, their checksums and assets alone."""
    manager = ocp.CheckpointManager(
        epath.Path(folder.absolute()),
        # A save in the background would report a full disk only after this returned.
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={"params": streaming_handler(), "assets": AssetsHandler()},
    )
    sums: dict[str, int] = {}

    def summing(name: str, array: StreamedArray) -> StreamedArray:
        return dataclasses.replace(array, blocks=lambda: summed(array.blocks(), sums, key_of(name)))

    params = {name: summing(name, array) for name, array in arrays.items()}
    with manager:
        manager.save(0, args=ocp.args.Composite(params=ocp.args.PyTreeSave(params), assets=Assets(dict(files))))
        manager.wait_until_finished()
    write_checksums(folder / "0", {key: sums[key] for key in sorted(sums)})
