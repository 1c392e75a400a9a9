"""A Hugging Face PaliGemma folder, read: config.json, and safetensors in one file or several, in any key layout."""

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from typing_extensions import TypedDict

from data_pipelines.core.first_bytes import disguise_of
from data_pipelines.core.json_files import read_json
from data_pipelines.core.schemas import file_as
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.checkpoint.provenance import TOKENIZER_FILES
from rllava_jax.config import Config, LoraConfig
from rllava_jax.config.stored import from_json
from rllava_jax.interop.errors import MalformedImport, MissingImport, TwoModels, UnsupportedImport
from rllava_jax.interop.huggingface_config import parse_config
from rllava_jax.interop.layout import EMBEDDING, by_array, canonical, is_buffer, spellings
from rllava_jax.interop.peft_adapter import ADAPTER_WEIGHTS
from rllava_jax.interop.source import DTYPES, Expected, PublishedModel, check_names
from rllava_jax.interop.streaming import StreamedArray, rows_per_block
from rllava_jax.model.published_names import Spelling

_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": DTYPES["float32"], "F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"]}  # safetensors' names
_LM_HEAD, _EMBEDDING = "lm_head.weight", "language_model.embed_tokens.weight"
_AGAIN = "download the folder again"


class Tensors:
    """The tensors of a folder under their canonical names. Values are read one tensor, or a part of it, at a time."""

    def __init__(self, folder: Path):
        """Reads the headers of all files.

        Raises:
          CheckpointError: a file missing, truncated or of no such kind; an index that does not fit its files.
        """
        self.folder = folder
        self._place: dict[str, tuple[Path, str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        for file, keys in _files(folder).items():
            self._add(file, keys)
        self._require_one_dtype()
        adapter = folder / "adapter" / ADAPTER_WEIGHTS
        if adapter.is_file():
            self._add(adapter, set())

    def _add(self, file: Path, wanted: set[str]) -> None:
        with _opened(file) as opened:
            present = set(opened.keys())
            if wanted and present != wanted:
                other = sorted(present ^ wanted)
                raise TwoModels(
                    f"{self.folder / _INDEX}: does not fit {file.name}: {len(wanted - present)} tensors that it names "
                    f"are not there, {len(present - wanted)} that are there it does not name "
                    f"({', '.join(other[:3])} …); the index, or the shards, are another model's; {_AGAIN}"
                )
            for key in sorted(present):
                if is_buffer(key):
                    continue
                name, slice_ = canonical(key), opened.get_slice(key)
                if name in self._place:
                    before, other_key = self._place[name]
                    raise TwoModels(
                        f"{file}: {key} is in {before.name} too, as {other_key}: two models' files in one folder; "
                        f"{_AGAIN}"
                    )
                if slice_.get_dtype() not in _DTYPES:
                    raise UnsupportedImport(
                        f"{file}: {key} is {slice_.get_dtype()}; give weights in float32, float16 or bfloat16, "
                        "not quantised ones"
                    )
                self._place[name] = (file, key)
                self.shapes[name], self.dtypes[name] = tuple(slice_.get_shape()), _DTYPES[slice_.get_dtype()]

    def _require_one_dtype(self) -> None:
        files = defaultdict(set)
        for name, dtype in self.dtypes.items():
            files[dtype].add(self._place[name][0])
        if any(not one & other for one, other in itertools.combinations(files.values(), 2)):
            kinds = ", ".join(f"{dtype} in {min(paths).name}" for dtype, paths in files.items())
            raise TwoModels(f"{self.folder}: whole files differ in type ({kinds}): two models' shards; {_AGAIN}")

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A tensor, or rows of it. The file is mapped for the read alone, so that its pages do not pile up."""
        file, key = self._place[name]
        with _opened(file) as opened:
            return opened.get_tensor(key) if rows == slice(None) else opened.get_slice(key)[rows]


def _opened(file: Path) -> Any:
    try:
        return safetensors.safe_open(file, framework="np")
    except FileNotFoundError:
        raise MissingImport(f"{file}: is missing; {_AGAIN}") from None
    except (safetensors.SafetensorError, OSError) as error:
        if what := disguise_of(file):
            raise MalformedImport(f"{file}: is {what}") from None
        reason = " ".join(str(error).split())
        raise MalformedImport(f"{file}: is not a whole safetensors file ({reason}); {_AGAIN}") from None


class _Index(TypedDict):
    """What is read of the index of shards."""

    weight_map: dict[str, str]


def _files(folder: Path) -> dict[Path, set[str]]:
    """Each file of weights, with the keys that the index says it has; none where there is no index."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file() and index.is_file():
        raise TwoModels(f"{folder}: holds model.safetensors and {_INDEX}, two models' files; remove one of them")
    if single.is_file():
        return {single: set()}
    if not index.is_file():
        shards = sorted(path.name for path in folder.glob("*.safetensors"))
        found = f"shards without their index ({shards[0]} …)" if shards else "no safetensors"
        raise MissingImport(f"{folder}: holds {found}; give a folder with model.safetensors or {_INDEX}")
    files: dict[Path, set[str]] = defaultdict(set)
    for key, file in file_as(_Index, index, remedy=_AGAIN, error=CheckpointError)["weight_map"].items():
        files[folder / Path(file).name].add(key)
    strays = {path.name for path in folder.glob("model*.safetensors")} - {path.name for path in files}
    if strays:
        raise TwoModels(
            f"{index}: does not name {', '.join(sorted(strays)[:3])}, which lie beside it: shards of two models; "
            f"{_AGAIN}"
        )
    return files


def read_folder(folder: Path, expected: Expected) -> PublishedModel:
    """Opens a folder; values are read when the arrays are streamed.

    Args:
      expected: our arrays for a size and a configuration.

    Raises:
      CheckpointError: the folder is not a whole PaliGemma, or holds tensors that a PaliGemma does not have.
      DataError: config.json is missing or is not JSON, or the tokenizer's file is not one.
    """
    config_file = str(folder / "config.json")
    values = read_json(config_file, remedy="give a Hugging Face model's folder")
    if not isinstance(values, dict):
        raise MalformedImport(f"{config_file}: is not a mapping; {_AGAIN}")
    tensors = Tensors(folder)
    size, notes = parse_config(values, tensors.shapes, where=config_file)
    trained = _trained_config(values, folder)
    shapes = expected(size, trained)
    table = spellings(size, shapes)
    _check_tied(tensors)
    _check_keys(tensors, table, shapes)
    tokenizer = find_tokenizer(folder, rows=size.decoder.vocab)
    facts = {
        "format": "Hugging Face",
        "model": _hub_name(values.get("_name_or_path")),
        "dtype": str(tensors.dtypes[_EMBEDDING]),
    }
    arrays = {ours: _stream(tensors, spelled, shapes[ours]) for ours, spelled in by_array(table).items()}
    return PublishedModel(size, arrays, tokenizer, trained, facts, tuple(notes))


def _hub_name(name: object) -> str | None:
    """A name as the hub gives them, `owner/model`. Anything else is a path of somebody's machine, and stays there."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and name[0] not in "./" else None


def _trained_config(values: Mapping[str, Any], folder: Path) -> Config | None:
    """The configuration inside an export of this project."""
    if "rllava" not in values:
        return None
    stored = values["rllava"].get("config") if isinstance(values["rllava"], Mapping) else None
    if not isinstance(stored, Mapping):
        raise MalformedImport(f"{folder / 'config.json'}: its section rllava has no config; export the model again")
    config = from_json(stored, where=str(folder / "config.json"))
    # Whoever merged the adapters with PEFT and saved the model kept its config.json, and no adapter/.
    return config if (folder / "adapter").is_dir() else dataclasses.replace(config, lora=LoraConfig())


def _check_tied(tensors: Tensors) -> None:
    """An output layer that is stored must be the token embedding: PaliGemma's are one."""
    if _LM_HEAD not in tensors.shapes:
        return
    shape = tensors.shapes[_EMBEDDING]
    rows = rows_per_block(shape, 4)
    parts = (slice(start, start + rows) for start in range(0, shape[0], rows))
    if tensors.shapes[_LM_HEAD] != shape or not all(
        np.array_equal(tensors.read(_LM_HEAD, part), tensors.read(_EMBEDDING, part)) for part in parts
    ):
        raise UnsupportedImport(
            f"{tensors.folder}: {_LM_HEAD} is not the token embedding, which PaliGemma ties it to; give a tied model"
        )
    del tensors.shapes[_LM_HEAD]


def _check_keys(tensors: Tensors, table: list[Spelling], shapes: Mapping[str, tuple[int, ...]]) -> None:
    wanted: dict[str, tuple[int, ...]] = {}
    for spelling in table:
        ours = shapes[spelling.ours]
        for layer in range(ours[0]) if spelling.layered else (0,):
            wanted[spelling.theirs.format(layer=layer)] = spelling.their_shape(ours)
    check_names(
        tensors.shapes,
        wanted,
        where=str(tensors.folder),
        remedy="give one whole model's folder, with its own config.json",
    )


def _stream(tensors: Tensors, spelled: list[Spelling], shape: tuple[int, ...]) -> StreamedArray:
    """An array of ours, made of their tensors layer by layer, or of the token embedding's rows."""
    first = spelled[0]
    dtype = tensors.dtypes[first.theirs.format(layer=0)]
    rows = rows_per_block(shape, dtype.itemsize) if first.layered or first.ours == EMBEDDING else shape[0]

    def layer_block(start: int, count: int) -> np.ndarray:
        block = np.empty((count, *shape[1:]), dtype)
        for row in range(count):
            for spelling in spelled:
                tensor = tensors.read(spelling.theirs.format(layer=start + row))
                spelling.part(block[row])[...] = spelling.import_(tensor, spelling.part_shape(shape))
        return block

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            if first.layered:
                yield layer_block(start, count)
            elif first.ours == EMBEDDING:
                yield tensors.read(first.theirs, slice(start, start + count))
            else:
                yield first.import_(tensors.read(first.theirs), shape)

    return StreamedArray(shape, dtype, rows, blocks)


def find_tokenizer(folder: Path, *, rows: int) -> Tokenizer | None:
    """The folder's tokenizer: the SentencePiece model, unless the ids of tokenizer.json alone fit the token embedding.

    Raises:
      DataError: a file that is not a tokenizer.
    """
    found = [Tokenizer.load(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()]
    fitting = [tokenizer for tokenizer in found if tokenizer.fits(rows)]
    if len(fitting) == 2 and fitting[0].vocab_size != fitting[1].vocab_size:
        return fitting[1]  # tokens were added to the tokenizer.json alone
    return next(iter(fitting or found), None)
