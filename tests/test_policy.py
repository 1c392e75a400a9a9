from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.records import Region, VQAExample
from data_pipelines.regions.boxes import area, iou
from data_pipelines.regions.policy import Shown, choose_regions, regions_under, wrong_regions
from rllava_jax.config import PolicyConfig

KINDS = ("shifted", "scaled", "another", "mirrored", "random")
LEFT = Region((0.5, 0.7, 0.65, 0.85), "Left Kidney")
RIGHT = Region((0.5, 0.15, 0.65, 0.3), "Right Kidney")
SPLEEN = Region((0.1, 0.7, 0.3, 0.9), "Spleen")
EVERYTHING = Region((0.0, 0.0, 1.0, 1.0), "Brain")


def example(*regions, others=(SPLEEN,), family="identify", name="toy/identify/a/0"):
    return VQAExample(name, "toy", "train", b"", "a", "What?", "X", family, regions=regions, distractors=others)


def rng(seed=0):
    return np.random.default_rng(seed)


def shown_kinds(policy, subject, draws=3000):
    generator = rng()
    return Counter(choose_regions(subject, policy, generator).kind for _ in range(draws))


def test_a_third_is_shown_and_a_tenth_of_those_is_wrong():
    kinds = shown_kinds(PolicyConfig(), example(LEFT))
    wrong = sum(count for kind, count in kinds.items() if kind.startswith("wrong:"))
    assert kinds["none"] / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert wrong / (3000 - kinds["none"]) == pytest.approx(0.1, abs=0.03)
    assert kinds["none"] + kinds["right"] + wrong == 3000


def test_a_family_may_have_its_own_share():
    policy = PolicyConfig(shown=0.0, shown_by_family={"identify": 1.0}, wrong=0.0)
    assert shown_kinds(policy, example(LEFT), 50) == {"right": 50}
    assert shown_kinds(policy, example(LEFT, family="verify"), 50) == {"none": 50}


def test_localise_is_never_shown_its_answer():
    subject = example(LEFT, family="localise")
    assert shown_kinds(PolicyConfig(shown=1.0), subject, 50) == {"none": 50}
    assert regions_under(subject, "right", KINDS) == Shown((), "none")


def test_an_example_without_a_region_is_shown_none_under_every_condition():
    assert shown_kinds(PolicyConfig(shown=1.0, wrong=1.0), example(), 50) == {"none": 50}
    for condition in ("right", "none", "wrong", "blank"):
        assert regions_under(example(), condition, KINDS) == Shown((), "none")


def test_wrong_kinds_are_drawn_about_equally():
    policy = PolicyConfig(shown=1.0, wrong=1.0)
    kinds = shown_kinds(policy, example(LEFT), 1000)
    assert set(kinds) == {f"wrong:{kind}" for kind in KINDS}
    assert min(kinds.values()) > 150


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_boxes_lie_in_the_image_and_are_as_many_as_the_right_ones(kind):
    other = Region((0.75, 0.45, 0.9, 0.55), "Rectum")
    for seed in range(100):
        shown = wrong_regions(example(LEFT, RIGHT, others=(SPLEEN, other)), (kind,), rng(seed))
        assert len(shown.regions) == 2
        for region in shown.regions:
            y0, x0, y1, x1 = region.box
            assert 0 <= y0 < y1 <= 1
            assert 0 <= x0 < x1 <= 1


@pytest.mark.parametrize("kind", ["shifted", "another", "random"])
def test_wrong_boxes_barely_overlap_any_right_box(kind):
    for seed in range(200):
        shown = wrong_regions(example(LEFT, RIGHT, others=(SPLEEN, SPLEEN)), (kind,), rng(seed))
        assert shown.kind == f"wrong:{kind}"
        assert max(iou(w.box, r.box) for w in shown.regions for r in (LEFT, RIGHT)) <= 0.2


def test_shifted_keeps_the_size_and_moves_by_more_than_it():
    for seed in range(200):
        (moved,) = wrong_regions(example(LEFT), ("shifted",), rng(seed)).regions
        y0, x0, y1, x1 = moved.box
        assert (y1 - y0, x1 - x0) == pytest.approx((0.15, 0.15))
        assert max(abs(y0 - LEFT.box[0]), abs(x0 - LEFT.box[1])) > 0.15


def test_scaled_changes_the_side_three_to_fourfold_both_ways():
    middle = Region((0.45, 0.45, 0.55, 0.55), "Spine")
    factors = [
        np.sqrt(area(wrong_regions(example(middle), ("scaled",), rng(seed)).regions[0].box) / area(middle.box))
        for seed in range(200)
    ]
    grown = [f for f in factors if f > 1]
    shrunk = [1 / f for f in factors if f < 1]
    assert min(len(grown), len(shrunk)) > 60
    assert all(3 <= f <= 4 for f in np.round(grown + shrunk, 6))


def test_scaled_shrinks_what_cannot_grow():
    assert all(area(wrong_regions(example(EVERYTHING), ("scaled",), rng(s)).regions[0].box) < 0.12 for s in range(50))


def test_mirrored_is_the_reflection():
    (mirrored,) = wrong_regions(example(LEFT), ("mirrored",), rng()).regions
    assert mirrored.box == pytest.approx(RIGHT.box)
    assert mirrored.label == ""


def test_a_mirrored_pair_is_not_wrong_so_another_kind_is_shown():
    shown = wrong_regions(example(LEFT, RIGHT), ("mirrored", "scaled"), rng())
    assert shown.kind == "wrong:scaled"


def test_a_box_on_the_midline_is_not_mirrored():
    spine = Region((0.5, 0.4, 0.7, 0.6), "Spine")
    for seed in range(20):
        assert wrong_regions(example(spine), ("mirrored", "shifted"), rng(seed)).kind == "wrong:shifted"


def test_another_is_an_annotated_box_with_another_label():
    same_label = replace(SPLEEN, label="Left Kidney")
    for seed in range(20):
        shown = wrong_regions(example(LEFT, others=(same_label, SPLEEN)), ("another",), rng(seed))
        assert shown == Shown((SPLEEN,), "wrong:another")


@pytest.mark.parametrize("others", [(), (Region(LEFT.box, "Kidney Cyst"),), (replace(SPLEEN, label="Left Kidney"),)])
def test_without_another_structure_elsewhere_the_next_kind_is_shown(others):
    assert wrong_regions(example(LEFT, others=others), ("another", "mirrored"), rng()).kind == "wrong:mirrored"


def test_random_is_the_last_resort_and_works_even_for_a_box_that_fills_the_image():
    for seed in range(50):
        shown = wrong_regions(example(EVERYTHING, others=()), ("shifted", "another", "mirrored"), rng(seed))
        assert shown.kind == "wrong:random"
        assert iou(shown.regions[0].box, EVERYTHING.box) <= 0.2


def test_conditions_show_what_they_say():
    subject = example(LEFT)
    assert regions_under(subject, "right", KINDS) == Shown((LEFT,), "right")
    assert regions_under(subject, "blank", KINDS) == Shown((LEFT,), "right")
    assert regions_under(subject, "none", KINDS) == Shown((), "none")
    assert regions_under(subject, "wrong", KINDS).kind.startswith("wrong:")


def test_wrong_regions_of_evaluation_depend_on_the_example_alone():
    first = [regions_under(example(LEFT, name=f"id/{i}"), "wrong", KINDS) for i in range(100)]
    again = [regions_under(example(LEFT, name=f"id/{i}"), "wrong", KINDS) for i in reversed(range(100))]
    assert first == again[::-1]
    assert len({shown.kind for shown in first}) == 5
