import json
import logging
from dataclasses import replace

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines import prepare
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.records import FAMILIES, AnnotatedImage, Region, SourceSplit, VQAExample
from data_pipelines.regions.detections import attach_detections
from data_pipelines.regions.named_structures import link_regions
from data_pipelines.regions.questions import region_questions
from data_pipelines.sources import slake

NODULE = {"label": "Nodule", "box": [10, 10, 40, 20], "score": 0.9}
HEART = {"label": "Heart", "box": [60, 30, 10, 10], "score": 0.4}
# What both formats below say of image synpic1: the nodule is normalised by an image of 100x50 pixels.
NODULE_REGION = Region((0.2, 0.1, 0.6, 0.5), "Nodule")

CATEGORIES = [{"id": 1, "name": "Nodule"}, {"id": 2, "name": "Heart"}]
IMAGES = [{"id": 7, "file_name": "synpic1.jpg", "width": 1000, "height": 500}]
RESULTS = [
    {"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 20], "score": 0.9},
    {"image_id": 7, "category_id": 2, "bbox": [60, 30, 10, 10], "score": 0.4},
]


@pytest.fixture
def split(tmp_path):
    """Two images of 100x50 pixels, of which one is annotated, and a question."""
    images = []
    for name in ("synpic1", "synpic2"):
        path = tmp_path / "images" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (100, 50)).save(path)
        regions = (Region((0, 0, 1, 1), "Chest"),) if name == "synpic1" else ()
        images.append(AnnotatedImage("vqa_rad", "train", str(path), name, regions))
    question = VQAExample(
        "vqa_rad/1", "vqa_rad", "train", images[0].image, "synpic1", "Where is the nodule?", "In the left lung"
    )
    return SourceSplit([question], images, {"no answer": ["vqa_rad/2"]})


@pytest.fixture
def written(tmp_path):
    def write(content, name="boxes.json"):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_slake_s_own_boxes_written_as_a_detector_s_give_its_own_regions(slake_root, written):
    annotated = slake.load(slake_root, "test")
    boxes = {}
    for image in annotated.images:
        with open(f"{slake_root}/imgs/{image.image_id}/detection.json", encoding="utf-8") as file:
            marked = [(label, box) for entry in json.load(file) for label, box in entry.items()]
        name = f"imgs/{image.image_id}/source.jpg"
        boxes[name] = [{"label": label, "box": box, "score": 1} for label, box in marked]
    found = attach_detections(annotated, written(boxes), min_score=0.5)
    without_masks = [tuple(replace(region, mask=None) for region in image.regions) for image in annotated.images]
    assert sum(map(len, without_masks)) == 231
    assert [image.regions for image in found.images] == without_masks


@pytest.mark.parametrize("name", ["synpic1", "synpic1.jpg", "images/synpic1.jpg", "/data/of/others/images/synpic1.jpg"])
def test_boxes_by_image_replace_what_was_annotated(split, written, name):
    found = attach_detections(split, written({name: [NODULE, HEART]}), min_score=0.5)
    first, second = found.images
    assert (first.regions, first.provenance) == ((NODULE_REGION,), "detector")
    assert (second.regions, second.provenance) == ((), "detector")
    assert (found.examples, found.left_out) == (split.examples, split.left_out)
    assert (split.images[0].provenance, split.images[0].regions[0].label) == ("annotation", "Chest")


def test_coco_results_get_their_names_from_a_second_file_or_from_their_own(split, written):
    names = written({"categories": CATEGORIES, "images": IMAGES}, "names.json")
    alone = attach_detections(split, written(RESULTS), min_score=0, names_path=names)
    together = {"categories": CATEGORIES, "images": IMAGES, "annotations": RESULTS}
    whole = attach_detections(split, written(together), min_score=0)
    assert alone.images == whole.images
    assert [region.label for region in alone.images[0].regions] == ["Nodule", "Heart"]
    assert alone.images[0].regions[0] == NODULE_REGION


def test_without_coco_s_images_the_id_is_the_image_s_name(split, written):
    results = [result | {"image_id": "synpic2"} for result in RESULTS]
    found = attach_detections(split, written({"categories": CATEGORIES, "annotations": results}), min_score=0.5)
    assert [image.regions for image in found.images] == [(), (NODULE_REGION,)]


def test_boxes_of_other_splits_and_low_scores_are_left_out_and_counted(split, written, caplog):
    path = written({"synpic1": [NODULE, HEART, HEART], "synpic99": [NODULE], "elsewhere/synpic1.jpg": [NODULE]})
    with caplog.at_level(logging.INFO):
        attach_detections(split, path, min_score=0.5)
    assert "1 boxes on 1 of 2 images; left out 2 boxes that score below 0.5, and 2 on images outside the" in caplog.text
    assert "images without a box: synpic2" in caplog.text


def test_provenance_reaches_the_records_of_both_kinds_of_question(split, written):
    found = attach_detections(split, written({"synpic1": [NODULE, HEART]}), min_score=0)
    (linked,), counts = link_regions(found.examples, found.images, rule="question", max_regions=1)
    assert (linked.provenance, linked.regions, counts.linked) == ("detector:question", (NODULE_REGION,), 1)
    rebuilt = region_questions(found.images, families=FAMILIES, seed=0)
    assert {e.provenance for e in rebuilt if e.regions} == {"detector"}
    (by_annotation,), _ = link_regions(split.examples, split.images, rule="question", max_regions=1)
    assert by_annotation.provenance == ""
    assert {e.provenance for e in region_questions(split.images, families=("identify",), seed=0)} == {"annotation"}


def test_a_file_name_that_several_images_share_is_refused_where_it_is_used(tmp_path, written):
    images = []
    for name in ("xmlab1", "xmlab2"):
        path = tmp_path / name / "source.jpg"
        path.parent.mkdir()
        Image.new("RGB", (100, 50)).save(path)
        images.append(AnnotatedImage("slake", "train", str(path), name, ()))
    both = SourceSplit([], images)
    found = attach_detections(both, written({"xmlab1/source.jpg": [NODULE], "xmlab2": [NODULE]}), min_score=0)
    assert [image.regions for image in found.images] == [(NODULE_REGION,)] * 2
    with refused(DataError, "data.conflict", "'source.jpg', box 0"):
        attach_detections(both, written({"source.jpg": [NODULE]}), min_score=0)


def test_images_that_come_as_bytes_are_named_by_their_ids(split, written, tmp_path):
    content = (tmp_path / "images" / "synpic1.jpg").read_bytes()
    bytes_split = SourceSplit([], [AnnotatedImage("vqa_rad_hf", "train", content, "0123abcd", ())])
    (image,) = attach_detections(bytes_split, written({"0123abcd": [NODULE]}), min_score=0).images
    assert image.regions == (NODULE_REGION,)


def test_a_file_that_names_no_image_of_the_split_is_an_error(split, written):
    with refused(DataError, "data.unknown-name", "2 images", "'synpic1'"):
        attach_detections(split, written({"img1": [NODULE]}), min_score=0)


@pytest.mark.parametrize(
    ("content", "kind", "code", "named"),
    [
        ({"synpic1": NODULE}, DataError, "file.malformed", ["'synpic1'", "dict"]),
        ({"synpic1": ["x"]}, DataError, "file.malformed", ["'synpic1'", "entry 0", "str"]),
        (
            {"synpic1": [NODULE, NODULE | {"box": [1, 2, 3]}]},
            DataError,
            "data.invalid-value",
            ["box 1: field 'box'", "[1, 2, 3]"],
        ),
        (
            {"synpic1": [NODULE | {"box": [1, 2, 3, float("nan")]}]},
            DataError,
            "data.invalid-value",
            ["synpic1[0].box[3]", "NaN"],
        ),
        ({"synpic1": [NODULE | {"score": 90}]}, DataError, "data.invalid-value", ["field 'score'", "90"]),
        ({"synpic1": [NODULE | {"label": ""}]}, DataError, "data.missing-field", ["field 'label'"]),
        (
            {"synpic1": [NODULE | {"box": [90, 10, 40, -2]}]},
            DataError,
            "data.invalid-region",
            ["90,10,40,-2"],
        ),
        (RESULTS, ConfigError, "option.missing", ["categories"]),
        ("x", ConfigError, "option.missing", ["categories"]),
        ({"annotations": RESULTS}, DataError, "file.malformed", ["field 'categories'"]),
        ({"annotations": 3, "categories": CATEGORIES}, DataError, "file.malformed", ["list of objects", "int"]),
        (
            {"annotations": RESULTS, "categories": CATEGORIES[:1]},
            DataError,
            "data.unknown-name",
            ["result 1: category_id 2"],
        ),
        ({"annotations": ["x"], "categories": CATEGORIES}, DataError, "file.malformed", ["entry 0", "str"]),
        (
            {"annotations": [{"image_id": 7}], "categories": CATEGORIES},
            DataError,
            "data.missing-field",
            ["result 0: field 'category_id'"],
        ),
        (
            {"annotations": RESULTS, "categories": CATEGORIES, "images": {}},
            DataError,
            "file.malformed",
            ["field 'images'"],
        ),
    ],
)
def test_malformed_files_are_named_with_the_entry(split, written, content, kind, code, named):
    path = written(content)
    with refused(kind, code, *named) as caught:
        attach_detections(split, path, min_score=0)
    assert str(caught.value).startswith(path)


def test_an_image_that_cannot_be_read_has_no_regions_and_is_reported_where_it_is_decoded(split, written, tmp_path):
    (tmp_path / "images" / "synpic1.jpg").write_bytes(b"not an image")
    found = attach_detections(split, written({"synpic1": [NODULE], "synpic2": [NODULE]}), min_score=0)
    assert [image.regions for image in found.images] == [(), (NODULE_REGION,)]


def test_a_question_s_own_annotated_regions_go_too(split, written):
    own = replace(split.examples[0], regions=(Region((0, 0, 1, 1), "Chest"),), provenance="annotation")
    found = attach_detections(replace(split, examples=[own]), written({"synpic1": [NODULE]}), min_score=0)
    assert found.examples == split.examples
    linked, _ = link_regions(found.examples, found.images, rule="question", max_regions=4)
    assert (linked[0].regions, linked[0].provenance) == ((NODULE_REGION,), "detector:question")


def test_impossible_scores_and_missing_files_are_errors(split, tmp_path, capsys):
    assert prepare.main(["slake", "--detections", "boxes.json", "--min-score", "1.5"]) == 2
    assert "--min-score: '1.5' is invalid; write a number from 0 to 1 [option.invalid-value]" in capsys.readouterr().err
    with refused(DataError, "file.missing", "nothing.json"):
        attach_detections(split, str(tmp_path / "nothing.json"), min_score=0)


def test_a_name_that_is_a_path_is_in_no_message(split, written, tmp_path):
    """Folders of MIMIC-CXR are named by patients."""
    path = "p10/p10000032/s50414267/a.jpg"
    for content in ({path: "x"}, {path: [NODULE | {"score": 90}]}):
        with pytest.raises(DataError, match="image 0") as caught:
            attach_detections(split, written(content), min_score=0)
        assert "p10" not in str(caught.value).removeprefix(str(tmp_path))


def test_an_image_that_stands_twice_in_the_file_is_an_error(split, written, tmp_path):
    path = tmp_path / "twice.json"
    path.write_text('{"synpic1": [], "synpic1": []}')
    with refused(DataError, "data.duplicate-field", "field 'synpic1'"):
        attach_detections(split, str(path), min_score=0)


def test_a_missing_file_is_the_detectors_and_no_data_sets(split, tmp_path):
    with refused(DataError, "file.missing", "none.json", "detector"):
        attach_detections(split, str(tmp_path / "none.json"), min_score=0)
