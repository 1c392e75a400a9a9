import json
import logging

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.loading.examples import load_examples
from data_pipelines.sources import vqa_rad
from rllava_jax.config import DataConfig


def entry(qid=1, **changes):
    record = {
        "qid": qid,
        "phrase_type": "freeform",
        "image_name": "synpic1.jpg",
        "image_organ": "CHEST",
        "question": "Is the lung normal?",
        "question_type": "ABN",
        "answer": "Yes",
        "answer_type": "CLOSED",
    }
    return record | changes


@pytest.fixture
def small_root(tmp_path):
    def build(entries):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "synpic1.jpg")
        (tmp_path / vqa_rad.QUESTIONS).write_text(json.dumps(entries))
        return str(tmp_path)

    return build


def test_test_split_has_451_questions_272_closed_21_of_them_not_yes_or_no(vqa_rad_root):
    examples = vqa_rad.load(vqa_rad_root, "test").examples
    closed = [e for e in examples if e.answer_type == "closed"]
    assert (len(examples), len(closed)) == (451, 272)
    assert sum(e.answer.lower() not in ("yes", "no") for e in closed) == 21


def test_train_split_has_1797_questions_on_313_images(vqa_rad_root):
    split = vqa_rad.load(vqa_rad_root, "train")
    assert (len(split.examples), len(split.images)) == (1797, 313)
    # 1,025 closed and two "CLOSED " with a trailing blank.
    assert sum(e.answer_type == "closed" for e in split.examples) == 1027


def test_fit_and_validate_share_no_image_and_make_up_the_training_split(vqa_rad_root):
    train, fit, validate = (vqa_rad.load(vqa_rad_root, split) for split in ("train", "fit", "validate"))
    fit_images, validate_images = ({image.image_id for image in split.images} for split in (fit, validate))
    assert not fit_images & validate_images
    assert fit_images | validate_images == {image.image_id for image in train.images}
    assert len(fit.examples) + len(validate.examples) == len(train.examples)
    assert 0.05 < len(validate_images) / len(train.images) < 0.15


def test_content_types_have_one_spelling(vqa_rad_root):
    types = {e.content_type for split in ("train", "test") for e in vqa_rad.load(vqa_rad_root, split).examples}
    assert types.isdisjoint({"PRSE", "ATRIB", "Other"})
    assert not {"PRES, ATTRIB", "PRES, POS"} & types
    assert {"ATTRIB, PRES", "POS, PRES"} <= types


def test_vqa_rad_has_ordinary_questions_only(vqa_rad_root):
    examples = load_examples(DataConfig(source="vqa_rad", root=vqa_rad_root), "test", seed=0, max_regions=1)
    assert {(e.family, e.regions) for e in examples} == {("vqa", ())}
    assert len({e.id for e in examples}) == 451


def test_dirty_fields_are_cleaned(small_root):
    root = small_root([entry(question=" Is it\tso? ", answer=12, answer_type="CLOSED ", qid="0")])
    (example,) = vqa_rad.load(root, "train").examples
    assert (example.id, example.question, example.answer) == ("vqa_rad/0", "Is it so?", "12")
    assert example.answer_type == "closed"


def test_missing_images_and_empty_answers_are_left_out_and_named(small_root, caplog):
    root = small_root([entry(1), entry(2, image_name="synpic9.jpg"), entry(3, answer=" ")])
    with caplog.at_level(logging.WARNING):
        examples = vqa_rad.load(root, "train").examples
    assert [e.id for e in examples] == ["vqa_rad/1"]
    assert "synpic9.jpg" in caplog.text
    assert "vqa_rad/3" in caplog.text


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"phrase_type": "frame"}, ("data.invalid-value", "phrase_type", "frame")),
        ({"question": ""}, ("data.missing-field", "question")),
        ({"answer_type": "BOTH"}, ("data.invalid-value", "answer_type", "both")),
        ({"answer": None}, ("data.missing-field", "answer")),
    ],
)
def test_malformed_entry_is_named_by_file_entry_and_field(small_root, changes, complaint):
    with refused(DataError, *complaint, "Public.json", "1") as caught:
        vqa_rad.load(small_root([entry(), entry(2, **changes)]), "train")
    assert "\n" not in str(caught.value)


def test_unknown_split_and_missing_file_are_errors(small_root, tmp_path):
    with refused(DataError, "data.unknown-name", "dev"):
        vqa_rad.load(small_root([entry()]), "dev")
    (tmp_path / vqa_rad.QUESTIONS).unlink()
    with refused(DataError, "file.missing", "Public.json"):
        vqa_rad.load(str(tmp_path), "train")
