"""What is stored of an image: the same pixels, and nothing that could name a patient."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_pipelines.core.errors import ImageError
from data_pipelines.images import reading
from data_pipelines.prepared.image_bytes import storable, without_metadata

NAME = "Doe^Jane"


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, kind, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def exif(orientation=6):
    tags = Image.Exif()
    tags[0x0112], tags[0x010E] = orientation, NAME
    return tags


def png_text():
    text = PngInfo()
    text.add_text("Patient", NAME)
    text.add_itxt("Comment", NAME)
    return text


def with_segment(jpeg, marker, content):
    """A JPEG with one more segment after its first two bytes."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


JPEG = encoded(pixels(32, 48, 3), "JPEG")


@pytest.mark.parametrize(
    "plain",
    [
        JPEG,
        encoded(pixels(32, 48), "JPEG"),
        encoded(pixels(64, 64, 3), "JPEG", progressive=True),
        encoded(pixels(64, 64, 3), "JPEG", restart_marker_rows=1),
        encoded(pixels(32, 48, 3), "PNG"),
        encoded(pixels(32, 48, 4), "PNG"),
        encoded(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900, "PNG"),
    ],
)
def test_a_file_without_metadata_is_stored_as_it_is(plain):
    assert storable(plain, "x", reading.decode) == plain


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        (encoded(pixels(32, 48, 3), "JPEG", exif=exif()), "JPEG"),
        (encoded(pixels(32, 48, 3), "JPEG", comment=NAME.encode()), "JPEG"),
        (encoded(pixels(64, 64, 3), "JPEG", progressive=True, exif=exif()), "JPEG"),
        (encoded(pixels(64, 64, 4)[..., :4], "PNG", pnginfo=png_text()), "PNG"),
        (with_segment(JPEG, 0xED, b"Photoshop 3.0\0" + NAME.encode()), "JPEG"),
        (JPEG + NAME.encode(), "JPEG"),
        (JPEG + encoded(pixels(8, 8, 3), "JPEG", exif=exif()), "JPEG"),
        (encoded(pixels(32, 48, 3), "TIFF", tiffinfo={270: NAME}), "PNG"),
        (encoded(pixels(32, 48), "BMP") + NAME.encode(), "PNG"),
    ],
    ids=["exif", "comment", "progressive", "png text", "photoshop", "trailing", "second image", "tiff", "bmp"],
)
def test_what_names_a_patient_goes_and_the_pixels_stay(named, kind):
    assert NAME.encode() in named
    stored = storable(named, "x", reading.decode)
    assert NAME.encode() not in stored
    assert Image.open(io.BytesIO(stored)).format == kind
    assert Image.open(io.BytesIO(stored)).getexif() == {}
    assert (reading.decode(stored, "x") == reading.decode(named, "x")).all()


def test_exif_orientation_is_not_applied_as_boxes_are_drawn_on_stored_pixels():
    turned = encoded(pixels(32, 48, 3), "JPEG", exif=exif(orientation=6))
    assert reading.decode(storable(turned, "x", reading.decode), "x").shape == (32, 48, 3)


def test_colours_coded_as_adobe_says_stay_what_they_are():
    cmyk = io.BytesIO()
    Image.fromarray(pixels(16, 16, 3)).convert("CMYK").save(cmyk, "JPEG", exif=exif())
    stored = storable(cmyk.getvalue(), "x", reading.decode)
    assert Image.open(io.BytesIO(stored)).mode == "CMYK"
    assert (reading.decode(stored, "x") == reading.decode(cmyk.getvalue(), "x")).all()


def test_where_dropping_a_segment_would_change_a_pixel_the_pixels_are_stored_as_png(monkeypatch):
    named = encoded(pixels(32, 48, 3), "JPEG", exif=exif())
    monkeypatch.setattr("data_pipelines.prepared.image_bytes.without_metadata", lambda _: JPEG[:-40] + JPEG[-2:])
    stored = storable(named, "x", reading.decode)
    assert Image.open(io.BytesIO(stored)).format == "PNG"
    assert (reading.decode(stored, "x") == reading.decode(named, "x")).all()


def test_a_mask_keeps_its_grey_levels_whatever_its_format(tmp_path):
    levels = np.array([[0, 70], [20, 255]], np.uint8)
    path = tmp_path / "mask.tiff"
    Image.fromarray(levels).save(path)
    assert (reading.decode_grey(storable(str(path), "x", reading.decode_grey), "x") == levels).all()


@pytest.mark.parametrize("broken", [b"", b"no image", JPEG[: len(JPEG) // 2], encoded(pixels(9, 9, 3), "PNG")[:-60]])
def test_what_cannot_be_read_is_not_stored(broken):
    with pytest.raises(ImageError):
        storable(broken, "x", reading.decode)


@pytest.mark.parametrize(
    "broken", [JPEG[:-2], JPEG[:100], b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0", b"GIF89a"]
)
def test_what_is_not_well_formed_is_nothing_to_take_apart(broken):
    assert without_metadata(broken) is None


def test_a_hidden_chunk_after_the_picture_goes():
    plain = encoded(pixels(8, 8, 3), "PNG")
    content = b"tEXt" + NAME.encode()
    chunk = struct.pack(">I", len(NAME)) + content + struct.pack(">I", zlib.crc32(content))
    assert without_metadata(plain + chunk) == plain
