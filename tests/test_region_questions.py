import random
from collections import Counter

import pytest

from data_pipelines.records import AnnotatedImage, Region
from data_pipelines.regions.boxes import boxes_from_text
from data_pipelines.regions.questions import IDENTIFY_WORDINGS, region_questions

FAMILIES = ("identify", "localise", "verify", "choose")


def image(name, *labels, modality="CT", body_part="Abdomen"):
    """An image with the named structures side by side."""
    width = 1 / max(len(labels), 1)
    regions = tuple(Region((0.2, i * width, 0.6, (i + 1) * width), label) for i, label in enumerate(labels))
    return AnnotatedImage("toy", "train", b"bytes", name, regions, modality, body_part)


IMAGES = [
    image("a", "Liver", "Spleen", "Left Kidney", "Right Kidney"),
    image("b", "Liver", "Liver", "Colon"),
    image("c", "Heart", body_part="Chest"),
    image("d", "Brain Stem", modality="MRI", body_part="Head"),
    image("e"),
]


def ask(images=IMAGES, families=FAMILIES, seed=0):
    return region_questions(images, families=families, seed=seed)


def test_every_box_is_identified_once_with_its_label():
    examples = ask(families=("identify",))
    assert [(e.image_id, e.answer) for e in examples] == [
        (i.image_id, region.label) for i in IMAGES for region in i.regions
    ]
    assert {e.question for e in examples} <= set(IDENTIFY_WORDINGS)
    assert {(e.answer_type, e.provenance, len(e.regions)) for e in examples} == {("open", "annotation", 1)}


def test_distractors_are_the_boxes_of_other_labels():
    liver, second, colon = ask([IMAGES[1]], families=("identify",))
    assert [r.label for r in liver.distractors] == ["Colon"]
    assert [r.label for r in second.distractors] == ["Colon"]
    assert [r.label for r in colon.distractors] == ["Liver", "Liver"]


def test_localise_asks_for_labels_with_a_single_box_and_shows_none():
    examples = ask(families=("localise",))
    assert ("b", "liver") not in {(e.image_id, e.question) for e in examples}
    colon = next(e for e in examples if e.question == "colon")
    assert (colon.task, colon.regions) == ("detect", ())
    assert colon.answer.endswith(" colon")
    assert boxes_from_text(colon.answer)[0] == pytest.approx(IMAGES[1].regions[2].box, abs=1e-3)


def test_verify_is_half_yes_and_half_no_and_says_the_truth():
    examples = ask(families=("verify",))
    assert Counter(e.answer for e in examples) == {"Yes": 9, "No": 9}
    for example in examples:
        named = example.question.removeprefix("Is the marked structure the ").removesuffix("?")
        assert (named == example.regions[0].label.lower()) == (example.answer == "Yes")


def test_negatives_come_from_the_same_image_first_then_from_images_like_it():
    negatives = {e.id: e.question for e in ask(families=("verify",)) if e.answer == "No"}
    assert negatives["toy/verify/b/2/no"] == "Is the marked structure the liver?"
    # Alone on its image and in its body part: the rest of CT, not MRI.
    assert "brain stem" not in negatives["toy/verify/c/0/no"]


def test_a_label_whose_box_is_nearly_the_same_is_not_called_wrong():
    box = (0.1, 0.1, 0.5, 0.5)
    twins = AnnotatedImage("toy", "train", b"", "t", (Region(box, "Edema"), Region(box, "Tumor")), "CT", "Abdomen")
    examples = ask([twins, IMAGES[0]], families=("verify",))
    questions = [e.question for e in examples if e.image_id == "t" and e.answer == "No"]
    assert len(questions) == 2
    assert not any("edema" in q or "tumor" in q for q in questions)


def test_choose_offers_four_labels_one_of_which_is_right():
    examples = ask(families=("choose",))
    assert len(examples) == 9
    for example in examples:
        assert len(set(example.choices)) == 4
        assert example.answer == example.regions[0].label
        assert example.answer in example.choices
        assert all(choice in example.question for choice in example.choices)
    many = ask([image(f"m{i}", "Liver", "Spleen", "Colon", "Heart") for i in range(50)], families=("choose",))
    places = Counter(e.choices.index(e.answer) for e in many)
    assert min(places[i] for i in range(4)) > 30  # of 200; 50 expected


def test_no_wrong_label_means_no_verify_and_no_choose_question():
    assert {e.family for e in ask([image("x", "Liver", "Liver")])} == {"identify"}


def test_a_box_without_a_label_is_asked_nothing():
    assert not [e for e in ask([image("x", "", "Liver"), IMAGES[0]]) if e.id.endswith("/x/0")]


def test_order_of_images_and_choice_of_families_change_no_question():
    shuffled = random.Random(0).sample(IMAGES, len(IMAGES))
    assert {e.id: e for e in ask(shuffled)} == {e.id: e for e in ask()}
    assert ask(families=("choose",)) == [e for e in ask() if e.family == "choose"]


def test_seeds_differ():
    assert ask(seed=1) != ask()


def test_ids_are_unique():
    examples = ask()
    assert len({e.id for e in examples}) == len(examples)
