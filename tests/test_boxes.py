import numpy as np
import pytest
from expected_errors import refused

from data_pipelines.core.errors import DataError
from data_pipelines.regions import boxes

WHERE = "imgs/x/detection.json: entry 0, 'Liver'"


def test_pixels_become_normalised_yxyx():
    assert boxes.box_from_pixels(20, 10, 40, 30, width=200, height=100, where=WHERE) == (0.1, 0.1, 0.4, 0.3)


def test_pixels_survive_the_round_trip():
    box = boxes.box_from_pixels(33, 67, 98, 108, width=256, height=320, where=WHERE)
    assert boxes.box_to_pixels(box, width=256, height=320) == pytest.approx((33, 67, 98, 108))


def test_box_one_pixel_outside_is_clipped_to_the_image():
    assert boxes.box_from_pixels(-1, 50, 101, 51, width=100, height=100, where=WHERE) == (0.5, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("box", "complaint"),
    [
        ((10, 10, 0, 5), "no area"),
        ((10, 10, 5, -5), "no area"),
        ((float("nan"), 10, 5, 5), "not finite"),
        ((10, 10, float("inf"), 5), "not finite"),
        ((60, 10, 50, 5), "leaves the image of 100x80 pixels by 10"),
        ((10, -3, 50, 5), "leaves the image"),
        ((-1, 10, 1, 5), "no area inside the image"),
    ],
)
def test_bad_box_is_one_line_that_names_where_it_stands(box, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        boxes.box_from_pixels(*box, width=100, height=80, where=WHERE)
    assert str(caught.value).startswith(WHERE)
    assert "\n" not in str(caught.value)


def test_iou_of_known_boxes():
    a = (0.0, 0.0, 0.4, 0.4)
    assert boxes.iou(a, a) == 1
    assert boxes.iou(a, (0.0, 0.2, 0.4, 0.6)) == pytest.approx(1 / 3)
    assert boxes.iou(a, (0.4, 0.4, 0.8, 0.8)) == 0


def test_iou_with_swapped_corners_is_zero():
    assert boxes.iou((0.1, 0.1, 0.5, 0.5), (0.5, 0.5, 0.1, 0.1)) == 0


def test_loc_tokens_are_yxyx_of_1023():
    assert boxes.box_to_loc_tokens((0.0, 0.25, 0.5, 1.0)) == "<loc0000><loc0256><loc0512><loc1023>"


def test_loc_tokens_read_back_within_half_a_bin():
    box = (0.1234, 0.2345, 0.6789, 0.9876)
    (read,) = boxes.boxes_from_text(boxes.box_to_loc_tokens(box) + " left kidney")
    assert read == pytest.approx(box, abs=0.5 / 1023 + 1e-9)


def test_every_box_of_a_text_is_read_and_broken_runs_are_not():
    text = (
        "<loc0000><loc0000><loc1023><loc1023> a ; <loc0000><loc0000><loc0001> b ; <loc0000><loc0000><loc9999><loc0001>"
    )
    assert boxes.boxes_from_text(text) == [(0.0, 0.0, 1.0, 1.0)]
    assert boxes.boxes_from_text("liver") == []


def test_box_of_a_mask_includes_its_last_pixel():
    mask = np.zeros((10, 20), bool)
    mask[3, 5] = True
    assert boxes.box_from_mask(mask, where="m.png") == (0.3, 0.25, 0.4, 0.3)


def test_empty_mask_is_an_error_naming_its_file():
    with refused(DataError, "data.invalid-region", "m.png"):
        boxes.box_from_mask(np.zeros((4, 4), bool), where="m.png")


def test_box_of_a_polygon_is_its_extent():
    assert boxes.box_from_polygon([(0.2, 0.5), (0.6, 0.1), (0.4, 0.9)], where="p") == (0.2, 0.1, 0.6, 0.9)


@pytest.mark.parametrize(
    "polygon", [[(0.1, 0.1), (0.2, 0.2)], [(0.1, 0.1), (0.1, 0.2), (0.1, 0.3)], [(0.1, 0.1), (0.2, 1.2), (0.3, 0.1)]]
)
def test_polygon_without_area_or_outside_is_an_error(polygon):
    with refused(DataError, "data.invalid-region", "p: polygon"):
        boxes.box_from_polygon(polygon, where="p")
