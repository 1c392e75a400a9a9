import logging
import os
import pickle

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.sources.path_vqa import SOURCE


def entry(image="train_0001", **changes):
    return {"image": image, "question": "what is present?", "answer": "liver"} | changes


@pytest.fixture
def small_root(tmp_path):
    """The authors' layout with one training image."""

    def build(entries, split="train"):
        images, questions = tmp_path / "images" / split, tmp_path / "qas" / split
        images.mkdir(parents=True, exist_ok=True)
        questions.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(images / f"{split}_0001.jpg")
        (questions / f"{split}_qa.pkl").write_bytes(pickle.dumps(entries, protocol=3))
        return str(tmp_path)

    return build


def test_questions_share_their_image_and_keep_the_file_s_order(small_root):
    root = small_root([entry(), entry(question="is liver present?", answer="yes")])
    split = SOURCE.load(root, "train")
    assert [(e.id, e.question, e.answer, e.answer_type) for e in split.examples] == [
        ("path_vqa/train/0", "what is present?", "liver", "open"),
        ("path_vqa/train/1", "is liver present?", "yes", "closed"),
    ]
    (image,) = split.images
    assert image.image == os.path.join(root, "images", "train", "train_0001.jpg")
    assert (image.image_id, image.regions) == ("train_0001", ())
    assert {e.image for e in split.examples} == {image.image}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_has_a_folder_of_its_own(small_root, split):
    (example,) = SOURCE.load(small_root([entry(f"{split}_0001")], split), split).examples
    assert (example.split, example.image_id) == (split, f"{split}_0001")


def test_repeated_questions_stay_as_the_published_scores_count_them(small_root):
    assert len(SOURCE.load(small_root([entry(), entry()]), "train").examples) == 2


def test_missing_images_and_empty_answers_are_left_out_and_named(small_root, caplog):
    root = small_root([entry(), entry("train_0009"), entry("train_0009"), entry(answer=" ")])
    with caplog.at_level(logging.WARNING):
        split = SOURCE.load(root, "train")
    assert [e.id for e in split.examples] == ["path_vqa/train/0"]
    assert split.left_out == {
        "image not in the folder": ["images/train/train_0009.jpg"],
        "no answer": ["path_vqa/train/3"],
    }
    assert "path_vqa train: left out 2 (image not in the folder): images/train/train_0009.jpg" in caplog.text


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(small_root, tmp_path):
    witness = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    with refused(DataError, "file.malformed", "train_qa.pkl") as caught:
        SOURCE.load(small_root([Attack()]), "train")
    assert not witness.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", ("file.malformed",)),
        (pickle.dumps([entry()])[:-9], ("file.malformed",)),
        (b"\x80\x03cbuiltins\nprint\n.", ("file.malformed", "builtins.print")),
        (pickle.dumps({"image": "x"}), ("file.malformed",)),
        (pickle.dumps(["x"]), ("file.malformed",)),
    ],
)
def test_a_damaged_file_is_one_line_naming_it(small_root, tmp_path, content, complaint):
    root = small_root([entry()])
    (tmp_path / "qas/train/train_qa.pkl").write_bytes(content)
    with refused(DataError, *complaint) as caught:
        SOURCE.load(root, "train")
    assert str(caught.value).startswith(os.path.join(root, "qas", "train", "train_qa.pkl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"question": ""}, ("data.missing-field", "question")),
        ({"answer": None}, ("data.missing-field", "answer")),
        ({"image": ["x"]}, ("data.invalid-value", "image")),
    ],
)
def test_a_malformed_entry_is_named_by_file_entry_and_field(small_root, changes, complaint):
    with refused(DataError, *complaint, "train_qa.pkl", "1"):
        SOURCE.load(small_root([entry(), entry(**changes)]), "train")


@pytest.mark.parametrize(
    ("root", "split", "complaint"),
    [
        (
            "",
            "train",
            (
                "config.missing-field",
                "data.root",
            ),
        ),
        ("/nowhere", "train", ("file.missing", "/nowhere")),
        (None, "validate", ("data.unknown-name", "validate")),
        (None, "test", ("file.missing", "test_qa.pkl")),
    ],
)
def test_a_wrong_root_or_split_says_what_to_set(small_root, root, split, complaint):
    with refused(DataError, *complaint):
        SOURCE.load(small_root([entry()]) if root is None else root, split)
