"""NIfTI volumes: one slice, as a radiologist sees it.

The volume is turned to its closest canonical orientation, RAS+ (voxels count towards the patient's right, front and
head), by permuting and flipping axes; an oblique volume is not resampled. A slice then lies as radiology shows it:

  axial (axis 2):    front up, the patient's left on the image's right
  coronal (axis 1):  head up, the patient's left on the image's right
  sagittal (axis 0): head up, front on the image's left

so that "left" in a label or an answer is the patient's left, as it is on the published CT and MRI of SLAKE. Voxels are
taken as stored, however long their sides: every image becomes a square for the model.
"""

import math
import struct
from gzip import GzipFile
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.core.errors import unreadable_image
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.images.scan_parts import ScanPart, reading, refuse, require_size, say_if_flat, warn_once, within
from data_pipelines.images.windows import AUTO, MINMAX, Window, measured_levels, refuse_colours, shown, window_of
from data_pipelines.settings import MAX_IMAGE_PIXELS

_AXIAL = 2
# Bytes: where voxels may begin behind a header and its extensions, and how much is read to get to a slice.
_FURTHEST_START, _LARGEST_VOLUME, _FURTHEST_PACKED = 2**26, 2**30, 3 * 2**30


def decode_nifti(
    file: BinaryIO, name: str, part: ScanPart, window: str = AUTO, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """A slice of a NIfTI-1 or NIfTI-2 volume; see the module for how it lies.

    `auto` takes the header's `cal_min` and `cal_max` where they are set, else the slice's least and greatest value. A
    NIfTI file does not say its modality, so a CT window is applied to whatever it is given.

    Raises:
      ImageError: truncated or unreadable, or of more than four axes.
      DataError: no such axis, slice or volume; nibabel is missing.
    """
    values, header = _stored_slice(file, name, part, max_pixels)
    if values.dtype.fields:  # RGB24 and RGBA32
        refuse_colours(window, name)
        return np.stack([values[channel] for channel in "RGB"], axis=2).astype(np.uint8)
    picture = _grey(header, np.asarray(values, np.float64), window, name)
    say_if_flat(picture[..., 0], name)
    return picture


def _stored_slice(file: BinaryIO, name: str, part: ScanPart, max_pixels: int) -> tuple[np.ndarray, Any]:
    """The values of the slice that is meant, scaled by the header, [H, W]; and the header."""
    nibabel = optional_package("nibabel", "NIfTI files")
    refuse(part, ("frame", "page"), name, "a NIfTI file")
    head = file.read(176)
    file.seek(0)
    second = head[4:7] == b"n+2"
    order = "<" if head[:4] == (540 if second else 348).to_bytes(4, "little") else ">"
    (start,) = struct.unpack_from(f"{order}q" if second else f"{order}f", head, 168 if second else 108)
    if not 0 <= start <= _FURTHEST_START:
        raise unreadable_image(name, f"damaged NIfTI: its voxels begin at byte {start:g}")
    with reading("its header", "NIfTI", name):
        image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_stream(file)
    with reading("the voxels that its header says", "NIfTI", name):
        axis = _AXIAL if part.axis is None else part.axis
        return _slice(nibabel, image, axis, part, name, max_pixels, packed=isinstance(file, GzipFile)), image.header


def _require_volume(image: Any, shape: tuple[int, ...], volume: int, name: str, *, packed: bool) -> None:
    """Raises: ImageError: a volume is larger than is taken into memory, or lies too far in a compressed file."""
    one = math.prod(shape[:3]) * image.header.get_data_dtype().itemsize
    if one > _LARGEST_VOLUME or (packed and one * (volume + 1) > _FURTHEST_PACKED):
        remedy = "unpack it to .nii, or give it in parts" if packed else "give it in parts"
        raise unreadable_image(name, f"a volume of {' x '.join(map(str, shape[:3]))} voxels is too large", remedy)


def _slice(
    nibabel: ModuleType, image: Any, axis: int, part: ScanPart, name: str, max_pixels: int, *, packed: bool
) -> np.ndarray:
    """The slice of the canonical volume, rows from the top and columns from the left of the picture: [H, W]."""
    shape = (*image.shape, 1, 1)[: max(3, len(image.shape))]
    if any(length != 1 for length in shape[4:]):
        raise unreadable_image(name, f"it has {len(shape)} axes", "give a volume, or a series of some")
    axis = within("axis", axis, range(3), name)
    volume = within("volume", part.volume or 0, range(shape[3] if len(shape) > 3 else 1), name)
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        warn_once(f"{name}: the header does not say how the volume lies (sform and qform are 0): left may be right")
    _require_volume(image, shape, volume, name, packed=packed)
    # Of each stored axis the canonical one that it runs along, and whether forwards (1) or backwards (-1).
    orientation = nibabel.io_orientation(image.affine)
    along = [int(canonical) for canonical in orientation[:, 0]]
    length = shape[along.index(axis)]
    number = within("slice", length // 2 if part.slice is None else part.slice, range(length), name)
    sides = [side for stored_axis, side in enumerate(shape[:3]) if along[stored_axis] != axis]
    require_size((sides[0], sides[1]), name, max_pixels)
    chosen: list[int | slice] = [slice(None)] * 3
    stored_axis = along.index(axis)
    chosen[stored_axis] = number if orientation[stored_axis, 1] > 0 else length - 1 - number
    # Through the proxy: of an uncompressed file only the slice is read.
    stored = np.asarray(image.dataobj[tuple([*chosen, volume, *[0] * (len(shape) - 4)][: len(image.shape)])])
    cut = [1 if i == stored_axis else shape[i] for i in range(3)]  # a flat image has fewer axes
    picture = np.take(nibabel.apply_orientation(stored.reshape(cut), orientation), 0, axis)
    # Now [lower axis, higher axis]. Columns are the lower and rows the higher one; both run against RAS+ on the
    # screen: right to left, front to back, head to foot.
    return picture[::-1, ::-1].T


def _grey(header: Any, values: Float[np.ndarray, "H W"], window: str, name: str) -> UInt8[np.ndarray, "H W 3"]:
    chosen = window_of(window, name)
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if chosen == AUTO:
        chosen = Window((low + high) / 2, high - low, "LINEAR_EXACT") if high > low else MINMAX
    blank = ~np.isfinite(values)
    return shown(measured_levels(values, blank, chosen), blank)
