"""Pixel arithmetic: the reference's resize, windows of the original, coverage."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data_pipelines.images import pixels

GOLDEN = np.load(Path(__file__).parent / "golden" / "preprocess.npz")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain_resample(image: np.ndarray, window: pixels.Window, size: int) -> np.ndarray:
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
    name, size = key.split("_")
    data = (Path(slake_root) / "imgs" / name / "source.jpg").read_bytes()
    # The golden images were decoded with libjpeg's fast DCT, which Pillow does not offer.
    out = pixels.resize(simplejpeg.decode_jpeg(data, "RGB", fastdct=True), int(size))
    difference = np.abs(out.astype(int) - GOLDEN[key])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.015


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
    out = pixels.resample(image, window, size)
    assert out.dtype == np.uint8
    assert out.shape == (size, size, 3)
    exact = plain_resample(image, window, size)
    # Truncated, so within one level below; float32 may put an exact integer on either side.
    assert (exact - out > -1e-2).all()
    assert (exact - out < 1 + 1e-2).all()


def test_resize_truncates_and_does_not_round():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0] = 3
    assert pixels.resize(image, 1).max() == 1  # the mean is 1.5


def test_outside_of_the_image_is_black():
    out = pixels.resample(np.full((20, 20, 3), 200, np.uint8), (-20.0, 0.0, 20.0, 20.0), 16)
    assert (out[:8] == 0).all()
    assert (out[9:] >= 199).all()
    assert (pixels.resample(np.full((20, 20, 3), 200, np.uint8), (50.0, 50.0, 60.0, 60.0), 8) == 0).all()


def test_window_keeps_detail_that_the_resized_image_has_lost():
    image = np.zeros((512, 512, 3), np.uint8)
    image[200:216:2, 200:216] = 255
    assert np.ptp(pixels.resample(image, (200.0, 200.0, 216.0, 216.0), 16)[..., 0]) > 200
    assert np.ptp(pixels.resize(image, 32)[13, 12:13]) < 100


def test_crop_window_is_square_with_context_around_the_boxs_centre():
    window = pixels.crop_window((0.4, 0.4, 0.5, 0.6), height=1000, width=500, context=1.5, min_pixels=48)
    assert window == pytest.approx((375, 175, 525, 325))


def test_crop_window_is_never_smaller_than_the_minimum():
    y0, x0, y1, x1 = pixels.crop_window((0.5, 0.5, 0.51, 0.51), height=500, width=500, context=3, min_pixels=48)
    assert (y1 - y0, x1 - x0) == (48, 48)


def test_crop_window_moves_into_the_image_where_it_fits():
    assert pixels.crop_window((0, 0.9, 0.1, 1), height=100, width=100, context=2, min_pixels=1) == pytest.approx(
        (0, 80, 20, 100)
    )
    tall = pixels.crop_window((0, 0, 1, 0.5), height=100, width=40, context=1, min_pixels=1)
    assert tall == pytest.approx((0, -40, 100, 60))  # too wide for the image: stays centred on the box


def test_box_coverage_is_the_share_of_each_cell():
    coverage = pixels.box_coverage((0.25, 0.0, 0.75, 0.5), (0, 0, 100, 100), 2, height=100, width=100)
    assert coverage == pytest.approx(np.array([[0.5, 0], [0.5, 0]]))


def test_mask_of_a_box_covers_as_the_box_does():
    box = (0.2, 0.3, 0.7, 0.8)
    inside = np.zeros((100, 100), bool)
    inside[20:70, 30:80] = True
    window = (-7.3, 11.1, 94.2, 112.6)
    expected = pixels.box_coverage(box, window, 7, height=100, width=100)
    assert pixels.cell_coverage(inside, window, 7) == pytest.approx(expected, abs=1e-6)
    assert expected.sum() * (101.5 / 7) ** 2 == pytest.approx(50 * 50, rel=1e-3)


def test_mask_outside_of_the_box_does_not_count():
    box = (0.25, 0.25, 0.5, 0.6)
    whole = pixels.cell_coverage(np.ones((40, 40), bool), (0, 0, 40, 40), 5, box=box)
    assert whole == pytest.approx(pixels.box_coverage(box, (0, 0, 40, 40), 5, height=40, width=40), abs=1e-6)
