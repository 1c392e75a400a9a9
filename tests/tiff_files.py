"""TIFF files of every layout of samples, written by the specification (TIFF 6.0) and by nothing that reads them."""

import struct
import zlib

_FORMATS = {3: "H", 4: "I"}


def tiff(
    values, *, photometric=1, sample_format=1, order="<", compressed=False, extra=None, nodata=None, planar=1
) -> bytes:
    """A file of one strip; `values` is [H, W] or [H, W, samples]."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if compressed else data
    fields = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [values.dtype.itemsize * 8] * samples),
        259: (3, [8 if compressed else 1]), 262: (3, [photometric]), 273: (4, [0]), 277: (3, [samples]),
        278: (4, [height]), 279: (4, [len(data)]), 284: (3, [planar]),
    }  # fmt: skip
    if extra is not None:
        fields[338] = (3, [extra])
    fields[339] = (3, [sample_format] * samples)
    if nodata is not None:
        fields[42113] = (2, nodata.encode() + b"\0")
    place = 8 + 2 + 12 * len(fields) + 4
    beyond = {}
    for tag, (kind, content) in fields.items():
        packed = content if kind == 2 else struct.pack(f"{order}{len(content)}{_FORMATS[kind]}", *content)
        if len(packed) > 4:
            beyond[tag] = place, packed
            place += len(packed)
    out = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(fields))
    for tag, (kind, content) in fields.items():
        if tag in beyond:
            value = struct.pack(f"{order}I", beyond[tag][0])
        elif tag == 273:
            value = struct.pack(f"{order}I", place)
        else:
            value = struct.pack(f"{order}{len(content)}{_FORMATS[kind]}", *content).ljust(4, b"\0")
        out += struct.pack(f"{order}HHI", tag, kind, len(content)) + value
    return out + bytes(4) + b"".join(packed for _, packed in beyond.values()) + data
