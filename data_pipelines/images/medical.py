"""DICOM and NIfTI files where an image file may stand: recognised by their content, decoded to what a viewer shows."""

import gzip
import io
import os
import zlib
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
from jaxtyping import UInt8

from data_pipelines.core.errors import unreadable_image
from data_pipelines.core.first_bytes import HEAD, disguise
from data_pipelines.images.dicom import decode_dicom
from data_pipelines.images.nifti import decode_nifti
from data_pipelines.images.scan_parts import WHOLE, ScanPart, reading, split_part
from data_pipelines.images.windows import AUTO
from data_pipelines.settings import MAX_IMAGE_PIXELS

_Decoder = Callable[[BinaryIO, str, ScanPart, str, int], UInt8[np.ndarray, "H W 3"]]

_GZIP = b"\x1f\x8b"
_HEAD = 540  # the length of NIfTI-2's header, the longest that is looked at


def decode_scan(
    image: object, where: str, window: str = AUTO, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture in a DICOM or NIfTI file, or None where it is neither, or missing.

    Args:
      image: path, perhaps with a part as in `scan_parts`; or the file's bytes.
      where: names the image in messages when it comes as bytes.
      window: `DataConfig.window`, which the part's own overrides.
      max_pixels: `DataConfig.max_image_pixels`.

    Raises:
      ImageError: truncated, unreadable, compressed in a way that no installed package reads, or empty.
      DataError: a part that the file does not have, a window that does not suit it, or a package that is missing.
    """
    if not isinstance(image, str | bytes):
        return None
    path, part = split_part(image) if isinstance(image, str) else (image, WHOLE)
    name = image if isinstance(image, str) else where
    if isinstance(path, str) and not os.path.isfile(path):
        return None
    try:
        opened = open(path, "rb") if isinstance(path, str) else io.BytesIO(path)  # noqa: SIM115
    except OSError:
        return None
    with opened as file:
        decoder, stream = _recognise(cast(BinaryIO, file))
        if decoder is None:
            _refuse_mistaken(path, name)
            return None
        with reading("its picture", "DICOM" if decoder is decode_dicom else "NIfTI", name):
            picture = decoder(stream, name, part, part.window or window, max_pixels)
    if 0 in picture.shape:
        raise unreadable_image(name, "it has no pixels")
    return picture


def is_scan(image: str | bytes) -> bool:
    """Whether a file, or its bytes, is DICOM or NIfTI by its content. Not if it cannot be read."""
    try:
        with open(image, "rb") if isinstance(image, str) else io.BytesIO(image) as file:
            return _recognise(cast(BinaryIO, file))[0] is not None
    except OSError:
        return False


def _recognise(file: BinaryIO) -> tuple[_Decoder | None, BinaryIO]:
    head = file.read(_HEAD)
    file.seek(0)
    if head[128:132] == b"DICM":
        return decode_dicom, file
    stream = file
    if head.startswith(_GZIP):
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file))
        try:
            head = stream.read(_HEAD)
            stream.seek(0)
        except (OSError, EOFError, zlib.error):
            file.seek(0)
            return None, file
    # NIfTI-1 has its magic at the end of its 348 bytes, NIfTI-2 after the length. "+": header and data in one file.
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return decode_nifti, stream
    return None, file


def _refuse_mistaken(path: str | bytes, name: str) -> None:
    """What is neither DICOM nor NIfTI, but named as if it were."""
    kind = str(path).lower() if isinstance(path, str) else ""
    if kind.endswith((".dcm", ".dicom", ".nii", ".nii.gz", ".hdr")):
        with open(path, "rb") as file:
            what, _, remedy = disguise(file.read(HEAD)).partition("; ")
        if what and not what.startswith("compressed with gzip"):
            raise unreadable_image(name, what, remedy)
    if kind.endswith((".dcm", ".dicom")):
        raise unreadable_image(name, "no DICM at byte 128", "write it anew as a DICOM Part 10 file")
    if kind.endswith((".nii", ".nii.gz", ".hdr")):
        raise unreadable_image(name, "no NIfTI file with its header inside", "convert it to .nii.gz")
