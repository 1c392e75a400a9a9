"""Image files: decoding, and a cache of what was decoded. The arithmetic on pixels is in `images/pixels.py`.

Pillow's formats are decoded in `images/pictures.py`, DICOM and NIfTI in `images/medical.py`.
"""

import io
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from data_pipelines.core.array_records import opened, read_example
from data_pipelines.core.errors import DataError, ImageError, unreadable_image
from data_pipelines.images.masks import FOUND, mask_levels
from data_pipelines.images.medical import decode_scan
from data_pipelines.images.orientation import SIDEWAYS, turned
from data_pipelines.images.pictures import decode_picture, load_whole, opened_picture
from data_pipelines.images.pixels import resize
from data_pipelines.images.scan_parts import WHOLE, ScanPart, refuse, require_size, split_part
from data_pipelines.images.windows import AUTO
from data_pipelines.records import ImageSource, MaskFile, StoredImage, TurnedImage, UnnamedFile
from data_pipelines.settings import MAX_IMAGE_PIXELS


def decode(
    image: ImageSource, where: str, window: str = AUTO, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a file or encoded bytes to RGB.

    EXIF orientation is ignored (Pillow applies that of TIFF files), but for a `TurnedImage`.

    Args:
      image: of a DICOM or NIfTI file, the path may say which picture is meant (`scan_parts`).
      where: names the image in messages when it comes as bytes.
      window: `DataConfig.window`, for DICOM and NIfTI files.
      max_pixels: `DataConfig.max_image_pixels`.

    Raises:
      ImageError: missing, truncated, unreadable or empty.
      DataError: as `medical.decode_scan`.
    """
    if isinstance(image, TurnedImage):
        return turned(decode(image.source, where, window, max_pixels), image.turn)
    image = fetched(image)
    source, name, part = _named(image, where)
    refuse(part, ("mask",), name, "what is no mask")
    scan = decode_scan(image, where, window, max_pixels)
    return decode_picture(source, name, part, max_pixels) if scan is None else scan


def size_of(image: ImageSource, where: str) -> tuple[int, int]:
    """Width and height of the picture in pixels, of Pillow's formats from the header alone. Raises as `decode`."""
    if isinstance(image, TurnedImage):
        width, height = size_of(image.source, where)
        return (height, width) if image.turn in SIDEWAYS else (width, height)
    image = fetched(image)
    try:
        with opened_picture(*_named(image, where)) as picture:
            return picture.image.size
    # DICOM and NIfTI; and what cannot be opened, `decode` explains.
    except DataError:
        height, width, _ = decode(image, where).shape
        return width, height


def frame_of(image: ImageSource, where: str) -> tuple[int, int] | None:
    """Width and height of an image in pixels; None of one that cannot be read, which has no frame for boxes.

    Storing or decoding such an image is where it is reported, counted and perhaps skipped.
    """
    try:
        return size_of(image, where)
    except ImageError:
        return None


def decode_mask(mask: MaskFile, where: str) -> Bool[np.ndarray, "H W"]:
    """True inside the mask.

    Raises:
      ImageError: missing, truncated or unreadable.
    """
    path = mask.path
    if mask.level is None and isinstance(path, str) and split_part(path)[1].mask is None:
        path = meaning(path, FOUND)
    grey = decode_grey(path, where)
    return grey > 0 if mask.level is None else grey == mask.level


def decode_grey(image: ImageSource, where: str) -> UInt8[np.ndarray, "H W"]:
    """The grey levels of a mask image, or what it marks by its part `mask` (`masks.mask_levels`).

    Raises:
      ImageError: as `decode`; or it is ambiguous what it marks.
    """
    source, name, part = _named(fetched(image), where)
    with opened_picture(source, name, part) as picture:
        require_size(picture.image.size, name)
        load_whole(picture, name)
        if isinstance(source, bytes):
            return np.array(picture.image.convert("L"))
        return mask_levels(picture.image, part.mask, re.sub(r"[#,]mask=[^#/,]*$", "", name))


def meaning(path: str, said: str) -> str:
    """A mask's name with what it marks, as `ScanPart.mask`."""
    return f"{path}{',' if split_part(path)[1] != WHOLE else '#'}mask={said}"


def _named(image: str | bytes, where: str) -> tuple[str | bytes, str, ScanPart]:
    """The file, what messages call it, and which part of it is meant."""
    if isinstance(image, bytes):
        return image, where, WHOLE
    path, part = split_part(image)
    return path, image, part


def fetched(image: ImageSource) -> str | bytes:
    """Encoded bytes, or a path that messages may name; of a turned image, those of its file, which `decode` turns.

    Raises:
      ImageError: what is read here, rather than where it is decoded, cannot be read.
    """
    if isinstance(image, StoredImage):
        return _stored(image)
    if isinstance(image, TurnedImage):
        return fetched(image.source)
    if isinstance(image, UnnamedFile):
        try:
            with open(image.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise ImageError(f"{image}: image is missing; restore it", code="image.missing") from None
        except OSError as error:
            raise unreadable_image(image, error.strerror) from None
    return image


def _stored(image: StoredImage) -> bytes:
    """The encoded bytes of an image or a mask: JPEG or PNG. Safe in threads and in processes that are spawned."""
    try:
        content: bytes = read_example(opened(image.folder, image.split)[image.position])["image"][0]
        return content
    except DataError as error:
        raise ImageError(str(error), code=error.code) from None
    # array_record reports bad files with many types: RuntimeError, ValueError, IndexError …
    except Exception as error:
        raise unreadable_image(image, error, "prepare the data set again") from error


def image_file(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The image as a file of that format; `options` are Pillow's."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


class ImageCache:
    """The most recently used decoded images and masks. Thread-safe; pickles empty, so each process has its own."""

    def __init__(self, max_mb: int, window: str = AUTO, max_pixels: int = MAX_IMAGE_PIXELS):
        self.max_mb = max_mb
        self.window = window
        self.max_pixels = max_pixels
        self._entries: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def image(self, image: ImageSource, where: str) -> UInt8[np.ndarray, "H W 3"]:
        """`decode`, remembered. The array is read-only. Raises ImageError."""
        return self._get(image, lambda: decode(image, where, self.window, self.max_pixels))

    def resized(self, image: ImageSource, where: str, size: int) -> UInt8[np.ndarray, "S S 3"]:
        """`resize` of the whole image, remembered: it takes longer than a crop. Raises ImageError."""
        return self._get((image, size), lambda: resize(self.image(image, where), size))

    def mask(self, mask: MaskFile, where: str) -> Bool[np.ndarray, "H W"]:
        """`decode_mask`, remembered. The array is read-only. Raises ImageError."""
        return self._get(mask, lambda: decode_mask(mask, where))

    def _get(self, key: Any, load: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        # Decoded outside the lock: two threads may decode the same image once each, none waits for another.
        value = load()
        value.setflags(write=False)
        with self._lock:
            if key not in self._entries:
                self._entries[key] = value
                self._bytes += value.nbytes
            while self._bytes > self.max_mb * 2**20 and self._entries:
                self._bytes -= self._entries.popitem(last=False)[1].nbytes
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_mb, self.window, self.max_pixels)
