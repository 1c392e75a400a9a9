"""The overlay: outlines of regions blended into the pixels."""

import numpy as np
import pytest

from data_pipelines.regions.overlay import draw_outlines

GREY = np.full((336, 336, 3), 100, np.uint8)
BOX = (0.25, 0.25, 0.75, 0.5)


def changed(image: np.ndarray, base: np.ndarray = GREY) -> np.ndarray:
    return (image != base).any(axis=-1)


def test_no_region_changes_nothing():
    assert draw_outlines(GREY, []) is GREY


def test_box_outline_lies_inside_the_box_and_its_interior_is_untouched():
    drawn = changed(draw_outlines(GREY, [BOX]))
    rows, columns = np.nonzero(drawn)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (84, 251, 84, 167)
    assert not drawn[84 + 5 : 252 - 5, 84 + 5 : 168 - 5].any()
    assert drawn[84:89, 84:168].all()


def test_fixed_outline_is_red_blended_and_the_same_each_time():
    out = draw_outlines(GREY, [BOX])
    assert out[84, 84].tolist() == [round((100 * 31 + 255 * 224) / 255), *[round(100 * 31 / 255)] * 2]
    assert (out == draw_outlines(GREY, [BOX])).all()
    assert (GREY == 100).all()


def test_line_width_follows_the_images_size_and_never_vanishes():
    for size, width in ((336, 5), (672, 10), (112, 2), (28, 1)):
        image = np.full((size, size, 3), 100, np.uint8)
        column = changed(draw_outlines(image, [(0.25, 0.25, 0.75, 0.75)]), image)[:, size // 2]
        assert column.sum() == 2 * width


def test_training_draws_vary_within_vip_llavas_ranges():
    widths, alphas, colours = set(), set(), set()
    for seed in range(200):
        out = draw_outlines(np.zeros_like(GREY), [BOX], np.random.default_rng(seed))
        drawn = changed(out, np.zeros_like(GREY))
        widths.add(int(drawn[:168, 120].sum()))
        alphas.add(int(out.max()))
        colours.add(tuple((out[84, 84] > 0).tolist()))
    assert widths == set(range(2, 9))
    assert min(alphas) >= 96
    assert max(alphas) <= 255
    assert max(alphas) - min(alphas) > 120
    assert len(colours) > 4


def test_mask_outline_is_the_masks_inner_border():
    mask = np.zeros((336, 336), bool)
    mask[100:200, 0:80] = True
    drawn = changed(draw_outlines(GREY, [mask]))
    assert not drawn[~mask].any()
    assert drawn[100:105, 0:80].all()
    assert drawn[100:200, 0:5].all()  # at the image's edge as well
    assert not drawn[105:195, 5:75].any()


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5001, 0.5001), (0.999, 0.999, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)])
def test_every_box_shows_and_stays_in_the_image(box):
    assert changed(draw_outlines(GREY, [box])).any()
