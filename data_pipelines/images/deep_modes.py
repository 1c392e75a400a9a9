"""Samples of more than 8 bits that Pillow reads in part, in the wrong byte order, or not at all.

Pillow names how a file's bytes become an image by a "raw mode". Of 16-bit colours it has raw modes that keep the first
byte of each sample (";16B") and the second (";16L"); read by both, a file gives its whole samples.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import ImageFile, PpmImagePlugin, TiffImagePlugin

_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284
_INTEL, _MOTOROLA = b"II", b"MM"
_DEEP_COLOURS = re.compile(r"(LA|RGB|RGBX|RGBA|RGBa);16([BLN])")
# libtiff hands over values in the machine's byte order, whatever the file's; Pillow allows for it in 16 bits alone.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF"}

_Layout = tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]]
Loaded = Callable[[str], UInt8[np.ndarray, "H W C"]]


def _tiff_greys() -> Iterator[tuple[_Layout, tuple[str, str]]]:
    """Layouts of greys: byte order, photometric interpretation, sample format, fill order, bits, extra samples."""
    for order, end in ((_INTEL, ""), (_MOTOROLA, "B")):
        for white in (0, 1):
            yield (order, white, (1,), 1, (12,), ()), ("I;16", "I;12")
            yield (order, white, (1,), 1, (16,), ()), (f"I;16{end}", f"I;16{end}")
            yield (order, white, (2,), 1, (16,), ()), ("I", f"I;16{end}S")
            yield (order, white, (1,), 1, (32,), ()), ("I", f"I;32{end}S")
            yield (order, white, (2,), 1, (32,), ()), ("I", f"I;32{end}S")
            yield (order, white, (3,), 1, (32,), ()), ("F", f"F;32{end}F")
            yield (order, white, (3,), 1, (64,), ()), ("F", f"F;64{end}F")
            for extra in ((), (0,), (1,), (2,)):
                yield (order, white, (1,), 1, (16, 16), extra), ("RGBA", f"LA;16{end or 'L'}")


@functools.cache
def declare() -> None:
    """Tells Pillow of layouts of grey TIFF files that it does not know: white is zero, 12 and 64 bits, transparency."""
    for layout, modes in _tiff_greys():
        TiffImagePlugin.OPEN_INFO.setdefault(layout, modes)


def white_is_zero(image: ImageFile.ImageFile) -> bool:
    """Whether it is a TIFF file whose least value is white."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0


def mend_order(image: ImageFile.ImageFile) -> None:
    """Sets the byte order of a compressed TIFF file's values to what libtiff gives."""
    if any(tile.codec_name == "libtiff" for tile in image.tile) and (name := _raw_mode(image)) in _NATIVE:
        read_as(image, _NATIVE[name])


def read_as(image: ImageFile.ImageFile, raw_mode: str) -> None:
    """Has Pillow read an image that is not loaded yet by another raw mode."""
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]


def deep_samples(image: ImageFile.ImageFile, loaded: Loaded) -> UInt16[np.ndarray, "H W C"] | None:
    """The samples of colours of 16 bits, [H, W, 3], or of greys with transparency, [H, W, 1]; None of another image.

    Args:
      image: not loaded yet.
      loaded: reads it anew by a raw mode.

    Raises:
      ValueError: they cannot be had from Pillow.
    """
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        return None
    found = _DEEP_COLOURS.fullmatch(_raw_mode(image))
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PLANAR, 1) == 2:
        bits = image.tag_v2.get(_BITS, (1,))
        if len(bits) > 1 and max(bits) > 8:
            raise ValueError("its colours are of 16 bits and apart from one another (PlanarConfiguration 2)")
    if found is None:
        return None
    kind, order = found.groups()
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    if kind == "LA":
        grey = loaded("RGBA")  # both bytes of the grey, and of its transparency
        return _joined(grey[..., 0:1], grey[..., 1:2], order)
    kind = "RGBA" if kind == "RGBa" else kind
    return _joined(loaded(f"{kind};16B")[..., :3], loaded(f"{kind};16L")[..., :3], order)


def _joined(first: UInt8[np.ndarray, "H W C"], second: UInt8[np.ndarray, "H W C"], order: str) -> np.ndarray:
    high, low = (first, second) if order == "B" else (second, first)
    return high.astype(np.uint16) << 8 | low


def _raw_mode(image: ImageFile.ImageFile) -> str:
    names = {str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile}
    return names.pop() if len(names) == 1 else ""
