"""Pixels: the reference's resize, windows of the original, decoding, coverage, the cache."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import images
from data_pipelines.records import ImageError, MaskFile

GOLDEN = np.load(Path(__file__).parent / "golden" / "preprocess.npz")


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array, mode).save(out, kind)
    return out.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain_resample(image: np.ndarray, window: images.Window, size: int) -> np.ndarray:
    """Pixel by pixel in float64, from the definition of a triangle kernel widened by the reduction."""

    def kernel(start: float, stop: float, length: int) -> np.ndarray:
        scale = (stop - start) / size
        weights = np.zeros((size, length))
        for out in range(size):
            centre = start + (out + 0.5) * scale
            if not 0 <= centre <= length:
                continue
            for pixel in range(length):
                weights[out, pixel] = max(0.0, 1 - abs(pixel + 0.5 - centre) / max(scale, 1.0))
            weights[out] /= weights[out].sum()
        return weights

    rows = kernel(window[0], window[2], image.shape[0])
    columns = kernel(window[1], window[3], image.shape[1])
    return np.einsum("ay,yxc,bx->abc", rows, image.astype(np.float64), columns)


@pytest.mark.parametrize("key", ["xmlab102_224", "xmlab1_56"])
def test_resize_gives_the_references_pixels(slake_root, key):
    """Exact but for sums that lie on an integer and round either way: one level on about one value in a hundred."""
    simplejpeg = pytest.importorskip("simplejpeg", reason="the golden images were decoded with libjpeg's fast DCT")
    name, size = key.split("_")
    data = (Path(slake_root) / "imgs" / name / "source.jpg").read_bytes()
    out = images.resize(simplejpeg.decode_jpeg(data, "RGB", fastdct=True), int(size))
    difference = np.abs(out.astype(int) - GOLDEN[key])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.015


@pytest.mark.parametrize(("key", "most"), [("xmlab102_224", 9), ("xmlab1_56", 4)])
def test_decode_and_resize_differ_from_the_reference_by_jpegs_rounding_only(slake_root, key, most):
    """The reference decodes with libjpeg's fast DCT, Pillow with the accurate one. Bicubic is off by 25 and 20."""
    name, size = key.split("_")
    out = images.resize(images.decode(str(Path(slake_root) / "imgs" / name / "source.jpg"), "x"), int(size))
    difference = out.astype(int) - GOLDEN[key]
    assert np.abs(difference).max() <= most
    assert abs(difference.mean()) < 0.5


@pytest.mark.parametrize(
    ("shape", "window", "size"),
    [
        ((60, 47), (0.0, 0.0, 60.0, 47.0), 13),  # shrinking, aspect ignored
        ((9, 12), (0.0, 0.0, 9.0, 12.0), 30),  # enlarging
        ((50, 50), (10.3, 4.7, 31.9, 30.2), 14),  # a window inside
        ((40, 40), (-10.0, 5.0, 30.0, 45.0), 20),  # reaching outside on two sides
        ((1, 1), (0.0, 0.0, 1.0, 1.0), 8),
    ],
)
def test_resample_equals_its_definition(shape, window, size):
    image = noise(*shape)
    out = images.resample(image, window, size)
    assert out.dtype == np.uint8
    assert out.shape == (size, size, 3)
    exact = plain_resample(image, window, size)
    # Truncated, so within one level below; float32 may put an exact integer on either side.
    assert (exact - out > -1e-2).all()
    assert (exact - out < 1 + 1e-2).all()


def test_resize_truncates_and_does_not_round():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = 3
    assert images.resize(image, 1).max() == 1  # the mean is 1.5


def test_outside_of_the_image_is_black():
    out = images.resample(np.full((20, 20, 3), 200, np.uint8), (-20.0, 0.0, 20.0, 20.0), 16)
    assert (out[:8] == 0).all()
    assert (out[9:] >= 199).all()
    assert (images.resample(np.full((20, 20, 3), 200, np.uint8), (50.0, 50.0, 60.0, 60.0), 8) == 0).all()


def test_window_keeps_detail_that_the_resized_image_has_lost():
    image = np.zeros((512, 512, 3), np.uint8)
    image[200:216:2, 200:216] = 255
    assert np.ptp(images.resample(image, (200.0, 200.0, 216.0, 216.0), 16)[..., 0]) > 200
    assert np.ptp(images.resize(image, 32)[13, 12:13]) < 100


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
    out = images.decode(encoded(array, mode=mode), "x")
    assert out.shape == (4, 6, 3)
    assert out.dtype == np.uint8


def test_sixteen_bit_greys_span_the_whole_range():
    grey = np.linspace(1000, 3000, 64, dtype=np.uint16).reshape(8, 8)
    out = images.decode(encoded(grey), "x")
    assert out.min() == 0
    assert out.max() == 255
    assert (np.diff(out[..., 0].ravel().astype(int)) >= 0).all()


def test_rotation_in_exif_is_ignored_as_boxes_are_drawn_on_stored_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(noise(10, 20)).save(out, "JPEG", exif=exif)
    assert images.decode(out.getvalue(), "x").shape == (10, 20, 3)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"absent\.png: image is missing"):
        images.decode(str(tmp_path / "absent.png"), "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_image_is_named_and_never_half_decoded(tmp_path, kind):
    data = encoded(noise(64, 64), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.img: image cannot be read"):
        images.decode(str(path), "x")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_bytes_that_are_no_image_are_named_by_their_example(content):
    with pytest.raises(ImageError, match="slake/en/3: image cannot be read") as caught:
        images.decode(content, "slake/en/3")
    assert "\n" not in str(caught.value)


def test_mask_is_one_level_or_all_that_is_not_black(tmp_path):
    grey = np.array([[0, 70], [20, 70]], np.uint8)
    path = str(tmp_path / "mask.png")
    Image.fromarray(grey).save(path)
    assert (images.decode_mask(MaskFile(path, 70), "x") == (grey == 70)).all()
    assert (images.decode_mask(MaskFile(path), "x") == (grey > 0)).all()


def test_crop_window_is_square_with_context_around_the_boxs_centre():
    window = images.crop_window((0.4, 0.4, 0.5, 0.6), height=1000, width=500, context=1.5, min_pixels=48)
    assert window == pytest.approx((375, 175, 525, 325))


def test_crop_window_is_never_smaller_than_the_minimum():
    y0, x0, y1, x1 = images.crop_window((0.5, 0.5, 0.51, 0.51), height=500, width=500, context=3, min_pixels=48)
    assert (y1 - y0, x1 - x0) == (48, 48)


def test_crop_window_moves_into_the_image_where_it_fits():
    assert images.crop_window((0, 0.9, 0.1, 1), height=100, width=100, context=2, min_pixels=1) == pytest.approx(
        (0, 80, 20, 100)
    )
    tall = images.crop_window((0, 0, 1, 0.5), height=100, width=40, context=1, min_pixels=1)
    assert tall == pytest.approx((0, -40, 100, 60))  # too wide for the image: stays centred on the box


def test_box_coverage_is_the_share_of_each_cell():
    coverage = images.box_coverage((0.25, 0.0, 0.75, 0.5), (0, 0, 100, 100), 2, height=100, width=100)
    assert coverage == pytest.approx(np.array([[0.5, 0], [0.5, 0]]))


def test_mask_of_a_box_covers_as_the_box_does():
    box = (0.2, 0.3, 0.7, 0.8)
    inside = np.zeros((100, 100), bool)
    inside[20:70, 30:80] = True
    window = (-7.3, 11.1, 94.2, 112.6)
    expected = images.box_coverage(box, window, 7, height=100, width=100)
    assert images.cell_coverage(inside, window, 7) == pytest.approx(expected, abs=1e-6)
    assert expected.sum() * (101.5 / 7) ** 2 == pytest.approx(50 * 50, rel=1e-3)


def test_mask_outside_of_the_box_does_not_count():
    box = (0.25, 0.25, 0.5, 0.6)
    whole = images.cell_coverage(np.ones((40, 40), bool), (0, 0, 40, 40), 5, box=box)
    assert whole == pytest.approx(images.box_coverage(box, (0, 0, 40, 40), 5, height=40, width=40), abs=1e-6)


def test_cache_decodes_once_and_gives_what_decode_gives(monkeypatch):
    calls = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *a: calls.append(a) or decode(*a))
    cache, data = images.ImageCache(1), encoded(noise(8, 8))
    first, second = cache.image(data, "x"), cache.image(bytes(bytearray(data)), "x")
    assert first is second
    assert len(calls) == 1
    assert (first == noise(8, 8)).all()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_cache_forgets_the_least_recently_used():
    cache = images.ImageCache(1)
    a, b, c = (encoded(noise(400, 400, seed)) for seed in range(3))  # 0.46 MB each, decoded
    first, second = cache.image(a, "a"), cache.image(b, "b")
    assert cache.image(a, "a") is first
    cache.image(c, "c")
    assert cache.image(a, "a") is first
    assert cache.image(b, "b") is not second


def test_cache_of_no_size_still_decodes():
    assert images.ImageCache(0).image(encoded(noise(8, 8)), "x").shape == (8, 8, 3)


def test_pickled_cache_is_empty():
    cache = images.ImageCache(16)
    cache.image(encoded(noise(300, 300)), "x")
    assert len(pickle.dumps(cache)) < 500
    assert pickle.loads(pickle.dumps(cache)).image(encoded(noise(300, 300)), "x").shape == (300, 300, 3)
