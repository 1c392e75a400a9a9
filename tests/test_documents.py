import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import UserError
from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.examples import load_examples
from data_pipelines.regions.boxes import iou
from data_pipelines.regions.named_structures import link_regions
from data_pipelines.sources import documents
from data_pipelines.sources.document_drawing import AMOUNTS, ASPECT, CLAUSES, draw_page
from rllava_jax.config import DataConfig, DocumentsConfig, PolicyConfig

SMALL = DocumentsConfig(train_images=60, validate_images=4, test_images=20)
LABELS = {f"{name} Clause" for name in CLAUSES} | {"Table", "Signature", "Stamp"}


@pytest.fixture(scope="module")
def train():
    return documents.load(SMALL, "train")


@pytest.fixture(scope="module")
def pages():
    return [draw_page(rng_for("test pages", number), 256) for number in range(60)]


def test_the_same_settings_draw_the_same_bytes(train):
    again = documents.load(replace(SMALL, train_images=3), "train")
    assert [image.image for image in again.images] == [image.image for image in train.images[:3]]
    assert again.examples == [e for e in train.examples if e.image_id < "train-00003"]


def test_seeds_and_splits_draw_different_pages(train):
    others = [documents.load(replace(SMALL, seed=1), "train"), documents.load(SMALL, "test")]
    pages = {image.image for image in train.images}
    assert len(pages) == 60
    for other in others:
        assert pages.isdisjoint(image.image for image in other.images)


def test_a_page_has_three_to_five_clauses_and_every_part_occurs(train):
    for image in train.images:
        labels = [region.label for region in image.regions]
        assert len(set(labels)) == len(labels)
        assert 3 <= sum(label.endswith("Clause") for label in labels) <= 5
    assert {region.label for image in train.images for region in image.regions} == LABELS


def test_parts_do_not_cover_each_other(pages):
    for page in pages:
        boxes = list(page.boxes.values())
        assert all(0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1 for y0, x0, y1, x1 in boxes)
        assert all(iou(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])


def test_boxes_hold_the_pages_ink_but_for_its_heading_and_the_pens_stroke(pages):
    for page in pages:
        height, width, _ = page.pixels.shape
        paper = np.median(page.pixels, axis=(0, 1))
        red = page.pixels[..., 0] > page.pixels[..., 1:].max(axis=-1) + 40.0
        ink = (page.pixels.mean(axis=-1) < paper.mean() - 90) & ~red
        ink[: round(height * 0.095)] = False
        inside = np.zeros_like(ink)
        for y0, x0, y1, x1 in page.boxes.values():
            inside[int(y0 * height) : round(y1 * height) + 1, int(x0 * width) : round(x1 * width) + 1] = True
            assert ink[inside].any()
        # The stroke's dark rim, where it crosses black text, is neither red nor in a box.
        assert (ink & ~inside).sum() < 0.01 * ink.sum()


def test_the_pens_stroke_goes_around_the_part_that_is_called_circled(pages):
    for page in pages:
        height, width, _ = page.pixels.shape
        rest = page.pixels[..., 1:].max(axis=-1).astype(int)
        rows, columns = np.nonzero(page.pixels[..., 0] > rest + 90)
        around = (rows.min() / height, columns.min() / width, rows.max() / height, columns.max() / width)
        overlaps = {label: iou(around, box) for label, box in page.boxes.items()}
        assert max(overlaps, key=overlaps.get) == page.circled


def test_a_box_alone_does_not_tell_what_is_in_it(pages):
    # A nearest neighbour among the other pages' boxes does no better than the commonest label.
    boxes = np.array([box for page in pages for box in page.boxes.values()])
    labels = [label for page in pages for label in page.boxes]
    distance = ((boxes[:, None] - boxes[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distance, np.inf)
    right = np.mean([labels[near] == label for near, label in zip(distance.argmin(axis=1), labels, strict=True)])
    assert right < max(Counter(labels).values()) / len(labels) + 0.06


def test_questions_about_the_marked_clause_bring_its_box(train):
    linked, counts = link_regions(train.examples, train.images, rule="question", max_regions=1)
    marked = [e for e in linked if "the marked clause" in e.question or "is marked" in e.question]
    assert len(marked) == 2 * len(train.images)
    assert {e.provenance for e in marked} == {"annotation"}
    assert counts.too_many == 0
    for example in marked:
        (region,) = example.regions
        assert region not in example.distractors
        if example.id.endswith("/marked"):
            assert region.label == f"{example.answer} Clause"
        else:
            assert example.answer in AMOUNTS


def test_without_the_rule_no_question_has_a_region(train):
    linked, _ = link_regions(train.examples, train.images, rule="none", max_regions=1)
    assert not [e for e in linked if e.regions]


def test_answers_are_true_of_the_page(train):
    labels = {image.image_id: {region.label for region in image.regions} for image in train.images}
    for example in train.examples:
        seen = labels[example.image_id]
        match example.id.rpartition("/")[2]:
            case "count":
                assert int(example.answer) == sum(label.endswith("Clause") for label in seen)
            case "signed":
                assert (example.answer == "Yes") == ("Signature" in seen)
            case "stamp":
                assert "Stamp" in seen
            case "circled":
                assert {example.answer, f"{example.answer} Clause"} & seen


def test_which_clause_is_marked_cannot_be_guessed_from_the_question():
    load = documents.load(replace(SMALL, train_images=150), "train")
    answers = Counter(e.answer for e in load.examples if e.id.endswith("/marked"))
    assert set(answers) == set(CLAUSES)
    assert max(answers.values()) / answers.total() < 0.25


def test_the_four_region_families_are_rebuilt_from_the_parts():
    data = DataConfig(source="documents", documents=SMALL, policy=PolicyConfig())
    examples = load_examples(data, "test", seed=0, max_regions=1)
    assert {e.family for e in examples} == {"vqa", "identify", "localise", "verify", "choose"}
    assert len({e.id for e in examples}) == len(examples)
    assert {e.answer for e in examples if e.family == "identify"} <= LABELS


def test_a_page_may_be_drawn_larger(pages):
    image = Image.open(io.BytesIO(documents.load(replace(SMALL, page_width=400), "validate").images[0].image))
    assert image.size == (400, round(400 * ASPECT))


@pytest.mark.parametrize(
    ("config", "split", "complaint"),
    [
        (SMALL, "dev", ("data.unknown-name", "dev")),
        (replace(SMALL, page_width=100), "test", ("config.invalid-value", "page_width", "100")),
    ],
)
def test_wrong_settings_are_errors(config, split, complaint):
    with refused(UserError, *complaint):
        documents.load(config, split)
