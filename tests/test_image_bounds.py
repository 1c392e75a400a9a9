"""What an image declares is checked before work: sizes, bombs, rescale and padding; and no error is a type's name."""

import gzip
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import write_dicom
from expected_errors import refused
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from data_pipelines.core.errors import ImageError
from data_pipelines.images.reading import ImageCache, decode, frame_of
from data_pipelines.prepare import main
from data_pipelines.settings import MAX_IMAGE_PIXELS

RAMP = np.arange(64).reshape(8, 8) * 16


def png_header(width, height, rows=b""):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey(image, *options):
    return decode(image, "x", *options)[..., 0].astype(int)


@pytest.mark.parametrize("slope", ["0", "0.0", "nan", "inf"])
def test_a_rescale_that_makes_one_value_of_all_is_refused(tmp_path, slope):
    path = Path(write_dicom(tmp_path / "x.dcm", RAMP, RescaleSlope="1.0", RescaleIntercept="0"))
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x001.0 ", b"DS\x04\x00" + slope.ljust(4).encode()))
    with refused(ImageError, "image.unreadable", "x.dcm"):
        decode(str(path), "x")


@pytest.mark.parametrize(("signed", "value", "written"), [(True, -2000, 63536), (False, 63536, -2000)])
@pytest.mark.parametrize("bits", [12, 16])
def test_padding_written_with_another_sign_is_padding(tmp_path, signed, value, written, bits):
    if bits == 12 and not signed:
        pytest.skip("no 12 bits hold it")
    values = np.array([[value, value], [0, 100]])
    path = write_dicom(tmp_path / "x.dcm", values.astype("i2" if signed else "u2"), signed=signed, bits=bits)
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)
    dataset.save_as(path)
    assert grey(path).tolist() == [[0, 0], [0, 255]]


def test_a_padding_value_that_pixels_can_have_is_taken_as_it_is(tmp_path):
    values = np.array([[40000, 40000], [0, 100]])
    path = write_dicom(tmp_path / "x.dcm", values, PixelPaddingValue=40000)
    assert grey(path).tolist() == [[0, 0], [0, 255]]


@pytest.mark.parametrize("seed", range(4))
def test_no_damaged_scan_is_told_by_the_name_of_an_exception(tmp_path, seed):
    rng = np.random.default_rng(seed)
    scan = Path(write_dicom(tmp_path / "x.dcm", RAMP, bits=12, WindowCenter=3, WindowWidth=9)).read_bytes()
    nibabel.save(nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)), tmp_path / "x.nii")
    for whole in (scan, (tmp_path / "x.nii").read_bytes()):
        for _ in range(60):
            content = bytearray(whole)
            for place in rng.integers(132, len(content), 4):
                content[place] = rng.integers(256)
            said = complaint(bytes(content[: rng.integers(200, len(content) + 1)]))
            assert "Error" not in said
            assert "\n" not in said


def complaint(content):
    try:
        decode(content, "x")
    except ImageError as error:
        return str(error)
    return ""


BOMB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(2.5 * 2**30), int(2.5 * 2**30)))
from data_pipelines.core.errors import ImageError
from data_pipelines.images.reading import decode
for path in sys.argv[1:]:
    try:
        decode(path, "x")
    except ImageError as error:
        print(error.code, str(error).splitlines()[0])
    else:
        print("decoded", path)
"""


def bombs(folder):
    """Small files that declare, or unpack to, far more than fits."""
    (folder / "wide.png").write_bytes(png_header(100_000, 100_000))
    (folder / "gif.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + bytes(20))
    path = Path(write_dicom(folder / "rows.dcm", RAMP))
    path.write_bytes(path.read_bytes().replace(b"US\x02\x00\x08\x00", b"US\x02\x00\xff\xff"))
    dataset = pydicom.dcmread(write_dicom(folder / "rle.dcm", RAMP.astype(np.uint8), bits=8))
    dataset.compress(RLELossless)
    dataset.PixelData = pydicom.encaps.encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 2**18])
    dataset.save_as(folder / "rle.dcm")
    dataset = pydicom.dcmread(write_dicom(folder / "deflated.dcm", RAMP))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = bytes(2**20)
    dataset.save_as(folder / "deflated.dcm")
    content = (folder / "deflated.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = b"".join(deflate.compress(bytes(2**24)) for _ in range(34)) + deflate.flush()
    (folder / "deflated.dcm").write_bytes(content[:start] + packed)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (folder / "cube.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))
    header["vox_offset"] = 2e9
    (folder / "offset.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(2**20)))
    return sorted(str(path) for path in folder.iterdir())


@pytest.mark.slow
def test_what_declares_more_than_fits_is_refused_in_bounded_memory_and_time(tmp_path):
    paths = bombs(tmp_path)
    ran = subprocess.run([sys.executable, "-c", BOMB, *paths], capture_output=True, text=True, timeout=60, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == len(paths), ran.stdout + ran.stderr
    assert all(line.split()[0] in ("image.too-large", "image.unreadable") for line in lines), ran.stdout


def test_the_largest_image_is_a_setting(tmp_path):
    image = io.BytesIO()
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(image, "PNG")
    with refused(ImageError, "image.too-large", "40 x 30", "1199", "max_image_pixels", "--max-image-pixels"):
        decode(image.getvalue(), "x", max_pixels=1199)
    with refused(ImageError, "image.too-large"):
        ImageCache(1, max_pixels=1199).image(image.getvalue(), "x")
    assert ImageCache(1, max_pixels=1200).image(image.getvalue(), "x").shape == (30, 40, 3)


def test_a_larger_image_than_pillow_opens_is_opened_by_the_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it refuses twice as many
    path = tmp_path / "slide.png"
    path.write_bytes(png_header(40, 30, bytes(6 * 30)))
    assert frame_of(str(path), "x") == (40, 30)
    assert decode(str(path), "x").shape == (30, 40, 3)
    assert MAX_IMAGE_PIXELS == 178_956_970


def test_prepare_refuses_larger_images_than_allowed(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "in/a.png")
    (tmp_path / "in/train.jsonl").write_text('{"id": "1", "image": "a.png", "question": "q", "answer": "a"}\n')
    command = ["jsonl", "--source", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers=1"]
    assert main([*command, "--max-image-pixels=1199"]) == 2
    assert "max_image_pixels = 1199" in capsys.readouterr().err
    assert main([*command, "--max-image-pixels=1200"]) == 0
