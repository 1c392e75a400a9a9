from collections import Counter

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.records import FAMILIES
from data_pipelines.regions.boxes import box_to_pixels
from data_pipelines.regions.questions import region_questions
from data_pipelines.sources import chest_xray14

# The published headers, odd commas included.
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
LABELS = {
    "00000001_000.png": "Cardiomegaly",
    "00000001_001.png": "Cardiomegaly|Pleural_Thickening",
    "00000002_000.png": "No Finding",
    "00000003_000.png": "No Finding",
    "00000004_000.png": "Infiltration|Mass",
    "00000005_000.png": "No Finding",
}
TEST = ("00000004_000.png", "00000005_000.png")
BOXES = ("00000004_000.png,Infiltrate,225.5,547.0,86.75,79.0,,,", "00000004_000.png,Mass,100,100,50,50,,,")


@pytest.fixture
def small_root(tmp_path):
    """Six films of five patients; one of the two test films has boxes."""

    def build(labels=LABELS, boxes=BOXES, entries="Data_Entry_2017.csv", folders=("images",), size=1024):
        rows = [f"{name},{found},0,1,58,M,PA,2682,2749,0.143,0.143," for name, found in labels.items()]
        (tmp_path / entries).write_text("\n".join([ENTRY_HEADER, *rows]) + "\n")
        (tmp_path / "BBox_List_2017.csv").write_text("\n".join([BOX_HEADER, *boxes]) + "\n")
        (tmp_path / "test_list.txt").write_text("\n".join(TEST))
        (tmp_path / "train_val_list.txt").write_text("\n".join(name for name in LABELS if name not in TEST) + "\n")
        for place, name in enumerate(LABELS):
            folder = tmp_path / folders[place % len(folders)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("1", (size, size)).save(folder / name)
        return str(tmp_path)

    return build


def test_each_finding_is_asked_about_as_often_with_it_as_without(small_root):
    split = chest_xray14.SOURCE.load(small_root(), "train_val")
    asked = Counter((e.question, e.answer) for e in split.examples)
    assert asked == {
        ("Does this film show cardiomegaly?", "Yes"): 2,
        ("Does this film show cardiomegaly?", "No"): 2,
        ("Does this film show pleural thickening?", "Yes"): 1,
        ("Does this film show pleural thickening?", "No"): 1,
    }
    assert len(split.images) == 4
    assert {(e.answer_type, e.family) for e in split.examples} == {("closed", "vqa")}
    assert len({e.id for e in split.examples}) == len(split.examples)


def test_answers_agree_with_the_films_labels(small_root):
    for example in chest_xray14.SOURCE.load(small_root(), "train_val").examples:
        finding = example.question.removeprefix("Does this film show ").removesuffix("?")
        assert (example.answer == "Yes") == (finding in {label.lower() for label in example.labels})
        published = LABELS[example.image_id].replace("_", " ").replace("No Finding", "")
        assert "|".join(example.labels) == published


def test_the_same_films_are_asked_about_every_time(small_root):
    root = small_root()
    first, second = (chest_xray14.SOURCE.load(root, "train_val").examples for _ in range(2))
    assert first == second


def test_boxes_are_pixels_of_the_film_and_infiltrate_is_infiltration(small_root):
    boxed, plain = chest_xray14.SOURCE.load(small_root(), "test").images
    assert [region.label for region in boxed.regions] == ["Infiltration", "Mass"]
    assert box_to_pixels(boxed.regions[0].box, width=1024, height=1024) == (225.5, 547.0, 86.75, 79.0)
    assert plain.regions == ()
    families = {e.family for e in region_questions([boxed], families=FAMILIES, seed=0)}
    assert {"identify", "localise", "verify"} <= families


def test_films_are_found_in_the_archives_folders_and_the_corrected_labels_are_preferred(small_root):
    small_root(labels=dict.fromkeys(LABELS, "No Finding"), folders=("images_001/images", "images_012/images"))
    root = small_root(entries="Data_Entry_2017_v2020.csv", folders=("images_001/images", "images_012/images"))
    split = chest_xray14.SOURCE.load(root, "train_val")
    assert len(split.images) == 4
    assert len(split.examples) == 6


def test_missing_films_are_left_out_and_named_and_corrupt_ones_kept_for_the_decoder(small_root, tmp_path):
    root = small_root()
    (tmp_path / "images/00000004_000.png").write_bytes(b"not an image")
    (tmp_path / "images/00000005_000.png").unlink()
    split = chest_xray14.SOURCE.load(root, "test")
    assert split.left_out == {"image not in the folder": ["00000005_000.png"]}
    assert [(image.image_id, image.regions) for image in split.images] == [("00000004_000.png", ())]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"boxes": ["00000004_000.png,Mass,1000,1,50,0,,,"]},
            ("data.invalid-region", "BBox_List_2017.csv", "row 2", "1000,1,50,0"),
        ),
        ({"boxes": ["00000004_000.png,Mass,a,1,50,50,,,"]}, ("data.invalid-value", "row 2", "a, 1, 50, 50")),
        ({"boxes": ["00000004_000.png,Tumour,1,1,50,50,,,"]}, ("data.unknown-name", "row 2", "'Tumour'")),
        (
            {"labels": LABELS | {"00000004_000.png": "Masses"}},
            ("data.unknown-name", "Data_Entry_2017.csv", "row 6", "'Masses'"),
        ),
        ({"labels": {"00000004_000.png": "Mass"}}, ("data.missing-field", "test_list.txt", "00000005_000.png")),
        ({"size": 512}, ("data.conflict", "512 x 512", "1024 x 1024")),
    ],
)
def test_malformed_files_are_named(small_root, changes, complaint):
    with refused(DataError, *complaint):
        chest_xray14.SOURCE.load(small_root(**changes), "test")


def test_wrong_split_and_missing_films_are_errors(small_root, tmp_path):
    root = small_root()
    with refused(DataError, "data.unknown-name", "train", "train_val"):
        chest_xray14.SOURCE.load(root, "train")
    for name in LABELS:
        (tmp_path / "images" / name).unlink()
    with refused(DataError, "file.missing"):
        chest_xray14.SOURCE.load(root, "test")


def test_the_card_counts_112120_films():
    assert sum(count.images for count in chest_xray14.CARD.splits.values()) == 112120
