"""The chunks of a PNG file: those of text that Pillow refuses, and whether its compressed rows are all there."""

import io
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Passes of an interlaced file: first column and row, and the steps between columns and rows (PNG, 8.2).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 2**20
# Pillow refuses a text of more than 2^20 characters, and 2^26 together; deflate shrinks 1032 times at most.
_PLAIN, _DEFLATED = 2**20, 1000


class Chunk(NamedTuple):
    """A chunk that the file has in full: its kind, where its content begins, and how long that is."""

    kind: bytes
    start: int
    length: int


def chunks(file: IO[bytes]) -> Iterator[Chunk]:
    """The chunks in order, up to IEND or the file's end."""
    end = file.seek(0, io.SEEK_END)
    position = len(SIGNATURE)
    while position + 12 <= end:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[:4])
        yield Chunk(head[4:], position + 8, length)
        if head[4:] == b"IEND":
            return
        position += 12 + length


def without_long_texts(file: IO[bytes]) -> IO[bytes]:
    """The file itself, or where it has long texts or profiles, which make no pixel, its content without them."""
    found = list(chunks(file))
    long = {chunk for chunk in found if _is_long(file, chunk)}
    if sum(chunk.length for chunk in found if chunk.kind in (b"tEXt", b"iTXt")) > _PLAIN:
        long |= {chunk for chunk in found if chunk.kind in (b"tEXt", b"iTXt")}
    file.seek(0)
    if not long:
        return file
    kept, position = [], 0
    for chunk in found:
        if chunk in long:
            file.seek(position)
            kept.append(file.read(chunk.start - 8 - position))
            position = chunk.start + chunk.length + 4
    file.seek(position)
    return io.BytesIO(b"".join([*kept, file.read()]))


def _is_long(file: IO[bytes], chunk: Chunk) -> bool:
    if chunk.kind in (b"zTXt", b"iCCP"):
        return chunk.length > _DEFLATED
    if chunk.kind == b"iTXt" and chunk.length > _DEFLATED:
        file.seek(chunk.start)
        _, _, rest = file.read(82).partition(b"\0")  # a keyword of 79 bytes at most; whether it is compressed
        return rest[:1] != b"\0" or chunk.length > _PLAIN
    return chunk.kind == b"tEXt" and chunk.length > _PLAIN


def check_rows(file: IO[bytes]) -> None:
    """Raises: ValueError: compressed rows are not what their checksums say, at which Pillow does not look."""
    for chunk in chunks(file):
        if chunk.kind == b"IDAT":
            file.seek(chunk.start)
            content, left = zlib.crc32(chunk.kind), chunk.length
            while left and (piece := file.read(min(left, _PIECE))):
                content, left = zlib.crc32(piece, content), left - len(piece)
            if left or content != int.from_bytes(file.read(4)):
                raise ValueError("damaged: the checksum of its compressed rows is wrong")


def rows_end_early(file: IO[bytes]) -> bool:
    """Whether the compressed data end before the last row, which Pillow leaves black without a word."""
    inflate, found, expected = zlib.decompressobj(), 0, 0
    for chunk in chunks(file):
        if chunk.kind == b"IHDR":
            file.seek(chunk.start)
            expected = _bytes_of(file.read(13))
        left = chunk.length if chunk.kind == b"IDAT" else 0
        file.seek(chunk.start)
        while left > 0 and found < expected and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            while piece and found < expected:
                found += len(inflate.decompress(piece, _PIECE))
                piece = inflate.unconsumed_tail
    return found < expected


def _bytes_of(header: bytes) -> int:
    """The length of all rows, each after the byte that says how it is filtered."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * _CHANNELS[header[9]]
    total = 0
    for left, top, across, down in _PASSES if header[12] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
