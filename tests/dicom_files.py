"""DICOM files drawn for the tests, with the elements that a test is about."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def write_dicom(path, pixels, *, bits=16, signed=False, **elements):
    """A Part 10 file of frames [H, W] or [F, H, W], or of colours [H, W, 3] where that is said."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    elements = {"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1, "Modality": "CT", **elements}
    height, width = pixels.shape[-3:-1] if elements["SamplesPerPixel"] == 3 else pixels.shape[-2:]
    dataset.Rows, dataset.Columns = height, width
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
    if elements["SamplesPerPixel"] == 1 and pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    for name, value in elements.items():
        setattr(dataset, name, value)
    kind = ("i" if signed else "u") + str(dataset.BitsAllocated // 8)
    dataset.PixelData = np.ascontiguousarray(pixels, f"<{kind}").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return str(path)
