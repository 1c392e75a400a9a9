"""Pillow's formats: depth, polarity, pages, files that end early, sizes and the list of formats."""

import io
import struct
import zlib

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image
from tiff_files import tiff

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.images import pictures
from data_pipelines.images.pixels import to_rgb
from data_pipelines.images.reading import decode, size_of

RAMP = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
TWELVE = (RAMP * 4095).astype(np.uint16)


def png(values, colour, *, depth=16, extra=b"", ends_after=None):
    """A PNG file by the specification; with `ends_after`, of that many rows in a closed stream."""
    rows = values[:ends_after]
    raw = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encoded(values, kind, **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def smooth(*shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = 127 + 90 * np.sin(x / 7.3 + y / 11) + np.random.default_rng(0).normal(0, 9, shape[:2])
    grey = wave.clip(0, 255).astype(np.uint8)
    return np.stack([grey, 255 - grey, grey // 2], 2) if len(shape) == 3 else grey


def expected(values, *, white_is_zero=False):
    """The stretch by its formula, in float64: NaN and infinities are black."""
    values = values.astype(np.float64)
    measured = np.isfinite(values) & (np.abs(values) < 1e37)
    low, high = values[measured].min(), values[measured].max()
    levels = (values - low) / (high - low) * 255
    return np.where(measured, 255 - levels if white_is_zero else levels, 0)


def off(got, want):
    return np.abs(got.astype(float) - want).max()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(("kind", "sample_format"), [("u2", 1), ("i2", 2), ("u4", 1), ("i4", 2), ("f4", 3), ("f8", 3)])
def test_greys_of_every_depth_are_stretched_and_light_where_the_file_means_light(
    order, compressed, photometric, kind, sample_format
):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 11)) * 1e3
    if sample_format != 3:
        low, high = np.iinfo(kind).min // 2, np.iinfo(kind).max
        values = rng.integers(low, high, (9, 11))
    file = tiff(
        values.astype(kind), photometric=photometric, sample_format=sample_format, order=order, compressed=compressed
    )
    want = expected(values.astype(kind), white_is_zero=photometric == 0)
    assert off(decode(file, "x")[..., 1], want) <= 1.01


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -3.4e38, 3.4028235e38])
@pytest.mark.parametrize("order", "<>")
def test_what_is_no_measurement_is_black_and_does_not_count(odd, order):
    values = RAMP * 3000
    values[:4] = odd
    picture = decode(tiff(values, sample_format=3, order=order), "x")[..., 0]
    assert off(picture, expected(values)) <= 1.01
    assert (picture[:4] == 0).all()
    assert (np.asarray(to_rgb(Image.fromarray(values)))[..., 0] == picture).all()  # in exported folders too


def test_gdals_number_for_none_is_no_measurement():
    values = RAMP * 100
    values[0] = -9999
    picture = decode(tiff(values, sample_format=3, nodata="-9999"), "x")[..., 0]
    assert (picture[1:] == decode(tiff(RAMP[1:] * 100, sample_format=3), "x")[..., 0]).all()
    assert (picture[0] == 0).all()


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("order", ["png", "<", ">"])
def test_twelve_bits_in_sixteen_are_stretched_whatever_the_channels(samples, order):
    values = np.repeat(TWELVE[..., None], samples, 2)
    if samples in (2, 4):
        values[..., -1] = 65535
    if order == "png":
        file = png(values, {1: 0, 2: 4, 3: 2, 4: 6}[samples])
    else:
        file = tiff(values, photometric=1 if samples < 3 else 2, order=order, extra=2 if samples in (2, 4) else None)
    assert off(decode(file, "x"), expected(TWELVE)[..., None]) <= 1.01


def test_sixteen_bit_colours_that_use_the_highest_bit_are_their_upper_bytes():
    values = np.random.default_rng(0).integers(0, 65536, (8, 9, 3)).astype(np.uint16)
    assert (decode(png(values, 2), "x") == values >> 8).all()
    assert (decode(tiff(values, photometric=2), "x") == values >> 8).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_eight_bits_are_what_pillow_reads(mode):
    image = Image.fromarray(smooth(30, 40, 3)).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF" if mode in ("PA", "CMYK") else "PNG") if mode != "PA" else image.convert("P").save(
        file, "PNG"
    )
    assert (decode(file.getvalue(), "x") == np.asarray(Image.open(file).convert("RGB"))).all()


def test_large_pictures_are_converted_by_strips(monkeypatch):
    file = encoded(smooth(50, 40, 3), "PNG")
    whole = decode(file, "x")
    monkeypatch.setattr(pictures, "_STRIP", 300)
    assert (decode(file, "x") == whole).all()


PAGES = [np.full((16, 24), level, np.uint8) for level in (10, 120, 240)]


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("GIF", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("field", ["page", "frame"])
def test_a_page_is_named_behind_the_file_and_the_first_is_the_default(tmp_path, caplog, kind, options, field):
    path = tmp_path / f"pages.{kind.lower()}"
    first, *others = [Image.fromarray(np.repeat(page[..., None], 3, 2)) for page in PAGES]
    first.save(path, kind, save_all=True, append_images=others, **options)
    assert [int(decode(f"{path}#{field}={n}", "x").mean()) for n in (1, 2, 3)] == [10, 120, 240]
    assert not caplog.records
    assert decode(str(path), "x").mean() == 10
    assert "3 pages" in caplog.text
    assert size_of(f"{path}#{field}=2", "x") == (24, 16)
    with refused(DataError, "image.invalid-part", path.name, f"{field} 4", f"{field}=3"):
        decode(f"{path}#{field}=4", "x")


CLOSED = {"PNG": b"", "JPEG": b"\xff\xd9", "GIF": b"\0;"}
WHOLE = {
    "PNG": encoded(smooth(48, 50), "PNG"),
    "JPEG": encoded(smooth(48, 50), "JPEG"),
    "JPEG progressive": encoded(smooth(48, 50, 3), "JPEG", progressive=True),
    "JPEG restarts": encoded(smooth(48, 50, 3), "JPEG", restart_marker_blocks=3),
    "GIF": encoded(smooth(48, 50), "GIF"),
    "TIFF": encoded(smooth(48, 50), "TIFF"),
    "TIFF lzw": encoded(smooth(48, 50), "TIFF", compression="tiff_lzw"),
    "TIFF deflate": encoded(smooth(48, 50), "TIFF", compression="tiff_deflate"),
    "BMP": encoded(smooth(48, 50), "BMP"),
    "WEBP": encoded(smooth(48, 50, 3), "WEBP", lossless=True),
    "JPEG2000": encoded(smooth(48, 50), "JPEG2000"),
    "PPM": encoded(smooth(48, 50), "PPM"),
    "AVIF": encoded(smooth(48, 50, 3), "AVIF"),
}


def test_every_format_is_tried():
    assert {name.split()[0] for name in WHOLE} == set(pictures.FORMATS)


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_ends_early_gives_all_of_its_picture_or_none(name):
    file = WHOLE[name]
    picture = decode(file, "x")
    for length in range(len(file) // 12, len(file) - 40, max(1, len(file) // 12)):
        for end in {b"", CLOSED.get(name.split()[0], b"")}:
            with refused(ImageError, "image.unreadable"):
                decode(file[:length] + end, "x")
    assert (decode(file, "x") == picture).all()


@pytest.mark.parametrize("rows", [0, 1, 20, 31])
def test_a_png_of_fewer_rows_than_it_says_is_refused(rows):
    eight = smooth(32, 64)
    with refused(ImageError, "image.unreadable", "half.png"):
        decode(png(eight, 0, depth=8, ends_after=rows), "half.png")
    black = eight.copy()
    black[-3:] = 0
    assert (decode(png(black, 0, depth=8), "x")[..., 0] == black).all()


def test_grey_corners_and_black_rows_are_no_sign_of_a_cut():
    grey = smooth(40, 48)
    grey[-16:, -16:] = 128
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        file = encoded(grey, "JPEG", **options)
        assert (decode(file, "x") == np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))).all()
    grey[-5:] = 0
    for kind in ("GIF", "PNG"):
        assert (decode(encoded(grey, kind), "x")[..., 0] == grey).all()


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b"Comment\0" + b"x" * 2**21),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**25))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(2**25))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**25))),
        chunk(b"tEXt", b"Comment\0" + b"x" * 2**19) * 140,
    ],
)
def test_a_png_with_large_metadata_opens(text):
    eight = smooth(32, 64)
    file = png(eight, 0, depth=8, extra=text)
    assert (decode(file, "x")[..., 0] == eight).all()
    assert size_of(file, "x") == (64, 32)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "SGI", "DDS"])
def test_formats_that_are_not_listed_are_not_opened(kind):
    file = encoded(smooth(32, 32, 3), kind)
    with refused(ImageError, "image.unreadable", "PNG", "TIFF", "DICOM"):
        decode(file, "x")


def test_a_picture_that_is_almost_all_one_value_is_said_once(tmp_path, caplog):
    values = (RAMP * 10).astype(np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "spike.png")
    decode(str(tmp_path / "spike.png"), "x")
    decode(str(tmp_path / "spike.png"), "x")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [str(tmp_path / "spike.png")]
    assert "almost all one value" in caplog.text
