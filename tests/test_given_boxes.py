"""No box is believed that may mean something else: in every kind of file that gives boxes, by mutation of good ones."""

import json
import logging
from inspect import getmodule

import numpy as np
import pytest
from boxed_sources import KINDS, Picture, greys, photo
from expected_errors import assert_refused, refused
from PIL import Image, ImageOps

from data_pipelines import inspect, prepare
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.images import orientation, reading
from data_pipelines.loading.examples import load_source
from data_pipelines.loading.mixture import load_parts
from data_pipelines.prepared import layout
from data_pipelines.records import BoxReading, Region, TurnedImage
from data_pipelines.regions.given_boxes import OUTSIDE, SPECK
from data_pipelines.sources import registry
from rllava_jax import evaluate, trust
from rllava_jax.config import DataConfig, MixPart

PIXELS, NORMALISED = BoxReading("pixels"), BoxReading("normalised")
STORED, APPLIED = BoxReading(orientation="stored"), BoxReading(orientation="applied")
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def shifted(kind, dx, dy):
    x, y, w, h = kind.picture.square
    return x + dx * kind.picture.width, y + dy * kind.picture.height, w, h


def test_every_source_that_gives_boxes_is_tried_here():
    boxed = {name for name in registry.SOURCES if registry.SOURCES.get(name, setting="NAME").has_boxes}
    assert boxed == {kind.source for kind in KINDS.values()}
    for name in registry.SOURCES:
        module = getmodule(registry.SOURCES.get(name, setting="NAME").load)
        assert name in boxed or name in registry.DRAWN or not hasattr(module, "Region"), f"{name}: has_boxes"


@every_kind
def test_a_box_in_pixels_holds_what_it_was_drawn_around(kind, tmp_path):
    root = kind.written(tmp_path / "in")
    for reading_ in (BoxReading(), PIXELS, STORED, APPLIED):
        inside, around = greys(kind.read(root, reading_))
        assert inside > 200 > 10 > around


@every_kind
def test_normalised_boxes_are_refused_until_it_is_said_that_they_are(kind, tmp_path):
    root = kind.written(tmp_path / "in", [kind.picture.normalised])
    with refused(DataError, "data.unclear-boxes", "0..1.5", "--boxes normalised", "--boxes pixels", "data.boxes"):
        kind.read(root, BoxReading())
    inside, around = greys(kind.read(root, NORMALISED))
    assert inside > 200 > 10 > around
    (region,) = kind.read(root, PIXELS).images[0].regions
    assert region.box[2] < 2 / kind.picture.height  # whoever says pixels is believed


@every_kind
def test_most_boxes_normalised_among_pixels_are_refused_and_few_left_out_and_counted(kind, tmp_path):
    normalised, square = kind.picture.normalised, kind.picture.square
    root = kind.written(tmp_path / "most", [normalised, normalised, square])
    with refused(DataError, "data.unclear-boxes", "2 of 3", "--boxes"):
        kind.read(root, BoxReading())
    split = kind.read(kind.written(tmp_path / "few", [square, square, normalised]), BoxReading())
    assert len(split.left_out[SPECK]) == 1
    assert greys(split)[0] > 200


@every_kind
def test_boxes_in_pixels_are_refused_where_normalised_ones_were_announced(kind, tmp_path):
    with refused(DataError, "data.unclear-boxes", "--boxes pixels"):
        kind.read(kind.written(tmp_path / "in"), NORMALISED)


@every_kind
def test_a_box_partly_outside_is_cut_to_its_image_and_that_is_said(kind, tmp_path, caplog):
    boxes = [kind.picture.square, shifted(kind, 0.2, 0)]
    with caplog.at_level(logging.WARNING):
        split = kind.read(kind.written(tmp_path / "in", boxes), BoxReading())
    first, cut = split.images[0].regions
    assert cut.box[3] == 1
    assert cut.box[1] == pytest.approx(first.box[1] + 0.2)
    assert (split.clipped, split.left_out) == (1, {})
    assert "1 boxes leave their images" in caplog.text


@every_kind
@pytest.mark.parametrize("by", [(2, 0), (0, 2), (-2, 0), (0, -2)])
def test_a_box_outside_its_image_is_left_out_and_counted(kind, tmp_path, by):
    split = kind.read(kind.written(tmp_path / "in", [kind.picture.square, shifted(kind, *by)]), BoxReading())
    assert len(split.images[0].regions) == 1
    assert len(split.left_out[OUTSIDE]) == 1
    inside, around = greys(split)
    assert inside > 200 > 10 > around


@every_kind
def test_where_most_boxes_leave_their_images_they_are_of_another_size_or_form(kind, tmp_path):
    root = kind.written(tmp_path / "in", [shifted(kind, 0.2, 0)] * 4 + [kind.picture.square] * 3)
    with refused(DataError, "data.unclear-boxes", "4 of 7", "--boxes pixels"):
        kind.read(root, BoxReading())
    assert kind.read(root, PIXELS).clipped == 4


@every_kind
@pytest.mark.parametrize("numbers", [(10, 10, 0, 5), (10, 10, -5, 5), (10, 10, 5, -1)])
def test_a_box_without_an_area_is_refused(kind, tmp_path, numbers):
    if kind is KINDS["polygons of jsonl"] and min(numbers) < 0:
        return  # a polygon has no sides that could be negative
    for reading_ in (BoxReading(), PIXELS, NORMALISED):
        with pytest.raises(DataError):
            kind.read(kind.written(tmp_path / f"in {reading_.boxes}", [numbers]), reading_)


@every_kind
@pytest.mark.parametrize("tag", range(2, 9))
def test_a_box_on_a_turned_photo_is_refused_until_it_is_said_on_which_picture_it_was_drawn(kind, tmp_path, tag):
    """What is shown is asserted against Pillow's exif_transpose, by which `photo` makes what the camera stored."""
    root = kind.written(tmp_path / "in", tag=tag)
    with refused(
        DataError, "data.unclear-boxes", "--orientation stored", "--orientation applied", f"orientation {tag}"
    ):
        kind.read(root, BoxReading())
    inside, around = greys(kind.read(root, APPLIED))
    assert inside > 200 > 10 > around


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_stored_and_applied_are_right_in_every_format(tmp_path, form, tag):
    """Pillow turns TIFF files itself, and no others: what they store is what exif_transpose undoes."""
    content, picture = photo(Picture(), form, tag), Picture()
    shown = reading.decode(orientation.oriented(content, "applied"), "x")[..., 0].astype(int)
    assert np.abs(shown - picture.pixels).max() < 90
    stored = reading.decode(orientation.oriented(content, "stored"), "x")
    exif = Image.Exif()
    exif[0x0112] = tag
    again = Image.fromarray(stored)
    again.getexif().update(exif)
    assert np.abs(np.asarray(ImageOps.exif_transpose(again))[..., 0].astype(int) - picture.pixels).max() < 90
    for said in ("stored", "applied"):
        image = orientation.oriented(content, said)
        height, width, _ = reading.decode(image, "x").shape
        assert reading.size_of(image, "x") == (width, height)
    assert orientation.orientation_of(content) == tag


def test_turned_pixels_are_those_of_exif_transpose():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for tag in range(1, 9):
        image = Image.fromarray(pixels)
        image.getexif()[0x0112] = tag
        assert np.array_equal(orientation.turned(pixels, tag), np.asarray(ImageOps.exif_transpose(image)))


@every_kind
def test_prepare_stores_the_picture_that_was_chosen_and_says_so(kind, tmp_path, capsys):
    root, out = kind.written(tmp_path / "in", tag=6), tmp_path / "out"
    options = [*kind.options(root), "--out", str(out), "--workers", "1", "--allow-missing"]
    assert prepare.main(options) == 2
    assert_refused(capsys.readouterr().err, "data.unclear-boxes", "--orientation")
    assert prepare.main([*options, "--orientation", "applied"]) == 0
    data = DataConfig(source="prepared", root=str(out))
    split = load_source(data, kind.split)
    inside, around = greys(split)
    assert inside > 200 > 10 > around
    made = layout.read_record(str(out))
    assert made["box_reading"] == {"boxes": "pixels", "orientation": "applied"}
    assert "--orientation applied" in made["command"]
    with refused(ConfigError, "config.conflict", "data.orientation", "'stored'", "--orientation"):
        load_source(DataConfig(source="prepared", root=str(out), orientation="stored"), kind.split)
    with refused(ConfigError, "config.conflict", "data.boxes", "'normalised'", "--boxes"):
        load_source(DataConfig(source="prepared", root=str(out), boxes="normalised"), kind.split)


@every_kind
def test_prepare_leaves_boxes_out_only_where_it_may(kind, tmp_path, capsys):
    root, out = kind.written(tmp_path / "in", [kind.picture.square, shifted(kind, 2, 0)]), tmp_path / "out"
    options = [*kind.options(root), "--out", str(out), "--workers", "1"]
    if kind.source in ("jsonl", "coco"):  # of the others the whole published set must be there
        assert prepare.main(options) == 2
        assert_refused(capsys.readouterr().err, "data.invalid-region", OUTSIDE, "--allow-missing")
    assert prepare.main([*options, "--allow-missing"]) == 0
    described = layout.read_record(str(out))["splits"][kind.split]
    assert (described["boxes"], len(described["left_out"][OUTSIDE])) == (1, 1)
    assert greys(load_source(DataConfig(source="prepared", root=str(out)), kind.split))[0] > 200


def test_normalised_boxes_are_prepared_and_read_by_a_run_as_they_were_announced(tmp_path, capsys):
    kind = KINDS["jsonl"]
    root, out = kind.written(tmp_path / "in", [kind.picture.normalised]), tmp_path / "out"
    options = [*kind.options(root), "--out", str(out), "--workers", "1", "--boxes", "normalised"]
    assert prepare.main(options) == 0
    assert layout.read_record(str(out))["box_reading"] == {"boxes": "normalised", "orientation": ""}
    read = load_source(DataConfig(source="prepared", root=str(out), boxes="normalised"), "train")
    direct = load_source(DataConfig(source="jsonl", root=str(root), boxes="normalised"), "train")
    x, y, w, h = kind.picture.normalised
    assert read.images[0].regions == direct.images[0].regions == (Region((y, x, y + h, x + w), "Mass"),)
    with refused(DataError, "data.unclear-boxes", "data.boxes"):
        load_source(DataConfig(source="jsonl", root=str(root)), "train")


def test_inspect_and_a_part_of_a_mix_read_boxes_as_they_are_told(tmp_path, capsys):
    kind = KINDS["jsonl"]
    root = kind.written(tmp_path / "in", [kind.picture.normalised])
    shown = [str(root), "--source", "jsonl", "--workers", "1"]
    assert inspect.main(shown) == 2
    assert_refused(capsys.readouterr().err, "data.unclear-boxes", "--boxes")
    assert inspect.main([*shown, "--boxes", "normalised"]) == 0
    part = MixPart(source="jsonl", root=str(root), boxes="normalised")
    (loaded,) = load_parts(DataConfig(mix={"mine": part}), seed=0, max_regions=1)
    x, y, w, h = kind.picture.normalised
    assert {example.regions for example in loaded.examples if example.regions} == {
        (Region((y, x, y + h, x + w), "Mass"),)
    }


def test_evaluate_and_trust_say_how_to_settle_it(tmp_path, capsys):
    """Rebuilt questions of localisation have the box in their reference, so scoring has to know it."""
    kind = KINDS["jsonl"]
    root = kind.written(tmp_path / "in", [kind.picture.normalised])
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": "jsonl/localise/a.jpg/0", "answer": "left"}))
    scored = ["--predictions", str(tmp_path / "answers.jsonl"), "--data", "jsonl", "--root", str(root)]
    scored += ["--split", "train", "--families", "localise"]
    assert evaluate.main(scored) == 2
    assert_refused(capsys.readouterr().err, "data.unclear-boxes", "--boxes")
    assert evaluate.main([*scored, "--boxes", "normalised"]) == 0
    capsys.readouterr()
    drawn = ["boxes", "--data", "jsonl", "--root", str(root), "--split", "train", "--out", str(tmp_path / "b.jsonl")]
    assert trust.main(drawn) == 2
    assert_refused(capsys.readouterr().err, "data.unclear-boxes", "--data prepared")


def test_images_without_boxes_are_turned_too_where_orientations_are_applied(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo(Picture(), "JPEG", 6))
    row = {"id": "1", "image": "a.jpg", "question": "What is it?", "answer": "A photo"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (example,) = load_source(DataConfig(source="jsonl", root=str(tmp_path), orientation="applied"), "train").examples
    assert example.image == TurnedImage(str(tmp_path / "a.jpg"), 6)
    (example,) = load_source(DataConfig(source="jsonl", root=str(tmp_path)), "train").examples
    assert reading.decode(example.image, "x").shape[:2] == (60, 40)


def test_what_has_no_boxes_or_photos_takes_no_reading_of_them(tmp_path):
    with refused(ConfigError, "option.conflict", "boxes", "vqa_rad"):
        load_source(DataConfig(source="vqa_rad", root=str(tmp_path), boxes="normalised"), "test")
    with refused(ConfigError, "option.conflict", "orientation", "phantom"):
        load_source(DataConfig(orientation="applied"), "test")
