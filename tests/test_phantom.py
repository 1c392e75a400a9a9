import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import UserError
from data_pipelines.loading.examples import load_examples
from data_pipelines.regions.boxes import box_to_pixels, iou
from data_pipelines.sources import phantom
from data_pipelines.sources.phantom_drawing import LABELS
from rllava_jax.config import DataConfig, PhantomConfig

SMALL = PhantomConfig(train_images=40, validate_images=4, test_images=20)


@pytest.fixture(scope="module")
def train():
    return phantom.load(SMALL, "train")


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image.image)))


def test_the_same_settings_draw_the_same_bytes(train):
    again = phantom.load(replace(SMALL, train_images=3), "train")
    assert [image.image for image in again.images] == [image.image for image in train.images[:3]]
    assert again.examples == [e for e in train.examples if e.image_id < "train-00003"]


def test_seeds_and_splits_draw_different_images(train):
    others = [phantom.load(replace(SMALL, seed=1), "train"), phantom.load(SMALL, "test")]
    images = {image.image for image in train.images}
    assert len(images) == 40
    for other in others:
        assert images.isdisjoint(image.image for image in other.images)


def test_an_image_shows_five_to_nine_different_structures(train):
    for image in train.images:
        labels = [region.label for region in image.regions]
        assert 5 <= len(labels) <= 9
        assert len(set(labels)) == len(labels)
    assert {region.label for image in train.images for region in image.regions} == set(LABELS)


def test_no_label_can_be_guessed_from_the_question_alone(train):
    labels = Counter(region.label for image in train.images for region in image.regions)
    assert max(labels.values()) / sum(labels.values()) < 0.18


def test_boxes_lie_on_what_they_name(train):
    # Bone is the brightest thing in the slice, so its box must be brighter than the image.
    for image in train.images:
        (spine,) = (region for region in image.regions if region.label == "Spine")
        x, y, w, h = (round(v) for v in box_to_pixels(spine.box, width=160, height=160))
        grey = pixels(image)
        assert grey[y : y + h, x : x + w].mean() > 1.4 * grey.mean()


def middle(image, label):
    """Down and across, of the one region with this label."""
    (box,) = (region.box for region in image.regions if region.label == label)
    return np.array([box[0] + box[2], box[1] + box[3]]) / 2


def test_the_left_kidney_is_the_patients_left_however_the_body_lies(train):
    both = [
        image
        for image in train.images
        if {"Left Kidney", "Right Kidney", "Spine"} <= {region.label for region in image.regions}
    ]
    assert len(both) > 10
    for image in both:
        left, right, spine = (middle(image, label) for label in ("Left Kidney", "Right Kidney", "Spine"))
        down, across = left - right
        back_down, back_across = spine - (left + right) / 2
        # Seen from the feet, the back is a quarter turn clockwise from the way that leads from right to left.
        assert across * back_down - down * back_across > 0


def test_bodies_lie_on_the_back_the_face_and_both_sides_anywhere_in_the_image():
    images = phantom.load(PhantomConfig(train_images=120), "train").images
    spines = np.array([middle(image, "Spine") for image in images])
    ways = Counter()
    for image, spine in zip(images, spines, strict=True):
        grey = pixels(image) > 40
        centre = np.argwhere(grey).mean(axis=0) / 160
        down, across = spine - centre
        ways["down" if down > abs(across) else "up" if -down > abs(across) else "side"] += 1
    assert min(ways["down"], ways["up"], ways["side"]) > 20
    assert (spines.std(axis=0) > 0.12).all()


def test_cysts_and_lesions_lie_in_or_at_their_organ(train):
    for image in train.images:
        boxes = {region.label: region.box for region in image.regions}
        if "Liver Lesion" in boxes:
            assert iou(boxes["Liver Lesion"], boxes["Liver"]) > 0
        if "Kidney Cyst" in boxes:
            assert max(iou(boxes["Kidney Cyst"], boxes[k]) for k in ("Left Kidney", "Right Kidney") if k in boxes) > 0


def test_kidney_counts_and_presence_are_true_of_the_annotations(train):
    labels = {image.image_id: {region.label for region in image.regions} for image in train.images}
    for example in train.examples:
        seen = labels[example.image_id]
        if example.id.endswith("/count"):
            assert int(example.answer) == len(seen & {"Left Kidney", "Right Kidney"})
        if example.id.endswith("/presence"):
            asked = example.question.removeprefix("Is there a ").removesuffix(" in the image?")
            assert (example.answer == "Yes") == (asked in {label.lower() for label in seen})


def test_yes_and_no_are_about_equally_frequent():
    answers = Counter(
        example.answer
        for example in phantom.load(replace(SMALL, train_images=150), "train").examples
        if example.id.endswith(("/presence", "/contrast"))
    )
    assert 0.4 < answers["Yes"] / answers.total() < 0.6


def test_questions_of_an_image_share_its_bytes(train):
    images = {image.image_id: image.image for image in train.images}
    assert all(example.image is images[example.image_id] for example in train.examples)


def test_all_families_come_with_unique_ids_and_vqa_regions_match_their_question():
    examples = load_examples(DataConfig(phantom=SMALL), "test", seed=0, max_regions=1)
    assert {e.family for e in examples} == {"vqa", "identify", "localise", "verify", "choose"}
    assert len({e.id for e in examples}) == len(examples)
    marked = [e for e in examples if e.family == "vqa" and e.regions]
    assert marked
    assert all(e.regions[0].label.lower() in e.question.lower() for e in marked)
    assert not [e.question for e in marked if e.question.startswith(("Is there", "How many"))]


@pytest.mark.parametrize(
    ("config", "split", "complaint"),
    [
        (SMALL, "dev", ("data.unknown-name", "dev")),
        (replace(SMALL, image_size=32), "test", ("config.invalid-value", "image_size", "32")),
    ],
)
def test_wrong_settings_are_errors(config, split, complaint):
    with refused(UserError, *complaint):
        phantom.load(config, split)
