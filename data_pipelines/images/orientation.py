"""The orientation that EXIF gives a photo: 1 is as stored; 2 to 8 are mirrored, turned, or both, as viewers show them.

Pillow turns TIFF files itself when it decodes them, and no other format. Nothing else in the project turns an image.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags

from data_pipelines.images.pictures import recognised
from data_pipelines.images.scan_parts import split_part
from data_pipelines.records import ImageSource, StoredImage, TurnedImage, UnnamedFile
from data_pipelines.settings import Orientation

# Orientations that exchange width and height.
SIDEWAYS = (5, 6, 7, 8)
# What undoes an orientation: a quarter turn the other way, else the same once more.
_UNDONE = {6: 8, 8: 6}
# One of these stands in a PNG that has an orientation. Pillow decodes the whole picture before it looks.
_PNG_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


def orientation_of(image: ImageSource) -> int:
    """The EXIF orientation of an image file, 1 to 8: 1 where none is given, or nothing can be read."""
    return 1 if isinstance(image, StoredImage | TurnedImage) else _tag(image)[0]


def oriented(image: ImageSource, orientation: Orientation) -> ImageSource:
    """The image, to be shown as stored or with its orientation applied; itself where both are what is decoded."""
    if not orientation or isinstance(image, StoredImage | TurnedImage):
        return image
    tag, is_applied = _tag(image)
    if tag == 1 or is_applied == (orientation == "applied"):
        return image
    return TurnedImage(image, _UNDONE.get(tag, tag) if is_applied else tag)


def turned(pixels: UInt8[np.ndarray, "H W C"], turn: int) -> UInt8[np.ndarray, "H2 W2 C"]:
    """Stored pixels as a viewer shows them by the EXIF orientation `turn`: what `ImageOps.exif_transpose` does."""
    if turn in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if turn in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if turn in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def _tag(image: str | bytes | UnnamedFile) -> tuple[int, bool]:
    """The orientation, and whether decoding applies it."""
    try:
        content: str | bytes
        if isinstance(image, bytes):
            content = image
        else:
            path = Path(image.path if isinstance(image, UnnamedFile) else split_part(image)[0])
            content = path.read_bytes() if path.suffix.lower() == ".png" else str(path)
        with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
            opened = recognised(file, "")
            if opened.format == "PNG" and isinstance(content, bytes) and not any(m in content for m in _PNG_MARKS):
                return 1, False
            tag = opened.getexif().get(ExifTags.Base.Orientation, 1)
            return tag if tag in range(1, 9) else 1, opened.format == "TIFF"
    # Scans have none, and what cannot be read is reported where it is decoded.
    except Exception:
        return 1, False
