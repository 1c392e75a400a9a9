"""big_vision's `.npz` checkpoints (as published on Kaggle), in and out. Their parameter names are ours.

A member of the archive is read front to back and a few rows at a time, whether it is compressed or not.
"""

import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from data_pipelines.core.errors import reason_of
from data_pipelines.core.first_bytes import disguise_of
from rllava_jax.interop.errors import MalformedImport, UnsupportedImport
from rllava_jax.interop.layout import EMBEDDING
from rllava_jax.interop.source import DTYPES, Expected, PublishedModel, check_names, recognised
from rllava_jax.interop.streaming import StreamedArray, rows_per_block
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig

_PREFIX = "params/"
# Where there are as many kv heads as heads, big_vision keeps the three projections in one array.
_FUSED, _QUERY, _KEY_VALUE = (f"llm/layers/attn/{name}/w" for name in ("qkv_einsum", "q_einsum", "kv_einsum"))
# The numbers of a size that the axes of arrays are.
_AXES = {
    "img/embedding/kernel": "patch _ _ width",
    "img/pos_embedding": "_ patches _",
    "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel": "depth _ heads _",
    "img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel": "_ _ mlp",
    EMBEDDING: "vocab _",
    _QUERY: "depth heads width head_dim",
    _KEY_VALUE: "_ _ kv_heads _ _",
    "llm/layers/mlp/linear": "_ mlp _",
}
_END_OF_ARCHIVE = 22  # bytes of a zip archive's last record, before its comment
_COMMENT = b"rllava_jax"  # of archives that were written here


def read_npz(path: Path, expected: Expected) -> PublishedModel:
    """Opens a checkpoint; values are read when the arrays are streamed.

    Args:
      expected: our arrays for a size.

    Raises:
      CheckpointError: not an archive, truncated, or its arrays are not a PaliGemma's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _require_nothing_beside(path, archive)
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            headers = {}
            for name, member in members.items():
                with archive.open(member) as stream:
                    headers[name] = _read_header(stream)
                    # Before anything of the size that it declares is made.
                    _require_size(member, stream.tell(), *headers[name])
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error) as error:
        what = disguise_of(path)
        if what and not what.startswith("a zip archive"):  # which an .npz that ends early is
            raise MalformedImport(f"{path}: is {what}") from None
        raise MalformedImport(f"{path}: is not a whole .npz archive ({reason_of(error)}); download it again") from None
    # Training states are stored beside the parameters, under other first names.
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in members) else ""
    parameters = {name.removeprefix(prefix): name for name in members if name.startswith(prefix)}
    left = sorted(set(members) - set(parameters.values()))
    arrays = _unfused(
        {ours: _streamed(path, members[name].filename, *headers[name]) for ours, name in parameters.items()}
    )
    shapes = {name: array.shape for name, array in arrays.items()}
    size = size_of_shapes(shapes, path)
    check_names(shapes, expected(size, None), where=str(path), remedy="give a whole big_vision PaliGemma checkpoint")
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise UnsupportedImport(f"{path}: {name} is {array.dtype}; give weights in float32, float16 or bfloat16")
    notes = (f"left out: {len(left)} arrays that are no parameters ({', '.join(left[:4])} …)",) if left else ()
    facts = {"format": "big_vision npz", "dtype": str(arrays[EMBEDDING].dtype)}
    return PublishedModel(size, arrays, facts=facts, notes=notes)


def _require_nothing_beside(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises ValueError: members of one name, of which a reader sees the last, or bytes that are no member's."""
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"{twice[0]} stands in it {names.count(twice[0])} times")
    ending = _END_OF_ARCHIVE + len(archive.comment)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - ending, 0))
        if file.read(4) != b"PK\5\6" or min((info.header_offset for info in archive.infolist()), default=0):
            raise ValueError("there are bytes before or behind the archive")


def _require_size(member: zipfile.ZipInfo, start: int, shape: tuple[int, ...], _: bool, dtype: np.dtype[Any]) -> None:
    """Raises ValueError: a member holds more or less than the array that its header declares."""
    declared = start + math.prod(shape) * dtype.itemsize
    if member.file_size != declared:
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes, and declares {declared:,}")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    # numpy writes bfloat16 as raw bytes and forgets what they were.
    return shape, fortran_order, np.dtype(ml_dtypes.bfloat16) if dtype.str in ("|V2", "<V2") else dtype


def _streamed(
    path: Path, member: str, shape: tuple[int, ...], fortran_order: bool, dtype: np.dtype[Any]
) -> StreamedArray:
    if not shape:  # no parameter of ours: named as unexpected, never read
        return StreamedArray(shape, dtype, 1, lambda: iter(()))
    rows = shape[0] if fortran_order else rows_per_block(shape, dtype.itemsize)

    def blocks() -> Iterator[np.ndarray]:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                _read_header(stream)
                for start in range(0, shape[0], rows):
                    count = min(rows, shape[0] - start)
                    order = shape[::-1] if fortran_order else (count, *shape[1:])
                    block = _read_array(stream, order, dtype)
                    yield block.T if fortran_order else block
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise MalformedImport(f"{path}: {member} is damaged ({reason_of(error)}); download it again") from None

    return StreamedArray(shape, dtype, rows, blocks)


def _read_array(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    data = stream.read(size)
    if len(data) < size:
        raise EOFError(f"it ends after {len(data)} of {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _unfused(arrays: dict[str, StreamedArray]) -> dict[str, StreamedArray]:
    if _FUSED not in arrays:
        return arrays
    fused = arrays.pop(_FUSED)
    layers, _, *rest = fused.shape
    arrays[_QUERY] = fused.mapped(lambda block, _: block[:, 0], shape=(layers, *rest))
    arrays[_KEY_VALUE] = fused.mapped(lambda block, _: block[:, 1:], shape=(layers, 2, *rest))
    return arrays


def size_of_shapes(shapes: Mapping[str, tuple[int, ...]], path: Path) -> PaliGemmaConfig:
    """The size that shapes tell; where two readings are possible, the published one."""
    lacking = sorted(name for name, axes in _AXES.items() if len(shapes.get(name, ())) != len(axes.split()))
    if lacking:
        raise UnsupportedImport(
            f"{path}: holds no PaliGemma: {', '.join(lacking)} missing or ill-shaped, among {len(shapes)} arrays; "
            "give a big_vision PaliGemma checkpoint"
        )
    towers: dict[str, dict[str, Any]] = {"img": {}, "llm": {}}
    for name, axes in _AXES.items():
        towers[name[:3]] |= {axis: n for axis, n in zip(axes.split(), shapes[name], strict=True) if axis != "_"}
    vision, decoder = towers["img"], towers["llm"]
    grid = round(vision.pop("patches") ** 0.5)
    post_norms = "llm/layers/post_attention_norm/scale" in shapes
    size = PaliGemmaConfig(
        SiglipConfig(**vision, image_size=grid * vision["patch"]),
        GemmaConfig(
            **decoder,
            query_scale=decoder["head_dim"] ** -0.5,
            post_norms=post_norms,
            attention_cap=50.0 if post_norms else 0.0,
        ),
    )
    return recognised(size)


def write_npz(path: Path, arrays: Mapping[str, StreamedArray], size: PaliGemmaConfig) -> None:
    """Writes a checkpoint, uncompressed, as `numpy.savez` would, but block by block.

    Args:
      arrays: plain PaliGemma's, under our names.
    """
    if size.decoder.kv_heads == size.decoder.heads:
        arrays = _fused(dict(arrays))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.comment = _COMMENT
        for name, array in arrays.items():
            # A fixed date: the same weights give the same file.
            entry = zipfile.ZipInfo(f"{_PREFIX}{name}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as stream:
                bfloat16 = array.dtype == ml_dtypes.bfloat16
                description = {
                    "descr": "|V2" if bfloat16 else np.lib.format.dtype_to_descr(array.dtype),
                    "fortran_order": False,
                    "shape": array.shape,
                }
                np.lib.format.write_array_header_1_0(stream, description)
                for block in array.blocks():
                    stream.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def is_own_npz(path: Path) -> bool:
    """Whether a file is an archive that `write_npz` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _COMMENT
    except (OSError, zipfile.BadZipFile):
        return False


def _fused(arrays: dict[str, StreamedArray]) -> dict[str, StreamedArray]:
    query, key_value = cache(arrays.pop(_QUERY).whole), arrays.pop(_KEY_VALUE)

    def joined(block: np.ndarray, start: int) -> np.ndarray:
        return np.concatenate([query()[start : start + len(block), None], block], axis=1)

    layers, _, *rest = key_value.shape
    arrays[_FUSED] = key_value.mapped(joined, shape=(layers, 3, *rest))
    return arrays
