"""Whether a decoded picture is all that its file promised.

Pillow refuses files whose bytes run out. Of a file that was cut and then closed properly, by a tool that mends or a
transfer that pads, it makes a picture: the rest is black (PNG, GIF) or grey (JPEG).
"""

import io
import re
from collections import defaultdict
from typing import IO

import numpy as np
from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin

from data_pipelines.images import png_chunks

# A marker, after any fill bytes; within compressed data 0xFF is followed by 0x00 or by a restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE, _PROGRESSIVE = 0xDA, 0xD9, 0xC2
_STANDALONE = {0x01, 0xD8}
_PADDING = bytes(range(1, 252, 5))
_TRAILER = _PADDING + b"".join(bytes([0xFF, 0xD0 + n]) + _PADDING for n in range(8))


def ends_early(opened: ImageFile.ImageFile, file: IO[bytes]) -> bool:
    """Whether the data of a picture that was loaded end before the picture does.

    Where the last pixels are not what a decoder leaves of missing data, nothing more is looked at.

    Args:
      file: that it was loaded from.

    Raises:
      ValueError: they are damaged.
    """
    if opened.format == "PNG" and not opened.tell():
        png_chunks.check_rows(file)
        return (bool(opened.info.get("interlace")) or not _last_row(opened).any()) and png_chunks.rows_end_early(file)
    if opened.format == "GIF" and not opened.tell():
        assert isinstance(opened, GifImagePlugin.GifImageFile)
        return len(np.unique(_last_row(opened))) == 1 and _gif_ends_early(file)
    if isinstance(opened, JpegImagePlugin.JpegImageFile):
        grey = np.abs(_last_row(opened)[0, -1:].astype(int) - 128).max() <= 8
        return (grey or bool(opened.info.get("progressive"))) and _jpeg_ends_early(opened, file)
    return False


def _last_row(opened: Image.Image) -> np.ndarray:
    width, height = opened.size
    return np.asarray(opened.crop((0, height - 1, width, height)))


def _jpeg_ends_early(opened: Image.Image, file: IO[bytes]) -> bool:
    """Whether more data before the end would change the picture: a decoder that has every block passes over them."""
    file.seek(0)
    content = file.read()
    end, whole = _scans(content)
    if not whole:
        return True
    end -= len(content[:end]) - len(content[:end].rstrip(b"\xff"))
    longer = Image.open(io.BytesIO(content[:end] + _TRAILER + b"\xff\xd9"), formats=["JPEG"])
    longer.load()
    return longer.tobytes() != opened.tobytes()


def _scans(content: bytes) -> tuple[int, bool]:
    """Where a JPEG file's first image ends, and whether its scans bring every coefficient to its last bit."""
    position, progressive = 2, False
    # Of each component and coefficient, the lowest bit that was sent (ITU T.81, G.1.1.1).
    sent: dict[int, dict[int, int]] = defaultdict(dict)
    components = 0
    while found := _MARKER.search(content, position):
        marker, position = found[1][0], found.end()
        if marker == _END_OF_IMAGE:
            whole = not progressive or (
                len(sent) == components and all(bits == dict.fromkeys(range(64), 0) for bits in sent.values())
            )
            return found.start(), whole
        if marker in _STANDALONE:
            continue
        length = int.from_bytes(content[position : position + 2])
        segment = content[position + 2 : position + length]
        position += length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            progressive, components = marker == _PROGRESSIVE, segment[5]
        elif marker == _START_OF_SCAN:
            first, last, bits = segment[-3:]
            for component in segment[1 : 1 + 2 * segment[0] : 2]:
                sent[component] |= dict.fromkeys(range(first, last + 1), bits & 15)
    return len(content), True


def _gif_ends_early(file: IO[bytes]) -> bool:
    """Whether the codes of a GIF file's first picture make fewer pixels than it has."""
    file.seek(6)
    screen = file.read(7)
    file.seek(3 * 2 ** ((screen[4] & 7) + 1) if screen[4] & 0x80 else 0, io.SEEK_CUR)
    while (kind := file.read(1)) == b"!":
        file.read(1)
        _sub_blocks(file)
    if kind != b",":
        return False
    place = file.read(9)
    file.seek(3 * 2 ** ((place[8] & 7) + 1) if place[8] & 0x80 else 0, io.SEEK_CUR)
    pixels = int.from_bytes(place[4:6], "little") * int.from_bytes(place[6:8], "little")
    bits = file.read(1)[0]
    return _codes_make_fewer(_sub_blocks(file), bits, pixels)


def _sub_blocks(file: IO[bytes]) -> bytes:
    found = []
    while (length := file.read(1)) not in (b"", b"\0"):
        found.append(file.read(length[0]))
    return b"".join(found)


def _codes_make_fewer(data: bytes, bits: int, pixels: int) -> bool:
    """Whether LZW codes (GIF89a, appendix F) end before so many pixels."""
    clear, end = 1 << bits, (1 << bits) + 1
    lengths = [1] * (end + 1)
    width, previous, made, buffer, held = bits + 1, 0, 0, 0, 0
    for byte in data:
        buffer |= byte << held
        held += 8
        while held >= width:
            code, buffer, held = buffer & ((1 << width) - 1), buffer >> width, held - width
            if code == clear:
                del lengths[end + 1 :]
                width, previous = bits + 1, 0
                continue
            if code == end:
                return made < pixels
            length = lengths[code] if code < len(lengths) else previous + 1
            made += length
            if made >= pixels:
                return False
            if previous and len(lengths) < 4096:
                lengths.append(previous + 1)
                if len(lengths) == 1 << width and width < 12:
                    width += 1
            previous = length
    return True
