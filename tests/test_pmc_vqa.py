import csv
import logging

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.sources.pmc_vqa import SOURCE

# Version 1 names the right option by text and letter; version 2 has captions, and the letter alone in "Answer".
VERSION_1 = ("Figure_path", "Question", "Answer", *(f"Choice {x}" for x in "ABCD"), "Answer_label")
VERSION_2 = ("index", "Figure_path", "Caption", "Question", *(f"Choice {x}" for x in "ABCD"), "Answer", "split")


def row(split, figure="PMC1_F1.jpg", **changes):
    options = {
        "Choice A": " A:Diffuse uptake, left ",
        "Choice B": " B: Focal uptake",
        "Choice C": "C:No uptake",
        "Choice D": " D:Cannot be told",
    }
    record = {"Figure_path": figure, "Question": " What is the uptake \n pattern?", **options}
    if split.endswith("_2"):
        record |= {"index": "35", "Caption": 'A "quoted", long caption', "Answer": "B", "split": split[:-2]}
    else:
        record |= {"Answer": "Focal uptake", "Answer_label": "B"}
    return record | changes


@pytest.fixture
def small_root(tmp_path):
    """The authors' layout with both archives unpacked, one image each."""

    def build(split="train", rows=None, columns=None):
        for folder in ("images", "figures"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / folder / "PMC1_F1.jpg")
        with open(tmp_path / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
            names = columns or (VERSION_2 if split.endswith("_2") else VERSION_1)
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows([row(split)] if rows is None else rows)
        return str(tmp_path)

    return build


@pytest.mark.parametrize(
    ("split", "folder"),
    [("train", "images"), ("test", "images"), ("test_clean", "images"), ("train_2", "figures"), ("test_2", "figures")],
)
def test_both_versions_give_options_without_letters_and_the_right_one_as_text(small_root, split, folder):
    root = small_root(split)
    loaded = SOURCE.load(root, split)
    (example,) = loaded.examples
    assert example.choices == ("Diffuse uptake, left", "Focal uptake", "No uptake", "Cannot be told")
    assert (example.answer, example.answer_type) == ("Focal uptake", "closed")
    assert example.question == (
        "What is the uptake pattern? Choose: Diffuse uptake, left; Focal uptake; No uptake; Cannot be told"
    )
    assert (example.id, example.image, example.image_id) == (
        f"pmc_vqa/{split}/0", f"{root}/{folder}/PMC1_F1.jpg", "PMC1_F1.jpg",
    )  # fmt: skip
    assert [image.image_id for image in loaded.images] == ["PMC1_F1.jpg"]


def test_every_split_of_the_card_can_be_loaded(small_root):
    for split in SOURCE.card.splits:
        assert len(SOURCE.load(small_root(split), split).examples) == 1


@pytest.mark.parametrize(
    ("text", "letter", "answer"),
    [
        ("No uptake", " D ", "Cannot be told"),
        ("No uptake", "", "No uptake"),
        ("No uptake", "E", "No uptake"),
        ("else", "B\xa0", "Focal uptake"),
    ],
)
def test_the_letter_decides_and_without_one_the_text(small_root, text, letter, answer):
    root = small_root(rows=[row("train", Answer=text, Answer_label=letter)])
    assert [e.answer for e in SOURCE.load(root, "train").examples] == [answer]


def test_an_empty_option_is_no_option(small_root):
    (example,) = SOURCE.load(small_root(rows=[row("train", **{"Choice C": "C:"})]), "train").examples
    assert example.choices == ("Diffuse uptake, left", "Focal uptake", "Cannot be told")
    assert example.question.endswith("Choose: Diffuse uptake, left; Focal uptake; Cannot be told")


def test_what_cannot_be_asked_is_left_out_by_reason(small_root, caplog):
    faults = [
        row("train"),
        row("train", "PMC2_F1.jpg"),
        row("train", "PMC2_F1.jpg"),
        row("train", Question=" "),
        row("train", **{"Choice B": "B:"}),
        row("train", Answer="else", Answer_label="E"),
        {"Figure_path": "PMC1_F1.jpg", "Question": "A row that ends early?"},
    ]
    with caplog.at_level(logging.WARNING):
        split = SOURCE.load(small_root(rows=faults), "train")
    assert [e.id for e in split.examples] == ["pmc_vqa/train/0"]
    assert split.left_out == {
        "image not in the folder": ["images/PMC2_F1.jpg"],
        "no question": ["pmc_vqa/train/3"],
        "no option is named as the right one": ["pmc_vqa/train/4", "pmc_vqa/train/5", "pmc_vqa/train/6"],
    }
    assert "pmc_vqa train: left out 2 (image not in the folder): images/PMC2_F1.jpg" in caplog.text


@pytest.mark.parametrize(
    ("columns", "lacking"),
    [
        (("Figure_path", "Question", "Answer"), ("data.missing-field",)),
        (("Figure_path", "Question", *(f"Choice {x}" for x in "ABCD")), ("data.missing-field", "Answer_label")),
    ],
)
def test_missing_columns_are_named(small_root, columns, lacking):
    with refused(DataError, *lacking, "train.csv"):
        SOURCE.load(small_root(columns=columns), "train")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'Figure_path,"Question\n'])
def test_a_damaged_file_is_one_line_naming_it(small_root, tmp_path, content):
    root = small_root()
    (tmp_path / "train.csv").write_bytes(content)
    with refused(DataError, "file.malformed", "train.csv", "CSV", "UTF-8") as caught:
        SOURCE.load(root, "train")
    assert "\n" not in str(caught.value)


def test_unknown_split_missing_file_and_missing_folder_are_errors(small_root):
    root = small_root()
    with refused(DataError, "data.unknown-name", "train2", "test_clean", "train_2", "test_2"):
        SOURCE.load(root, "train2")
    with refused(DataError, "file.missing", "test_clean.csv"):
        SOURCE.load(root, "test_clean")
    with refused(DataError, "file.missing", "/nowhere"):
        SOURCE.load("/nowhere", "train")
