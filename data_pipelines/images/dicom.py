"""DICOM files: stored values to what a viewer shows (PS3.4 N.2: modality transformation, then VOI, then polarity).

Only the elements named here are parsed: names, numbers, dates and places of patients and institutions are never in
memory, so that nothing that is logged, raised or returned can hold them. Messages of pydicom's own exceptions are not
repeated either: in a damaged file any bytes may stand in them.
"""

import functools
import importlib
import logging
import math
import warnings
import zlib
from collections.abc import MutableSequence
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.core.errors import DataError, unreadable_image
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.images import windows
from data_pipelines.images.scan_parts import ScanPart, reading, refuse, require_size, say_if_flat, warn_once, within
from data_pipelines.images.windows import AUTO, Window
from data_pipelines.settings import MAX_IMAGE_PIXELS

_RLE = "1.2.840.10008.1.2.5"
_META = 2048  # bytes in which a file says how it is encoded
_MOST_INFLATED = 2**29
_CHANNELS = ("Red", "Green", "Blue")
_ELEMENTS = (
    *("Modality", "BurnedInAnnotation", "PixelPresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *(f"{word}PixelPadding{end}" for word in ("Float", "DoubleFloat") for end in ("Value", "RangeLimit")),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(f"{channel}PaletteColorLookupTableDescriptor" for channel in _CHANNELS),
    *(f"{channel}PaletteColorLookupTableData" for channel in _CHANNELS),
    *(f"Segmented{channel}PaletteColorLookupTableData" for channel in _CHANNELS),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
# Where enhanced CT and MR keep what other files keep at their top.
_OF_A_FRAME = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
# As decoded: pydicom turns YBR_FULL and YBR_FULL_422 to RGB, and JPEG 2000's decoders undo YBR_RCT and YBR_ICT.
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


def decode_dicom(
    file: BinaryIO, name: str, part: ScanPart, window: str = AUTO, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame as a viewer shows it: rescaled, windowed, light where the tissue is dense, or in its colours.

    Rows and columns are as stored, as in every viewer. `auto` takes the file's first VOI table or window; without one,
    8-bit greys as they are, and others from least to greatest. Padding is black.

    Raises:
      ImageError: truncated, unreadable, without pixels, or compressed in a way that no installed package reads.
      DataError: no such frame, or a CT window for what is not CT; pydicom is missing.
    """
    pydicom = _pydicom()
    refuse(part, ("page", "axis", "slice", "volume"), name, "a DICOM file")
    _refuse_bomb(file, name)
    with reading("its elements", "DICOM", name):
        dataset = pydicom.dcmread(file, specific_tags=list(_ELEMENTS))
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise unreadable_image(name, "a DICOM file without pixels", "leave it out")
    with reading("its elements", "DICOM", name):
        require_size((int(dataset.Columns), int(dataset.Rows)), name, max_pixels)
        frames = int(dataset.get("NumberOfFrames") or 1)
        frame = frames // 2 if part.frame is None else within("frame", part.frame, range(1, frames + 1), name) - 1
        _take_from_frame(dataset, frame)
        burned_in = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        kind = str(dataset.get("PhotometricInterpretation", "")).strip()
    if burned_in:
        warn_once(f"{name}: BurnedInAnnotation is YES: the pixels may show who the patient is; look at it before use")
    with reading("its pixels", "DICOM", name):
        stored = _stored(dataset, frame, name)
    with reading("its rescale, window or palette", "DICOM", name):
        if kind not in ("MONOCHROME1", "MONOCHROME2"):
            return _colours(dataset, stored, kind, window, name)
        padding = _padding(dataset, stored)
        levels = _levels(dataset, stored, padding, window, name)
        picture = windows.shown(255 - levels if kind == "MONOCHROME1" else levels, padding)
    say_if_flat(picture[..., 0], name)
    return picture


def _refuse_bomb(file: BinaryIO, name: str) -> None:
    """Raises: ImageError: a deflated file (PS3.5 A.5) unpacks to more than is taken into memory."""
    head = file.read(_META)
    deflated = b"1.2.840.10008.1.2.1.99" in head[132:]
    file.seek(144 + int.from_bytes(head[140:144], "little") if deflated else 0)  # behind the file meta information
    inflate, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while deflated and found <= _MOST_INFLATED and (piece := inflate.unconsumed_tail or file.read(2**16)):
            found += len(inflate.decompress(piece, 2**20))
    except zlib.error:
        raise unreadable_image(name, "damaged DICOM: its deflated elements cannot be unpacked") from None
    if found > _MOST_INFLATED:
        raise unreadable_image(
            name, f"it unpacks to more than {_MOST_INFLATED >> 20} MiB", "write it without deflate (dcmconv +te)"
        )
    file.seek(0)


@functools.cache
def _pydicom() -> Any:
    pydicom = optional_package("pydicom", "DICOM files")
    importlib.import_module("pydicom.pixels")
    # It warns and logs with the values at fault, which in a damaged file may be anybody's name.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    return pydicom


def _take_from_frame(dataset: Any, frame: int) -> None:
    """Puts the frame's own rescale and window at the top, where those of a simple file stand."""
    for sequence, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        groups = dataset.get(sequence)
        for macro, fields in _OF_A_FRAME.items() if groups else ():
            for item in (groups[index].get(macro) or ())[:1]:
                for field in fields:
                    if field in item:
                        dataset[field] = item[field]


def _stored(dataset: Any, frame: int, name: str) -> np.ndarray:
    """The frame's stored values, [H, W] or [H, W, 3]."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == _RLE:
        frames = int(dataset.get("NumberOfFrames") or 1)
        encoded = _pydicom().encaps.get_frame(dataset.PixelData, frame, number_of_frames=frames)
        bits = int(dataset.BitsAllocated) * int(dataset.SamplesPerPixel)
        # Runs of one pixel each make it a 128th longer.
        if len(encoded) > dataset.Rows * dataset.Columns * bits // 4 + _META:
            raise unreadable_image(name, "its RLE is longer than its rows and columns can be")
    try:
        return _pydicom().pixels.pixel_array(dataset, index=frame)
    except (RuntimeError, NotImplementedError):
        if not syntax.is_compressed:
            raise
        # The only text of the file in this message is a name from pydicom's own table of transfer syntaxes.
        form = syntax.name if syntax.is_transfer_syntax else "an unknown transfer syntax"
        remedy = "install decoders (pip install 'pylibjpeg[all]'), or decompress it, such as by dcmdjpeg or gdcmconv"
        raise unreadable_image(name, f"nothing installed decodes its {form}", remedy) from None
    except ValueError as error:
        if "less than expected" not in str(error):
            raise
        raise unreadable_image(name, "truncated: fewer pixels than its rows and columns") from None


def _padding(dataset: Any, stored: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """What is no measurement: the padding value or range (PS3.3 C.7.5.1.1.2), and what is not finite."""
    blank = ~np.isfinite(stored)
    prefix = next((word for word in ("Double", "") if f"{word}FloatPixelData" in dataset), None)
    prefix = "" if prefix is None else f"{prefix}Float"
    value, limit = (dataset.get(f"{prefix}PixelPadding{end}") for end in ("Value", "RangeLimit"))
    if isinstance(value, int | float):
        ends = [_as_pixel(dataset, end) for end in (value, limit if isinstance(limit, int | float) else value)]
        blank |= (stored >= min(ends)) & (stored <= max(ends))
    return blank


def _as_pixel(dataset: Any, value: float) -> float:
    """A padding value with the sign of the pixels: files write -2000 as 63536, and the other way round."""
    if isinstance(value, float):
        return value
    bits, is_signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    whole = 2 ** int(dataset.BitsAllocated)
    return next((turned for turned in (value, value - whole, value + whole) if low <= turned <= high), value)


def _levels(
    dataset: Any, stored: np.ndarray, padding: Bool[np.ndarray, "H W"], window: str, name: str
) -> Float[np.ndarray, "H W"]:
    """0 … 255 by the chosen window, before the polarity."""
    _check_rescale(dataset, name)
    values = _pydicom().pixels.apply_modality_lut(stored, dataset)
    chosen = windows.window_of(window, name)
    if windows.is_ct_window(window) and str(dataset.get("Modality", "")).strip() not in ("CT", ""):
        raise DataError(
            f"{name}: window {window!r} is in Hounsfield units, and the file's modality is not CT; "
            f"choose {AUTO}, {windows.MINMAX}, {windows.PERCENTILE} or CENTRE:WIDTH",
            code="image.window-mismatch",
        )
    if chosen == AUTO:
        if dataset.get("VOILUTSequence"):
            return _voi_table(dataset, values)
        own = _own_window(dataset, name)
        if own is None and dataset.get("BitsStored") == 8 and not dataset.PixelRepresentation and values is stored:
            return stored.astype(np.float64)
        chosen = own or windows.MINMAX
    return windows.measured_levels(values.astype(np.float64), padding, chosen)


def _check_rescale(dataset: Any, name: str) -> None:
    """Raises: ImageError: the rescale makes one value of all, or none."""
    for field in ("RescaleSlope", "RescaleIntercept"):
        value = dataset.get(field)
        if value in (None, "") or dataset.get("ModalityLUTSequence"):
            continue
        number = float(value)
        if not math.isfinite(number) or (number == 0 and field == "RescaleSlope"):
            raise unreadable_image(name, f"{field} is {number:g}, which makes one value of all", "correct the element")


def _own_window(dataset: Any, name: str) -> Window | None:
    """The first of the file's windows. Raises ImageError where it is none."""
    pair = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    centre, width = (value[0] if isinstance(value, MutableSequence) and value else value for value in pair)
    if centre in (None, "") or width in (None, ""):
        return None
    shape = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    centre, width = float(centre), float(width)
    if shape not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width < (1 if shape == "LINEAR" else 1e-9):
        remedy = f"name another with #window= or data.window, such as {windows.MINMAX}"
        raise unreadable_image(name, "the file's own window is malformed", remedy)
    return Window(centre, width, shape)  # type: ignore[arg-type]


def _voi_table(dataset: Any, values: np.ndarray) -> Float[np.ndarray, "H W"]:
    entries, first, bits = (int(number) for number in dataset.VOILUTSequence[0].LUTDescriptor)
    # Clipped to the table: apply_voi subtracts in 16 bits, where values far above it would wrap around.
    within = np.clip(np.rint(values), first, first + (entries or 65536) - 1).astype(np.int64)
    return _pydicom().pixels.apply_voi(within, dataset) * (255 / (2**bits - 1))


def _colours(dataset: Any, stored: np.ndarray, kind: str, window: str, name: str) -> UInt8[np.ndarray, "H W 3"]:
    windows.refuse_colours(window, name)
    if kind == "PALETTE COLOR":
        picture = _pydicom().pixels.apply_color_lut(stored, dataset)[..., :3]
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    elif kind in _COLOURS and stored.ndim == 3:
        picture, bits = stored, int(dataset.BitsStored)
    else:
        known = ", ".join(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", *_COLOURS))
        raise unreadable_image(name, f"photometric interpretation is not one of {known}", "convert it")
    if picture.dtype != np.uint8 or bits != 8:
        picture = np.rint(picture * (255 / (2**bits - 1))).astype(np.uint8)
    return picture
