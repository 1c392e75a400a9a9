"""JSON Lines and an image folder: every field is read, and nothing that is not understood is passed over."""

import json
import logging

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.images import reading
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import Region, Turn
from data_pipelines.sources import jsonl
from rllava_jax.config import DataConfig, PolicyConfig


def row(number=1, **changes):
    record = {"id": str(number), "image": "images/a.png", "question": "Where is the mass?", "answer": "Left"}
    return record | changes


def box(*numbers, **changes):
    return {"box": list(numbers), "label": "Mass"} | changes


@pytest.fixture
def small_root(tmp_path):
    """A folder with one image of 100x50 pixels, a mask, and the given rows in train.jsonl."""

    def build(*rows, name="train.jsonl"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (100, 50)).save(tmp_path / "images/a.png")
        mask = np.zeros((50, 100), np.uint8)
        mask[10:30, 10:50] = 70
        Image.fromarray(mask).save(tmp_path / "mask.png")
        Image.new("L", (10, 5)).save(tmp_path / "small.png")
        Image.new("RGB", (100, 50)).save(tmp_path / "colour.png")
        lines = [line if isinstance(line, str) else json.dumps(line) for line in rows or (row(),)]
        (tmp_path / name).write_text("\n".join(lines) + "\n\n", "utf-8")
        return str(tmp_path)

    return build


def test_a_row_without_more_is_an_open_english_question(small_root):
    (example,) = jsonl.load(small_root(), "train").examples
    assert (example.id, example.question, example.answer) == ("jsonl/1", "Where is the mass?", "Left")
    assert (example.answer_type, example.language, example.task, example.image_id) == (
        "open", "en", "answer", "images/a.png",
    )  # fmt: skip


def test_every_field_reaches_the_record(small_root):
    full = row(
        image_id="scan 1",
        answer_type="CLOSED",
        content_type="Size",
        modality="CT",
        body_part="Chest",
        language="de",
        task="answer",
        regions=[box(10, 10, 40, 20, mask="mask.png", mask_level=70)],
        choices=["Left", "Right"],
        turns=[{"question": "What is this?", "answer": "A chest CT"}],
        labels=["Mass"],
    )
    split = jsonl.load(small_root(full), "train")
    (example,), (image,) = split.examples, split.images
    assert (example.image_id, example.answer_type, example.content_type) == ("scan 1", "closed", "Size")
    assert (example.modality, example.language, example.choices) == ("CT", "de", ("Left", "Right"))
    assert (example.turns, example.labels) == ((Turn("What is this?", "A chest CT"),), ("Mass",))
    (region,) = example.regions
    assert (region.box, region.label) == ((0.2, 0.1, 0.6, 0.5), "Mass")
    assert reading.decode_mask(region.mask, "x").sum() == 20 * 40
    assert (image.regions, image.modality, image.body_part) == ((region,), "CT", "Chest")


def test_a_question_keeps_the_regions_of_its_row(small_root):
    marked = [box(10, 10, 40, 20), box(60, 30, 10, 10, label="Rib")]
    root = small_root(row(question="What is this?", regions=marked[:1]), {"image": "images/a.png", "regions": marked})
    for rule, labels in (("question", ["Mass"]), ("answer", ["Mass"]), ("none", [])):
        data = DataConfig(source="jsonl", root=root, policy=PolicyConfig(question_regions=rule))
        (example,) = (e for e in load_examples(data, "train", seed=0, max_regions=1) if e.family == "vqa")
        assert [region.label for region in example.regions] == labels
        assert example.provenance == ("annotation" if labels else "")
        assert [region.label for region in example.distractors] == (["Rib"] if labels else ["Mass", "Rib"])


def test_what_rows_mark_on_an_image_adds_up_once(small_root):
    mass, rib = box(10, 10, 40, 20), box(60, 30, 10, 10, label="Rib")
    root = small_root(row(1, regions=[mass]), row(2, regions=[mass, rib]), row(3))
    split = jsonl.load(root, "train")
    assert [region.label for region in split.images[0].regions] == ["Mass", "Rib"]
    assert [len(example.regions) for example in split.examples] == [1, 2, 0]


def test_a_polygon_alone_has_the_box_around_it(small_root):
    points = [[10, 10], [50, 10], [50, 30]]
    (example,) = jsonl.load(small_root(row(regions=[{"polygon": points}])), "train").examples
    vertices = ((0.2, 0.1), (0.2, 0.5), (0.6, 0.5))
    assert example.regions == (Region((0.2, 0.1, 0.6, 0.5), "", vertices),)


def test_a_caption_needs_no_question(small_root):
    caption = {"id": "1", "image": "images/a.png", "task": "caption", "answer": "A mass on the left."}
    (example,) = jsonl.load(small_root(caption), "train").examples
    assert (example.task, example.question, example.answer) == ("caption", "", "A mass on the left.")


def test_the_split_is_the_field_or_the_name_of_the_file(small_root):
    root = small_root(row(1), row(2, split="test"))
    small_root(row(3), name="extra.jsonl")
    assert jsonl.splits(root) == ("extra", "train", "test")
    assert [e.id for e in jsonl.load(root, "test").examples] == ["jsonl/2"]
    assert [e.id for e in jsonl.load(root, "extra").examples] == ["jsonl/3"]


def test_missing_images_are_left_out_and_named(small_root, caplog):
    with caplog.at_level(logging.WARNING):
        split = jsonl.load(small_root(row(1), row(2, image="images/gone.png")), "train")
    assert len(split.examples) == 1
    assert split.left_out == {"image not in the folder": ["images/gone.png"]}
    assert "images/gone.png" in caplog.text


def test_a_corrupt_image_keeps_its_questions_for_the_decoder_to_report(small_root, tmp_path):
    root = small_root(row(regions=[box(10, 10, 40, 20)]))
    (tmp_path / "images/a.png").write_bytes(b"no image")
    (example,) = jsonl.load(root, "train").examples
    assert example.regions == ()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (row(quesiton="?"), ("data.unknown-field", "'quesiton'", "'question'")),
        (row(xyz=1), ("data.unknown-field", "'xyz'", "accepted, answer, answer_type")),
        (row(regions=[box(1, 1, 2, 2, lable="x")]), ("data.unknown-field", "region 0", "'lable'", "'label'")),
        (row(image="/scans/a.png"), ("data.invalid-value", "'image'", "'/scans/a.png'")),
        (row(image="../a.png"), ("data.invalid-value", "'image'", "'../a.png'")),
        ("{", ("file.malformed", "JSON")),
        ("[1]", ("file.malformed", "list")),
        (row(answer=""), ("data.missing-field", "'answer'")),
        (row(answer=None), ("data.missing-field", "'answer'", "missing")),
        ({"image": "images/a.png", "id": "1", "question": "Is it?"}, ("data.missing-field", "'answer'", "missing")),
        ({"image": "images/a.png", "choices": ["a"]}, ("data.unknown-field", "'choices'")),
        (row(answer_type="maybe"), ("data.invalid-value", "'answer_type'", "'maybe'", "open, closed")),
        (row(task="count"), ("data.invalid-value", "'task'", "'count'", "answer, detect, caption")),
        (row(choices="a"), ("data.invalid-value", "'choices'", "'a'")),
        (row(turns=[{"question": "?"}]), ("data.missing-field", "turn 0", "'answer'")),
        (row(regions=[box(90, 10, 40, -2)]), ("data.invalid-region", "region 0", "90,10,40,-2")),
        (row(regions=[box(1, 2, 3)]), ("data.invalid-value", "region 0", "'box'", "[1, 2, 3]")),
        (row(regions=[box(1, 2, 3, "4")]), ("data.invalid-value", "region 0", "'box'", "'4'")),
        (row(regions=[{"label": "x"}]), ("data.missing-field", "'box'", "'polygon'")),
        (row(regions=[{"polygon": [[1, 2], [3, 4]]}]), ("data.invalid-region", "region 0", "polygon", "2")),
        (row(regions=[box(1, 1, 9, 9, mask="gone.png")]), ("file.missing", "gone.png")),
        (
            row(regions=[box(1, 1, 9, 9, mask="mask.png", mask_level=300)]),
            ("data.invalid-value", "'mask_level'", "300"),
        ),
        (row(regions=[box(1, 1, 9, 9, mask_level=3)]), ("data.missing-field", "'mask_level'", "'mask'")),
        ('{"id": ' + "1" * 400 + "}", ("data.invalid-value", "400")),
        (row(regions=[box(1, 1, 10**399, 9)]), ("data.invalid-value", "400")),
        ('{"id": "\\ud83d"}', ("data.invalid-value", "\\ud800")),
        ('{"id": ' * 100_000, ("file.malformed", "JSON")),
        ('{"id": "1", "image": "a.png", "id": "2"}', ("data.duplicate-field", "'id'")),
        (row(task="detect", question="mass", answer="mass"), ("data.invalid-value", "'answer'", "'mass'", "'detect'")),
        (
            row(task="detect", question="mass", answer="<loc0001><loc0002><loc0003> mass"),
            ("data.invalid-value", "'answer'", "<loc0003> mass", "'detect'"),
        ),
        (row(regions=[box(1, 1, 9, 9, mask="small.png")]), ("data.conflict", "small.png", "10 x 5", "100 x 50")),
        (
            row(regions=[box(1, 1, 9, 9, mask="colour.png", mask_level=3)]),
            ("data.invalid-value", "colour.png", "RGB", "3"),
        ),
    ],
)
def test_a_row_that_is_not_understood_is_named_by_file_and_line(small_root, line, complaint):
    root = small_root(row(1), line)
    with refused(DataError, *complaint) as caught:
        jsonl.load(root, "train")
    assert str(caught.value).startswith(f"{root}/train.jsonl: line 2: ")


def test_rows_that_disagree_about_an_image_are_named(small_root):
    with refused(DataError, "data.conflict", "MRI", "images/a.png", "CT"):
        jsonl.load(small_root(row(1, modality="CT"), row(2, modality="MRI")), "train")


def test_a_folder_without_rows_or_split_says_so(small_root, tmp_path):
    with refused(DataError, "file.missing", "jsonl"):
        jsonl.splits(str(tmp_path))
    with refused(DataError, "data.unknown-name", "dev"):
        jsonl.load(small_root(), "dev")


def test_a_byte_order_mark_is_no_part_of_the_first_row(small_root):
    root = small_root("\ufeff" + json.dumps(row()))
    assert [example.id for example in jsonl.load(root, "train").examples] == ["jsonl/1"]


def test_what_is_to_be_detected_is_answered_with_a_box(small_root):
    answer = "<loc0010><loc0020><loc0500><loc0600> mass"
    (example,) = jsonl.load(small_root(row(task="detect", question="mass", answer=answer)), "train").examples
    assert (example.task, example.answer) == ("detect", answer)


def test_a_colour_mask_without_a_level_is_what_is_not_black(small_root):
    root = small_root(row(regions=[box(1, 1, 9, 9, mask="colour.png")]))
    assert jsonl.load(root, "train").examples[0].regions[0].mask is not None
