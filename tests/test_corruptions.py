"""Corruptions: the same for the same example, worse at each level, and as strong as they say."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.conditions import CORRUPTIONS, LEVELS
from data_pipelines.core.errors import DataError
from data_pipelines.images.corruptions import corrupted, noise_image


def scan(height=300, width=240):
    """Smooth, with edges and a range of greys, as a slice has them."""
    y, x = np.mgrid[:height, :width]
    grey = 90 + 60 * np.sin(y / 17) * np.cos(x / 23)
    grey[height // 4 : height // 2, width // 3 : width // 2] = 220
    grey[:, : width // 8] = 5
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def psnr(image, other):
    error = np.square(image.astype(float) - other).mean()
    return 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_damage_grows_with_the_level(kind):
    image = scan()
    ratios = [psnr(image, corrupted(image, kind, level, "slake/1")) for level in LEVELS]
    assert all(stronger < weaker - 0.2 for weaker, stronger in itertools.pairwise(ratios)), ratios
    assert ratios[0] < 45


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_example_is_corrupted_the_same_way_every_time(kind):
    image = scan()
    before = image.copy()
    first, again = (corrupted(image, kind, 3, "slake/1") for _ in range(2))
    assert (first == again).all()
    assert (image == before).all()


@pytest.mark.parametrize("kind", ["noise", "occlusion"])
def test_another_example_draws_anew(kind):
    assert (corrupted(scan(), kind, 3, "slake/1") != corrupted(scan(), kind, 3, "slake/2")).any()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(CORRUPTIONS),
    level=st.sampled_from(LEVELS),
    height=st.integers(1, 600),
    width=st.integers(1, 90),
)
def test_size_and_type_stay_whatever_the_image(kind, level, height, width):
    made = corrupted(np.full((height, width, 3), 77, np.uint8), kind, level, "x")
    assert made.shape == (height, width, 3)
    assert made.dtype == np.uint8


@pytest.mark.parametrize(("level", "share"), [(1, 0.08), (3, 0.18), (5, 0.38)])
def test_noise_has_the_deviation_of_imagenet_c(level, share):
    image = np.full((224, 224, 3), 128, np.uint8)
    noise = (corrupted(image, "noise", 1, "x")[:, :, 0].astype(float) - 128) / 255
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    # Clipping at black and white takes from the stronger ones; undone by the quartiles, which it leaves alone.
    values = corrupted(image, "noise", level, "x")[:, :, 0].astype(float) / 255
    low, high = np.quantile(values, [0.3, 0.7])
    assert (high - low) / (2 * 0.524401) == pytest.approx(share, rel=0.03)


def test_a_grey_image_stays_grey_in_noise():
    made = corrupted(scan(), "noise", 5, "x")
    assert (made[:, :, 0] == made[:, :, 2]).all()


def test_noise_is_as_coarse_as_a_large_image_needs():
    """896 pixels: grains of four by four, so that a model that reads 224 sees the same noise."""
    made = corrupted(np.full((896, 896, 3), 128, np.uint8), "noise", 2, "x")[:, :, 0]
    grains = made.reshape(224, 4, 224, 4)
    assert (grains == grains[:, :1, :, :1]).all()
    assert len(np.unique(grains[:, 0, :, 0])) > 50


def test_contrast_shrinks_the_distance_to_the_mean():
    image = np.full((10, 10, 3), 50, np.uint8)
    image[:5] = 150
    made = corrupted(image, "contrast", 2, "x")  # mean 100, distance 50, factor 0.3
    assert (made[:5] == 115).all()
    assert (made[5:] == 85).all()


def test_jpeg_is_the_files_own_loss():
    stream = io.BytesIO()
    Image.fromarray(scan()).save(stream, "JPEG", quality=18)
    assert (corrupted(scan(), "jpeg", 2, "x") == np.array(Image.open(stream))).all()


@pytest.mark.parametrize(("level", "cells"), [(1, 6), (2, 13), (3, 19), (4, 26), (5, 32)])
def test_occlusion_hides_so_many_of_64_cells_and_leaves_the_others(level, cells):
    image = np.full((160, 80, 3), 9, np.uint8)
    made = corrupted(image, "occlusion", level, "x")
    assert set(np.unique(made)) == {9, 127}
    blocks = (made == 127).reshape(8, 20, 8, 10, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert blocks[:, 0, :, 0, 0].sum() == cells


def test_a_higher_level_of_occlusion_hides_what_the_lower_one_did():
    hidden = [corrupted(np.full((64, 64, 3), 9, np.uint8), "occlusion", level, "x") == 127 for level in LEVELS]
    assert all((more | less == more).all() for less, more in itertools.pairwise(hidden))


def test_the_noise_image_knows_nothing_of_the_image():
    one, other = noise_image(scan(), "x"), noise_image(255 - scan(), "x")
    assert (one == other).all()
    assert (one != noise_image(scan(), "y")).any()
    counts = np.bincount(noise_image(np.zeros((224, 224, 3), np.uint8), "x")[:, :, 0].ravel(), minlength=256)
    assert counts.min() > 100  # every grey level alike: 196 each on average
    assert counts.max() < 300


@pytest.mark.parametrize(("kind", "level"), [("fog", 1), ("noise", 0), ("noise", 6)])
def test_what_is_no_corruption_is_named(kind, level):
    with pytest.raises(DataError, match=f"corruption {kind}:{level}"):
        corrupted(scan(), kind, level, "x")
