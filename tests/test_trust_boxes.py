"""The boxes of the trust benchmark: their geometry, and that they hang on nothing but the example."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.conditions import TRUST
from data_pipelines.records import Region, Turn, VQAExample
from data_pipelines.regions.boxes import area, clip, iou
from data_pipelines.regions.perturbations import VARIANTS, implied_answer, is_asked, labels_of, shift_to_iou, variants

LIVER = Region((0.4, 0.1, 0.6, 0.4), "Liver")
SPLEEN = Region((0.4, 0.7, 0.5, 0.9), "Spleen")
CANCER = Region((0.42, 0.12, 0.6, 0.4), "Liver Cancer")  # nearly the liver's own box
LABELS = ("Kidney", "Liver", "Liver Cancer", "Spleen")


def example(*regions, others=(SPLEEN,), family="identify", name="toy/identify/a/0", **fields):
    text = {"question": "What is the marked structure?", "answer": "Liver"} | fields
    return VQAExample(name, "toy", "test", b"", "a", family=family, regions=regions, distractors=others, **text)


def by_name(subject, labels=LABELS):
    return {variant.name: variant for variant in variants(subject, labels)}


# Sides of at least a thousandth of the image, as half a pixel of a small one.
sides = st.tuples(st.floats(0, 0.998), st.floats(0.001, 1)).map(lambda p: (p[0], min(1.0, p[0] + p[1])))
boxes = st.tuples(sides, sides).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1])).filter(lambda b: area(b) > 1e-6)


@given(boxes, st.sampled_from([0.75, 0.5, 0.25, 0.0]), st.integers(0, 99))
def test_a_shift_hits_its_iou_inside_the_image_and_keeps_the_size(box, wanted, seed):
    moved = shift_to_iou(box, wanted, np.random.default_rng(seed))
    if moved is None:
        return
    assert min(moved) >= 0
    assert max(moved) <= 1
    assert iou(box, moved) == pytest.approx(wanted, abs=1e-6)
    assert (moved[2] - moved[0], moved[3] - moved[1]) == pytest.approx((box[2] - box[0], box[3] - box[1]), abs=1e-6)


@given(boxes, st.sampled_from([0.75, 0.5, 0.25, 0.0]))
def test_a_shift_is_refused_only_where_no_place_in_the_image_overlaps_so_little(box, wanted):
    if shift_to_iou(box, wanted, np.random.default_rng(0)) is not None:
        return
    height, width = box[2] - box[0], box[3] - box[1]
    corners = [(y, x, y + height, x + width) for y in (0, 1 - height) for x in (0, 1 - width)]
    assert min(iou(box, corner) for corner in corners) > wanted - 1e-6


@given(boxes, st.text(min_size=1, max_size=5))
@settings(max_examples=60)
def test_every_shown_box_has_the_iou_that_is_written_beside_it_and_lies_inside(box, name):
    subject = example(Region(box, "Liver"), name=name)
    for variant in variants(subject, LABELS):
        assert bool(variant.unavailable) != bool(variant.question)
        for shown, overlap in zip(variant.boxes, variant.ious, strict=True):
            assert clip(shown) == shown
            assert area(shown) > 0
            assert overlap == pytest.approx(iou(shown, box), abs=1e-4)
        if variant.name.startswith("shifted") and not variant.unavailable:
            assert variant.iou == pytest.approx(float(variant.name[8:]), abs=0.01)


def test_names_are_those_of_the_conditions():
    assert tuple(f"trust:{v.name}" for v in variants(example(LIVER), LABELS)) == TRUST


def test_a_draw_hangs_on_the_example_alone():
    subject = example(LIVER)
    first = variants(subject, LABELS)
    variants(example(SPLEEN, name="other"), LABELS)
    assert variants(subject, LABELS) == first
    others = variants(replace(subject, id="toy/identify/a/1"), LABELS)
    assert others[VARIANTS.index("random")] != first[VARIANTS.index("random")]


def test_scaled_is_by_area_about_the_same_centre():
    found = by_name(example(LIVER))
    assert found["scaled:2.00"].iou == pytest.approx(0.5, abs=1e-4)
    assert found["scaled:0.50"].iou == pytest.approx(0.5, abs=1e-4)
    assert found["scaled:0.50"].boxes[0] == pytest.approx((0.429289, 0.143934, 0.570711, 0.356066), abs=1e-6)
    assert not found["scaled:2.00"].clipped


def test_a_box_that_would_grow_out_of_the_image_is_cut_and_says_so():
    found = by_name(example(LIVER))["scaled:4.00"]  # from 0.25 ± 0.3 to 0 … 0.55, of 0.2 ± 0.2
    assert found.boxes[0] == pytest.approx((0.3, 0.0, 0.7, 0.55))
    assert found.clipped
    assert found.iou == pytest.approx(0.06 / 0.22, abs=1e-4)


def test_the_whole_image_cannot_grow_or_move():
    found = by_name(example(Region((0.0, 0.0, 1.0, 1.0), "Brain"), others=(), answer="Brain"))
    for name in ("shifted:0.75", "scaled:1.41", "mirrored", "another", "two", "whole"):
        assert found[name].unavailable, name
        assert not found[name].boxes
    assert found["whole"].unavailable == "the right box is the whole image"
    assert found["another"].unavailable == "the image has no other annotated structure"
    assert found["scaled:0.50"].iou == pytest.approx(0.5, abs=1e-4)


def test_another_structure_lends_its_box_and_its_name():
    found = by_name(example(LIVER))["another"]
    assert found.boxes == (SPLEEN.box,)
    assert found.labels == ("Spleen",)
    assert found.implied == "Spleen"


def test_a_mirrored_box_over_an_annotated_structure_has_its_name():
    left, right = Region((0.4, 0.1, 0.6, 0.3), "Left Lung"), Region((0.4, 0.7, 0.6, 0.9), "Right Lung")
    found = by_name(example(left, others=(right,), answer="Left Lung"))["mirrored"]
    assert found.labels == ("Right Lung",)
    assert found.implied == "Right Lung"


def test_tiny_has_a_hundredth_of_the_area_inside_the_right_box():
    found = by_name(example(LIVER))["tiny"]
    assert found.iou == pytest.approx(0.01, abs=1e-4)
    assert found.boxes[0] == pytest.approx((0.49, 0.235, 0.51, 0.265))


def test_of_two_boxes_one_is_right_and_either_may_come_first():
    found = [by_name(example(LIVER, name=f"q{i}"))["two"] for i in range(20)]
    assert all(set(v.boxes) == {LIVER.box, SPLEEN.box} and v.implied == "Spleen" for v in found)
    assert len({v.boxes for v in found}) == 2


def test_a_contradiction_names_a_structure_that_is_not_there():
    names = set()
    for i in range(40):
        found = by_name(example(LIVER, others=(SPLEEN, CANCER), name=f"q{i}"))["contradicted"]
        assert found.question == f"The marked structure is the {found.implied.lower()}. What is the marked structure?"
        assert found.boxes == (LIVER.box,)
        names.add(found.implied)
    assert names == {"Kidney", "Spleen"}  # the cancer's box is nearly the liver's: not certainly false


def test_a_contradiction_of_verify_and_choose_suggests_another_answer():
    yes = example(LIVER, family="verify", question="Is the marked structure the liver?", answer="Yes")
    no = example(LIVER, family="verify", question="Is the marked structure the spleen?", answer="No")
    choices = ("Kidney", "Liver", "Heart")
    choose = example(
        LIVER, family="choose", question="Which of these is marked: Kidney, Liver or Heart?", choices=choices
    )
    assert by_name(yes)["contradicted"].implied == "No"
    assert by_name(no)["contradicted"].question.startswith("The marked structure is the spleen. Is the marked")
    assert by_name(no)["contradicted"].implied == "Yes"
    assert by_name(choose)["contradicted"].implied == "Kidney"


@pytest.mark.parametrize(
    ("family", "question", "answer", "label", "expected"),
    [
        ("identify", "What is the marked structure?", "Liver", "Spleen", "Spleen"),
        ("identify", "What is the marked structure?", "Liver", "Liver", ""),
        ("verify", "Is the marked structure the liver?", "Yes", "Spleen", "No"),
        ("verify", "Is the marked structure the spleen?", "No", "Spleen", "Yes"),
        ("verify", "Is the marked structure the kidney?", "No", "Spleen", ""),  # still no: nothing can be told
        ("choose", "Which of these is marked: Liver or Spleen?", "Liver", "Spleen", "Spleen"),
        ("choose", "Which of these is marked: Liver or Spleen?", "Liver", "Kidney", ""),
        ("vqa", "Is the liver healthy?", "Yes", "Spleen", ""),
    ],
)
def test_implied_answer(family, question, answer, label, expected):
    subject = example(LIVER, family=family, question=question, answer=answer, choices=("Liver", "Spleen"))
    assert implied_answer(subject, label) == expected


def test_what_has_no_certain_false_name_is_not_contradicted():
    assert "no other name" in by_name(example(LIVER), labels=("Liver",))["contradicted"].unavailable
    assert "no label" in by_name(example(Region(LIVER.box)))["contradicted"].unavailable
    assert "English" in by_name(example(LIVER, language="zh"))["contradicted"].unavailable


def test_of_several_right_boxes_all_are_moved():
    left, right = Region((0.4, 0.1, 0.5, 0.2), "Left Kidney"), Region((0.4, 0.8, 0.5, 0.9), "Right Kidney")
    found = by_name(example(left, right, family="vqa"))
    assert found["shifted:0.50"].ious == pytest.approx((0.5, 0.5), abs=0.01)
    assert found["mirrored"].unavailable  # the mirrored left kidney is the right kidney
    assert len(found["whole"].boxes) == 1
    for name in ("two", "contradicted"):
        assert found[name].unavailable == "has several right boxes"


def test_localise_conversations_and_questions_without_a_region_are_not_asked():
    assert is_asked(example(LIVER))
    assert not is_asked(example(LIVER, family="localise"))
    assert not is_asked(example())
    assert not is_asked(example(LIVER, turns=(Turn("Which organ?", "Liver"),)))


def test_labels_are_sorted_and_do_not_hang_on_the_order():
    examples = [example(LIVER, others=(SPLEEN, Region((0.0, 0.0, 0.1, 0.1)))), example(CANCER)]
    assert labels_of(examples) == labels_of(examples[::-1]) == ("Liver", "Liver Cancer", "Spleen")
