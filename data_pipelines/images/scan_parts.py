"""Which picture of many is meant: `cine.dcm#frame=3`, `ct.nii.gz#axis=2,slice=40,window=lung`, `x.tif#page=2`.

Such a name may stand wherever an image file's may. Nothing is read here but whether a file of that very name exists.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from data_pipelines.core.errors import ImageError, InvalidPart, UserError, unreadable_image
from data_pipelines.images.masks import check_meaning
from data_pipelines.images.windows import window_of
from data_pipelines.settings import MAX_IMAGE_PIXELS

logger = logging.getLogger(__name__)

_FLAT = 0.99


@dataclass(frozen=True)
class ScanPart:
    """One picture of a scan; None takes the default, which is the middle one, of pages the first.

    Attributes:
      frame: of a DICOM file, counted from 1, as DICOM does; of an animation (GIF, WebP, PNG) too.
      page: of a TIFF file, counted from 1; another word for frame.
      axis: of a NIfTI volume, along which it is cut: 0 sagittal, 1 coronal, 2 axial (the default).
      slice: along that axis, counted from 0 as NIfTI's voxels are, towards the patient's right, front or head.
      volume: of a NIfTI series (4th axis), counted from 0, which is the default.
      mask: what a mask picture marks, as `masks.mask_levels` reads it: found, alpha, index:N or threshold:N.
      window: as `windows.window_of` reads it; None is the run's.
    """

    frame: int | None = None
    page: int | None = None
    axis: int | None = None
    slice: int | None = None
    volume: int | None = None
    mask: str | None = None
    window: str | None = None


WHOLE = ScanPart()
_FIELDS = tuple(field.name for field in dataclasses.fields(ScanPart))
_SUFFIX = re.compile(r"\w+=[^/#]*")


def split_part(name: str) -> tuple[str, ScanPart]:
    """The file's path, and the part after "#"; a file that is really so named has none.

    Raises:
      DataError: the part has an unknown, repeated or ill-typed field.
    """
    path, mark, text = name.rpartition("#")
    if not mark or not _SUFFIX.fullmatch(text) or os.path.exists(name):
        return name, WHOLE
    values: dict[str, int | str] = {}
    for item in text.split(","):
        field, _, value = item.partition("=")
        if field not in _FIELDS or field in values:
            fault = "twice" if field in values else "is no part of a scan"
            raise InvalidPart(f"{name}: {field!r} {fault}; write each of {', '.join(_FIELDS)} once at most")
        if field == "window":
            window_of(value, name)
            values[field] = value
        elif field == "mask":
            check_meaning(value, name)
            values[field] = value
        elif value.isascii() and value.isdigit():
            values[field] = int(value)
        else:
            raise InvalidPart(f"{name}: {field} is {value!r}; write a whole number")
    return path, ScanPart(**values)  # type: ignore[arg-type]


def within(field: str, value: int, known: range, name: str) -> int:
    """The value of a part's field. Raises: DataError: the file has no such one."""
    if value not in known:
        raise InvalidPart(f"{name}: no {field} {value}; write {field}={known[0]} to {field}={known[-1]}")
    return value


@functools.lru_cache(maxsize=65536)  # once for each file, not for each epoch
def warn_once(message: str) -> None:
    """Logs what may be wrong with a file."""
    logger.warning("%s", message)


def require_size(size: tuple[int, int], name: str, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Raises: ImageError: a picture of that width and height is empty, or has more pixels than allowed."""
    width, height = size
    if width < 1 or height < 1:
        raise unreadable_image(name, "it has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: has {width} x {height} pixels, more than --max-image-pixels "
            f"(data.max_image_pixels = {max_pixels}) allows; shrink it, or raise the number if you trust the file",
            code="image.too-large",
        )


@contextlib.contextmanager
def reading(what: str, kind: str, name: str) -> Iterator[None]:
    """Around what another library does with a damaged file, whose own words may quote what names a patient.

    Args:
      what: is read, e.g. "its pixels". kind: of the file, e.g. "DICOM".

    Raises:
      ImageError: it cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise unreadable_image(name, f"{what} take more memory than there is") from None
    # pydicom and nibabel report damaged files with many types: ValueError, KeyError, struct.error, EOFError …
    except Exception:
        raise unreadable_image(name, f"damaged {kind}: {what} cannot be read") from None


def say_if_flat(grey: UInt8[np.ndarray, "H W"], name: str) -> None:
    """Warns once of a stretched picture that is nearly all one grey: a few values far from the others make it so."""
    share = np.bincount(grey.ravel(), minlength=256).max() / max(1, grey.size)
    if share >= _FLAT:
        warn_once(
            f"{name}: almost all one value: {100 * share:.1f} % of its pixels have one grey; it may be empty, "
            "or hold a few values far from the others, such as a number that stands for none"
        )


def refuse(part: ScanPart, fields: Iterable[str], name: str, kind: str) -> None:
    """Raises DataError where a part has one of the fields, which files of this kind do not have."""
    for field in fields:
        if getattr(part, field) is not None:
            raise InvalidPart(f"{name}: {kind} has no {field}; leave {field}= out of the name")
