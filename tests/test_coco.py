"""COCO's instances format: boxes, names, polygons and both kinds of run-length encoding."""

import json
import logging

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.images import reading
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import Region
from data_pipelines.sources import coco
from rllava_jax.config import DataConfig

# Written by pycocotools 2.0: encode() of an ellipse over stripes, with a hole.
SHAPE = (37, 53)
COMPRESSED = "_24[30000000jL5f02N2HGA;c02N2K43NO0M32OO0N22N00N22N00N22N00N22N1NN33M1N101N2N2N2N2Na6"


def drawn():
    mask = np.zeros(SHAPE, bool)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask[((y - 18) / 12) ** 2 + ((x - 30) / 17) ** 2 < 1] = True
    mask[5:9, 2:40:3] = True
    mask[20:22, 10:12] = False
    return mask


def annotation(number=1, **changes):
    record = {"id": number, "image_id": 7, "category_id": 3, "bbox": [5.0, 10.0, 20.0, 10.0], "iscrowd": 0}
    return record | changes


@pytest.fixture
def small_root(tmp_path):
    """COCO's layout with one image of 53x37 pixels."""

    def build(annotations=None, folder="val", names=("a.jpg",), **changes):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (53, 37)).save(tmp_path / folder / "a.jpg")
        content = {
            "images": [{"id": 7 + n, "file_name": name, "width": 53, "height": 37} for n, name in enumerate(names)],
            "categories": [{"id": 3, "name": "left lung"}],
            "annotations": [annotation()] if annotations is None else annotations,
        }
        (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content | changes))
        return str(tmp_path)

    return build


def test_a_box_has_its_category_name_and_is_normalised_by_the_image(small_root):
    (image,) = coco.load(small_root(), "val").images
    assert image.regions == (Region((10 / 37, 5 / 53, 20 / 37, 25 / 53), "left lung"),)
    assert image.image_id == "a.jpg"


def test_region_questions_are_rebuilt_from_the_boxes(small_root):
    data = DataConfig(source="coco", root=small_root())
    families = {example.family for example in load_examples(data, "val", seed=0, max_regions=1)}
    assert families == {"identify", "localise"}


def test_one_polygon_stays_a_polygon_of_normalised_vertices(small_root):
    root = small_root([annotation(segmentation=[[5, 10, 25, 10, 25, 20]])])
    (region,) = coco.load(root, "val").images[0].regions
    assert region.polygon == ((10 / 37, 5 / 53), (10 / 37, 25 / 53), (20 / 37, 25 / 53))
    assert region.mask is None


def test_several_polygons_become_the_mask_of_their_union(small_root):
    squares = [[5, 10, 10, 10, 10, 15, 5, 15], [20, 12, 25, 12, 25, 20, 20, 20]]
    (region,) = coco.load(small_root([annotation(segmentation=squares)]), "val").images[0].regions
    mask = reading.decode_mask(region.mask, "x")
    assert mask.shape == SHAPE
    assert mask[11:14, 6:9].all()
    assert mask[13:19, 21:24].all()
    assert not mask[:, 12:19].any()


def test_compressed_runs_are_read_as_pycocotools_wrote_them():
    assert (coco.mask_from_rle({"size": [*SHAPE], "counts": COMPRESSED}, 53, 37, "x") == drawn()).all()


def test_a_list_of_runs_goes_down_the_columns_and_starts_with_background(small_root):
    column = drawn().T.ravel()
    edges = np.flatnonzero(np.diff(column)) + 1
    runs = np.diff([0, *edges, column.size]).tolist()
    root = small_root([annotation(segmentation={"size": [*SHAPE], "counts": runs})])
    (region,) = coco.load(root, "val").images[0].regions
    assert (reading.decode_mask(region.mask, "x") == drawn()).all()


def test_crowds_are_left_out_counted_and_named(small_root, caplog):
    with caplog.at_level(logging.WARNING):
        (image,) = coco.load(small_root([annotation(), annotation(901, iscrowd=1)]), "val").images
    assert len(image.regions) == 1
    assert "coco val: left out 1 (crowd): 901" in caplog.text


def test_missing_images_are_left_out_and_named(small_root, caplog):
    with caplog.at_level(logging.WARNING):
        split = coco.load(small_root(names=("a.jpg", "gone.jpg")), "val")
    assert [image.image_id for image in split.images] == ["a.jpg"]
    assert split.left_out == {"image not in the folder": ["gone.jpg"]}
    assert "gone.jpg" in caplog.text


@pytest.mark.parametrize("folder", ["val", "images/val", "images"])
def test_images_are_found_in_the_usual_folders(small_root, folder):
    root = small_root(folder=folder)
    assert len(coco.load(root, "val").images) == 1
    assert coco.splits(root) == ("val",)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"bbox": [50, 10, 20, 0]}, ("data.invalid-region", "50,10,20,0")),
        ({"bbox": [1, 2, 3]}, ("data.invalid-value", "'bbox'", "[1, 2, 3]")),
        ({"category_id": 4}, ("data.unknown-name", "image 7", "category 4")),
        ({"image_id": 8}, ("data.unknown-name", "image 8", "category 3")),
        ({"segmentation": [[1, 2, 3]]}, ("data.invalid-value", "segmentation")),
        ({"segmentation": {"size": [53, 37], "counts": []}}, ("data.invalid-value", "segmentation", "[53, 37]")),
        ({"segmentation": {"size": [37, 53], "counts": [5]}}, ("data.invalid-value", "segmentation", "5", "53 x 37")),
        ({"segmentation": {"size": [37, 53], "counts": COMPRESSED[:-1]}}, ("data.invalid-value", "segmentation")),
        ({"segmentation": {"size": [37, 53], "counts": "\x01"}}, ("data.invalid-value", "RLE")),
        ({"segmentation": {"size": [37, 53], "counts": None}}, ("data.invalid-value", "segmentation")),
    ],
)
def test_a_malformed_annotation_is_named(small_root, changes, complaint):
    with refused(DataError, *complaint, "instances_val.json: annotations 0"):
        coco.load(small_root([annotation(**changes)]), "val")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": None}, ("file.malformed", "images")),
        ({"categories": [{"id": 3}]}, ("data.missing-field", "name")),
        ({"images": [{"id": 7, "file_name": "a.jpg", "width": 0, "height": 37}]}, ("data.invalid-value", "width", "0")),
    ],
)
def test_a_malformed_file_is_named(small_root, changes, complaint):
    with refused(DataError, *complaint):
        coco.load(small_root(**changes), "val")


def test_an_unknown_split_names_those_that_there_are(small_root):
    with refused(DataError, "data.unknown-name"):
        coco.load(small_root(), "train")


def test_a_file_of_another_size_than_listed_is_an_error_because_its_boxes_would_be_elsewhere(small_root):
    listed = [{"id": 7, "file_name": "a.jpg", "width": 530, "height": 37}]
    with refused(DataError, "data.conflict", "0", "530", "37", "a.jpg"):
        coco.load(small_root(images=listed), "val")


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ([(7, "a.jpg"), (7, "b.jpg")], ("data.duplicate-id", "1", "7")),
        ([(7, "a.jpg"), ([8], "b.jpg")], ("data.duplicate-id", "1", "[8]")),
        ([(7, "a.jpg"), (8, "a.jpg")], ("data.duplicate-id", "1", "file_name", "a.jpg")),
        ([(7, "../val/a.jpg")], ("data.invalid-value", "0", "file_name", "../val/a.jpg")),
        ([(7, "/scans/a.jpg")], ("data.invalid-value", "0", "file_name", "/scans/a.jpg")),
    ],
)
def test_images_that_cannot_be_told_apart_or_lie_elsewhere_are_errors(small_root, images, complaint):
    listed = [{"id": number, "file_name": name, "width": 53, "height": 37} for number, name in images]
    with refused(DataError, *complaint):
        coco.load(small_root(images=listed), "val")


def test_an_annotation_whose_image_is_no_id_is_named(small_root):
    with refused(DataError, "data.unknown-name", "0", "[7]"):
        coco.load(small_root([annotation(image_id=[7])]), "val")


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [100_000, 100_000], "counts": [0, 10**10]},
        {"size": [100_000, 100_000], "counts": "o" * 10**6 + "0"},
    ],
)
def test_a_mask_of_a_declared_size_beyond_reason_is_refused_before_it_is_made(outline):
    with refused(DataError, "data.invalid-value", "100000 x 100000"):
        coco.mask_from_rle(outline, 100_000, 100_000, "x.json: annotations 0")


def test_polygons_of_a_declared_size_beyond_reason_are_refused_before_they_are_filled():
    triangle = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
    with refused(DataError, "data.invalid-value", "100000 x 100000"):
        coco._require_mask(100_000, 100_000, "x.json")
    assert coco._filled([triangle, triangle], 20, 20).sum() > 20
    with refused(DataError, "data.invalid-value", "counts"):
        coco.mask_from_rle({"size": [2, 2], "counts": "o" * 10**6 + "0"}, 2, 2, "x.json")
