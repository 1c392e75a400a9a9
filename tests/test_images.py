"""Image files: decoding, masks, the cache, and decoding as the reference sees it."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import ImageError
from data_pipelines.images import reading
from data_pipelines.records import MaskFile

GOLDEN = np.load(Path(__file__).parent / "golden" / "preprocess.npz")


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array, mode).save(out, kind)
    return out.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("key", "most"), [("xmlab102_224", 9), ("xmlab1_56", 4)])
def test_decode_and_resize_differ_from_the_reference_by_jpegs_rounding_only(slake_root, key, most):
    """The reference decodes with libjpeg's fast DCT, Pillow with the accurate one. Bicubic is off by 25 and 20."""
    name, size = key.split("_")
    out = reading.resize(reading.decode(str(Path(slake_root) / "imgs" / name / "source.jpg"), "x"), int(size))
    difference = out.astype(int) - GOLDEN[key]
    assert np.abs(difference).max() <= most
    assert abs(difference.mean()) < 0.5


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (np.full((4, 6), 9, np.uint8), "L"),
        (np.full((4, 6, 4), 9, np.uint8), "RGBA"),
        (np.full((4, 6), True), None),
        (np.full((4, 6, 2), 9, np.uint8), "LA"),
    ],
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_every_mode_becomes_rgb(array, mode):
    out = reading.decode(encoded(array, mode=mode), "x")
    assert out.shape == (4, 6, 3)
    assert out.dtype == np.uint8


def test_sixteen_bit_greys_span_the_whole_range():
    grey = np.linspace(1000, 3000, 64, dtype=np.uint16).reshape(8, 8)
    out = reading.decode(encoded(grey), "x")
    assert out.min() == 0
    assert out.max() == 255
    assert (np.diff(out[..., 0].ravel().astype(int)) >= 0).all()


def test_rotation_in_exif_is_ignored_as_boxes_are_drawn_on_stored_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(noise(10, 20)).save(out, "JPEG", exif=exif)
    assert reading.decode(out.getvalue(), "x").shape == (10, 20, 3)


def test_missing_file_is_named(tmp_path):
    with refused(ImageError, "image.missing", "absent.png"):
        reading.decode(str(tmp_path / "absent.png"), "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_image_is_named_and_never_half_decoded(tmp_path, kind):
    data = encoded(noise(64, 64), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) // 2])
    with refused(ImageError, "image.unreadable", "cut.img"):
        reading.decode(str(path), "x")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_bytes_that_are_no_image_are_named_by_their_example(content):
    with refused(ImageError, "image.unreadable", "slake/en/3") as caught:
        reading.decode(content, "slake/en/3")
    assert "\n" not in str(caught.value)


def test_mask_is_one_level_or_all_that_is_not_black(tmp_path):
    grey = np.array([[0, 70], [20, 70]], np.uint8)
    path = str(tmp_path / "mask.png")
    Image.fromarray(grey).save(path)
    assert (reading.decode_mask(MaskFile(path, 70), "x") == (grey == 70)).all()
    assert (reading.decode_mask(MaskFile(path), "x") == (grey > 0)).all()


def test_cache_decodes_once_and_gives_what_decode_gives(monkeypatch):
    calls = []
    decode = reading.decode
    monkeypatch.setattr(reading, "decode", lambda *a: calls.append(a) or decode(*a))
    cache, data = reading.ImageCache(1), encoded(noise(8, 8))
    first, second = cache.image(data, "x"), cache.image(bytes(bytearray(data)), "x")
    assert first is second
    assert len(calls) == 1
    assert (first == noise(8, 8)).all()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_cache_forgets_the_least_recently_used():
    cache = reading.ImageCache(1)
    a, b, c = (encoded(noise(400, 400, seed)) for seed in range(3))  # 0.46 MB each, decoded
    first, second = cache.image(a, "a"), cache.image(b, "b")
    assert cache.image(a, "a") is first
    cache.image(c, "c")
    assert cache.image(a, "a") is first
    assert cache.image(b, "b") is not second


def test_cache_of_no_size_still_decodes():
    assert reading.ImageCache(0).image(encoded(noise(8, 8)), "x").shape == (8, 8, 3)


def test_pickled_cache_is_empty():
    cache = reading.ImageCache(16)
    cache.image(encoded(noise(300, 300)), "x")
    assert len(pickle.dumps(cache)) < 500
    assert pickle.loads(pickle.dumps(cache)).image(encoded(noise(300, 300)), "x").shape == (300, 300, 3)
