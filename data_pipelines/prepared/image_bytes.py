"""What is stored of an image: encoded bytes that decode to the same pixels and say nothing but the picture.

EXIF, XMP, comments, thumbnails and DICOM headers can name a patient, a device or a place. JPEG and PNG files lose the
segments that carry such things and keep their compressed pixels as they are; where that would change a pixel, and for
every other format, the pixels are stored anew as PNG, and so is an image that its EXIF orientation turns.
"""

import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from data_pipelines.images.reading import image_file
from data_pipelines.records import ImageSource, TurnedImage, UnnamedFile

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# A marker, after any fill bytes; within compressed data 0xFF is followed by 0x00 or by a restart marker.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_END_OF_IMAGE = 0xD9
_JPEG_METADATA = {*range(0xE0, 0xF0), 0xFE}  # APP0–APP15 and COM …
_ADOBE = 0xEE  # … of which APP14 says how colours are coded, and a bare JFIF APP0 the pixels' aspect
_JFIF_WITHOUT_THUMBNAIL = 16
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def storable(image: ImageSource, where: str, decode: Callable[[ImageSource, str], np.ndarray]) -> bytes:
    """Encoded bytes that `decode` reads to the same pixels as the file's own, without its metadata.

    Args:
      image: a file or encoded bytes.
      where: names it in messages.
      decode: `images.decode`, or `images.decode_grey` for a mask.

    Raises:
      ImageError: as `decode`: what cannot be read is not stored.
    """
    pixels = decode(image, where)
    encoded = image if isinstance(image, bytes) else _read(image)
    stripped = without_metadata(encoded)
    if stripped == encoded and not isinstance(image, TurnedImage):
        return encoded
    if stripped is not None and np.array_equal(decode(stripped, where), pixels):
        return stripped
    grey = pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all())
    return image_file(Image.fromarray(pixels[..., 0] if grey else pixels))


def without_metadata(encoded: bytes) -> bytes | None:
    """A JPEG or PNG file without what does not make its picture; None where it is neither, or not well formed."""
    try:
        if encoded.startswith(_JPEG):
            return _jpeg_without_metadata(encoded)
        if encoded.startswith(_PNG):
            return _png_without_metadata(encoded)
    except (IndexError, ValueError):
        pass
    return None


def _jpeg_without_metadata(encoded: bytes) -> bytes:
    """Raises ValueError or IndexError where the segments do not follow one another to the end of the image."""
    kept, position = [_JPEG], len(_JPEG)
    while True:
        found = _MARKER.search(encoded, position)
        if found is None:
            raise ValueError("no end of image")
        kept.append(encoded[position : found.start()])  # compressed data after a start of scan, else nothing
        marker, position = found.group(1)[0], found.end()
        if marker == _END_OF_IMAGE:  # what follows is other images, such as previews
            return b"".join([*kept, b"\xff\xd9"])
        end = position + int.from_bytes(encoded[position : position + 2])
        content = encoded[position + 2 : end]
        if end < position + 2 or end > len(encoded):
            raise ValueError("a segment leaves the file")
        jfif = marker == 0xE0 and content.startswith(b"JFIF\0") and end - position == _JFIF_WITHOUT_THUMBNAIL
        adobe = marker == _ADOBE and content.startswith(b"Adobe")
        if marker not in _JPEG_METADATA or jfif or adobe:
            kept.append(encoded[found.start() : end])
        position = end


def _png_without_metadata(encoded: bytes) -> bytes:
    """Raises ValueError where the chunks do not follow one another to IEND."""
    kept, position = [_PNG], len(_PNG)
    while position + 12 <= len(encoded):
        kind = encoded[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(encoded[position : position + 4])
        if end > len(encoded):
            break
        if kind in _PNG_PIXELS:
            kept.append(encoded[position:end])
        if kind == b"IEND":
            return b"".join(kept)
        position = end
    raise ValueError("no IEND")


def _read(image: ImageSource) -> bytes:
    """The file's bytes; none where the path names a part of a file, which `decode` alone can read."""
    if isinstance(image, TurnedImage):
        return image.source if isinstance(image.source, bytes) else _read(image.source)
    try:
        with open(image.path if isinstance(image, UnnamedFile) else str(image), "rb") as file:
            return file.read()
    except OSError:
        return b""
