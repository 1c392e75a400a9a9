import csv
import gzip
import logging

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.core.text_files import read_rows
from data_pipelines.sources import roco_v2

CAPTIONS = {
    "ROCOv2_2023_train_000001": 'Axial CT,\nwith a "bright" lesion.',
    "ROCOv2_2023_train_000002": "Chest radiograph.",
}
CONCEPTS = {"ROCOv2_2023_train_000001": "C0040405;C0023884", "ROCOv2_2023_train_000002": "C1306645;C9999999"}


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def small_root(tmp_path):
    """The Zenodo record with two training images."""

    def build(folder="train_images", captions=CAPTIONS, images=CAPTIONS):
        (tmp_path / folder).mkdir(parents=True)
        for name in images:
            Image.new("L", (8, 6)).save(tmp_path / folder / f"{name}.jpg")
        write_csv(tmp_path / "train_captions.csv", ["ID", "Caption"], captions.items())
        write_csv(tmp_path / "train_concepts.csv", ["ID", "CUIs"], CONCEPTS.items())
        manual = [(name, cuis.split(";")[0]) for name, cuis in CONCEPTS.items()]
        write_csv(tmp_path / "train_concepts_manual.csv", ["ID", "CUIs"], manual)
        mapping = [("C0040405", "X-Ray Computed Tomography"), ("C1306645", "Plain x-ray"), ("C0023884", "Liver")]
        write_csv(tmp_path / "cui_mapping.csv", ["CUI", "Canonical name"], mapping)
        return str(tmp_path)

    return build


def test_a_caption_is_one_example_with_the_names_of_its_concepts(small_root):
    split = roco_v2.SOURCE.load(small_root(), "train")
    first, second = split.examples
    assert (first.id, first.task, first.family, first.question) == (
        "roco_v2/ROCOv2_2023_train_000001", "caption", "caption", "",
    )  # fmt: skip
    assert first.answer == 'Axial CT, with a "bright" lesion.'
    assert first.labels == ("X-Ray Computed Tomography", "Liver")
    assert [e.modality for e in (first, second)] == ["CT", "X-Ray"]
    assert [image.image_id for image in split.images] == list(CAPTIONS)


def test_a_concept_without_a_name_is_named_and_is_no_label(small_root, caplog):
    with caplog.at_level(logging.WARNING):
        split = roco_v2.SOURCE.load(small_root(), "train")
    assert split.examples[1].labels == ("Plain x-ray",)
    assert split.left_out == {"concept not in cui_mapping.csv": ["C9999999"]}
    assert "C9999999" in caplog.text


@pytest.mark.parametrize("folder", ["train_images", "train_images/train", "train"])
def test_the_archive_may_be_unpacked_with_or_without_its_inner_folder(small_root, folder):
    assert len(roco_v2.SOURCE.load(small_root(folder), "train").examples) == 2


def test_missing_images_and_empty_captions_are_left_out_and_named(small_root):
    first, second = CAPTIONS
    root = small_root(captions={first: " ", second: "A", "ROCOv2_2023_train_000009": "B"})
    split = roco_v2.SOURCE.load(root, "train")
    assert [e.answer for e in split.examples] == ["A"]
    assert split.left_out["no caption"] == [first]
    assert split.left_out["image not in the folder"] == ["ROCOv2_2023_train_000009.jpg"]


def test_the_card_counts_the_papers_79789_images():
    assert sum(count.images for count in roco_v2.CARD.splits.values()) == 79789


def test_wrong_split_missing_images_and_missing_files_are_one_line_errors(small_root, tmp_path):
    root = small_root()
    for split, complaint in (
        ("dev", ("data.unknown-name", "dev")),
        ("valid", ("file.missing", "valid_concepts_manual.csv")),
    ):
        with refused(DataError, *complaint):
            roco_v2.SOURCE.load(root, split)
    for name in CAPTIONS:
        (tmp_path / f"train_images/{name}.jpg").unlink()
    with refused(DataError, "file.missing", "train_images.zip") as caught:
        roco_v2.SOURCE.load(root, "train")
    assert "\n" not in str(caught.value)


# CSV files.


def test_a_gzipped_file_is_read_under_either_name(tmp_path):
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("x,y\n1,\n")
    for name in ("a.csv", "a.csv.gz"):
        assert list(read_rows(str(tmp_path / name), ("x", "y"))) == [{"x": "1", "y": ""}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"x,z\n1,2\n", ("data.missing-field",)),
        (b"x,y\n\xff,2\n", ("file.malformed", "CSV", "UTF-8")),
        (b'x,y\n"1"2,3\n', ("file.malformed", "CSV", "UTF-8")),
        (b"", ("file.malformed", "empty")),
    ],
)
def test_a_malformed_csv_file_is_named(tmp_path, content, complaint):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with refused(DataError, *complaint) as caught:
        list(read_rows(str(path), ("x", "y")))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_truncated_gzip_file_is_named(tmp_path):
    whole = gzip.compress(b"x,y\n" + b"1,2\n" * 5000)
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    with refused(DataError, "file.malformed", "a.csv.gz", "CSV"):
        list(read_rows(str(tmp_path / "a.csv.gz"), ("x", "y")))
