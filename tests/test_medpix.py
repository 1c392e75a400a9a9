import json

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.sources import medpix


def entry(name="MPX1001_synpic1", caption="Small nodule in the right middle lobe.", **changes):
    record = {
        "Type": "CT",
        "U_id": name.split("_")[0],
        "image": name,
        "Description": {
            "ACR Codes": "6.3",
            "Age": "66",
            "Caption": caption,
            "Figure Part": None,
            "Modality": "CT w/contrast (IV)",
            "Plane": "Axial",
            "Sex": "female",
        },
        "Location": "Chest, Pulmonary",
        "Location Category": "Thorax",
    }
    return record | changes


@pytest.fixture
def small_root(tmp_path):
    """The release's folder, with every image that the entries name but MPX1009's."""

    def build(files, inner="MedPix-2-0"):
        folder = tmp_path / inner
        (folder / "images").mkdir(parents=True)
        (folder / "splitted_dataset").mkdir()
        for name, entries in files.items():
            lines = "".join(json.dumps(record) + "\n" for record in entries)
            (folder / "splitted_dataset" / f"descriptions_{name}.jsonl").write_text(lines)
            for record in entries:
                if not record["image"].startswith("MPX1009"):
                    Image.new("L", (8, 6)).save(folder / "images" / f"{record['image']}.png")
        return str(tmp_path)

    return build


def test_an_image_has_its_caption_plane_and_labels_and_nothing_of_the_patient(small_root):
    split = medpix.SOURCE.load(small_root({"test": [entry()]}), "test")
    (example,) = split.examples
    assert (example.task, example.family, example.question) == ("caption", "caption", "")
    assert example.answer == "Small nodule in the right middle lobe."
    assert (example.modality, example.content_type) == ("CT", "Axial")
    assert example.labels == ("CT w/contrast (IV)", "Chest, Pulmonary", "Thorax")
    assert split.images[0].body_part == "Thorax"
    carried = " ".join((example.id, example.answer, example.content_type, example.modality, *example.labels))
    assert not {"66", "female", "6.3"} & set(carried.split())


@pytest.mark.parametrize("inner", ["MedPix-2-0", "."])
def test_the_root_is_the_release_or_its_inner_folder(small_root, inner):
    assert len(medpix.SOURCE.load(small_root({"dev": [entry()]}, inner), "dev").examples) == 1


def test_train_is_its_two_halves_where_it_has_no_file_of_its_own(small_root):
    root = small_root({"train_1": [entry()], "train_2": [entry("MPX1002_synpic2", Type="MR")]})
    examples = medpix.SOURCE.load(root, "train").examples
    assert [e.image_id for e in examples] == ["MPX1001_synpic1", "MPX1002_synpic2"]
    assert examples[1].modality == "MRI"


@pytest.mark.parametrize(
    "caption", ["IN PROGRESS", "IN PROGRESS.", "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS.", " ", None, "..."]
)
def test_captions_that_nobody_wrote_are_left_out_and_named(small_root, caption):
    split = medpix.SOURCE.load(small_root({"test": [entry(caption=caption)]}), "test")
    assert split.examples == []
    assert split.left_out == {"caption not written": ["MPX1001_synpic1"]}


@pytest.mark.parametrize(
    ("caption", "carried"),
    [
        ("CT of a 78-year-old man with pain.", "CT of a man with pain."),
        ("14 y/o female. Mass.", "female. Mass."),
        ("6 month old with a cyst", "with a cyst"),
        ("Unchanged since CT one year prior, 4-5 mm.", "Unchanged since CT one year prior, 4-5 mm."),
        ("In progress of healing.", "In progress of healing."),
    ],
)
def test_ages_are_taken_out_of_captions(small_root, caption, carried):
    (example,) = medpix.SOURCE.load(small_root({"test": [entry(caption=caption)]}), "test").examples
    assert example.answer == carried


def test_missing_and_repeated_images_are_left_out_and_placeholder_locations_no_labels(small_root):
    root = small_root({"test": [entry("MPX1009_synpic9"), entry(Location="Left Blank"), entry()]})
    split = medpix.SOURCE.load(root, "test")
    assert split.left_out == {
        "image not in the folder": ["MPX1009_synpic9.png"],
        "image described before": ["MPX1001_synpic1"],
    }
    assert len(split.examples) == 1
    assert split.examples[0].labels == ("CT w/contrast (IV)", "Thorax")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ('{"Type": "CT"', ("file.malformed", "JSON")),
        ("[1]", ("file.malformed", "1")),
        (json.dumps(entry(Description=None)), ("data.missing-field", "1", "Description")),
        (json.dumps(entry(image="")), ("data.missing-field", "1", "image")),
    ],
)
def test_a_malformed_line_is_named(small_root, tmp_path, lines, complaint):
    root = small_root({"test": [entry()]})
    path = tmp_path / "MedPix-2-0/splitted_dataset/descriptions_test.jsonl"
    path.write_text(lines)
    with refused(DataError, *complaint) as caught:
        medpix.SOURCE.load(root, "test")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_split_and_missing_file_are_errors(small_root):
    root = small_root({"test": [entry()]})
    for split, complaint in (
        ("valid", ("data.unknown-name", "valid")),
        ("dev", ("file.missing", "descriptions_dev.jsonl")),
    ):
        with refused(DataError, *complaint):
            medpix.SOURCE.load(root, split)
