"""An odd row of a large foreign file: every source leaves it out alike, counts it by its fault, takes the others."""

import copy
import dataclasses
import json

import pytest
from expected_errors import assert_refused, refused
from prepared_sets import in_process
from published_files import COCO_ROWS, FIXTURES, JSON, JSONL_ROWS, LLAVA_ROWS, PARQUET, coco_content

from data_pipelines.core.errors import DataError
from data_pipelines.inspection.reading import read_data_set
from data_pipelines.prepare import main
from data_pipelines.prepared.preparation import prepare
from data_pipelines.records import MalformedRows
from data_pipelines.sources import coco, registry

# What stands in a field where something else is meant.
_ODD_JSON = (None, "", [], {}, 17, -1.5, True, "?", ["?"], {"?": 1}, float("inf"), float("nan"))
_ODD_CELLS = ("", "?", "nan", "-1", "a|b")
_MISSING = object()
FILES = [name for name in FIXTURES if name not in registry.DRAWN]


def source(name):
    return registry.SOURCES.get(name, setting="NAME")


def read(name, root):
    """The split, and how many of its rows were malformed."""
    try:
        return source(name).load(str(root), FIXTURES[name].split), 0
    except MalformedRows as error:
        return error.rest, sum(len(error.rest.left_out[fault]) for fault in error.rest.malformed)


def mutations(name):
    """(what was done, rows) for each field of the second row."""
    fixture = FIXTURES[name]
    odd = _ODD_JSON if fixture.form == JSON else _ODD_CELLS
    if fixture.form == PARQUET:
        odd = (None, "", "?", "nan")
    for field in fixture.rows[1]:
        for value in (*odd, *((_MISSING,) if fixture.form in (JSON, PARQUET) else ())):
            if fixture.form == PARQUET and field == "image" and not (value is None or value is _MISSING):
                continue
            rows = copy.deepcopy(list(fixture.rows))
            if value is _MISSING:
                del rows[1][field]
            else:
                rows[1][field] = value
            yield f"{field}={'missing' if value is _MISSING else repr(value)}", rows


@pytest.mark.parametrize("name", FILES)
def test_an_odd_field_costs_no_other_row_and_is_counted_where_its_row_is_left_out(name, tmp_path, caplog):
    fixture = FIXTURES[name]
    fixture.write(tmp_path, fixture.rows)
    whole, none = read(name, tmp_path)
    assert none == 0
    assert not whole.left_out
    fixture.write(tmp_path, [fixture.rows[0], fixture.rows[2]])
    without, _ = read(name, tmp_path)
    both = [_content(record) for record in whole.records]
    # What says nothing of the second row: of boxes, its image is another without them.
    rest = [_content(record) for record in without.records]
    kept = [record for record in rest if record in both]
    assert 2 <= len(kept) < len(both)
    for done, rows in mutations(name):
        fixture.write(tmp_path, rows)
        split, malformed = read(name, tmp_path)
        found = [_content(record) for record in split.records]
        assert [record for record in kept if record not in found] == [], done
        left_out = sum(map(len, split.left_out.values()))
        assert malformed <= left_out, done
        # A row that says less than it did is counted, or what it says now is taken.
        more = [record for record in found if record not in kept]
        assert not malformed or all(record in rest for record in more), done
        assert more or left_out or done.startswith("split="), done  # other values are other splits
        for record in more:
            for text in ("None", "nan", "inf", "True"):
                assert text not in (getattr(record, "question", ""), record.image_id, record.modality), done


def _content(record):
    """A record without what depends on its place in the file."""
    changes = {"id": ""} if hasattr(record, "id") else {}
    image = record.image if isinstance(record.image, bytes) else str(record.image)
    return dataclasses.replace(record, image=image, **changes)


@pytest.mark.parametrize("name", [name for name in FILES if FIXTURES[name].form == JSON])
@pytest.mark.parametrize("row", [None, [], "?", 5])
def test_a_row_that_is_no_object_is_one_malformed_row(name, row, tmp_path):
    fixture = FIXTURES[name]
    fixture.write(tmp_path, [fixture.rows[0], row, fixture.rows[2]])
    split, malformed = read(name, tmp_path)
    assert malformed == 1
    assert split.images


@pytest.mark.parametrize("name", FILES)
def test_prepare_says_how_many_are_malformed_and_goes_on_without_them_when_told_to(name, tmp_path):
    fixture = FIXTURES[name]
    # For each form of file a row that no source can take.
    spoilt = {field: {"?": 1} if fixture.form == JSON else "" for field in fixture.rows[1]}
    if fixture.form == PARQUET:
        spoilt = {**fixture.rows[1], "question": ""}
    fixture.write(tmp_path / "in", [*fixture.rows, spoilt])
    options = {"root": str(tmp_path / "in"), "splits": (fixture.split,), "run": in_process}
    with refused(DataError, "data.missing", name, fixture.split, "(1)", "--allow-missing"):
        prepare(source(name), out=str(tmp_path / "out"), **options)
    record = prepare(source(name), out=str(tmp_path / "out"), allow_missing=True, **options)
    fixture.write(tmp_path / "whole", fixture.rows)
    whole, _ = read(name, tmp_path / "whole")
    described = record["splits"][fixture.split]
    assert (described["questions"], described["images"]) == (len(whole.examples), len(whole.images))
    assert sum(map(len, described["left_out"].values())) == 1
    assert str(tmp_path) not in json.dumps(described)


def test_a_run_on_the_published_files_is_refused_with_the_first_and_the_count_of_all(tmp_path):
    rows = [*JSONL_ROWS, {**JSONL_ROWS[0], "id": 8, "answer": None}, {**JSONL_ROWS[0], "id": 9, "task": "count"}]
    FIXTURES["jsonl"].write(tmp_path, rows)
    with refused(DataError, "data.missing-field", "train.jsonl: line 4: ", "'answer'", "2 rows", "'task'"):
        source("jsonl").load(str(tmp_path), "train")
    read_whole = read_data_set(str(tmp_path), "jsonl").splits["train"]  # to be looked at
    assert len(read_whole.examples) == 3
    assert len(read_whole.malformed) == 2


COCO_ODD = [
    ("a box has no area", {"bbox": [8, 8, 20, 0]}),
    ("a box has no area", {"bbox": [8, 8, 0, 20]}),
    ("a polygon of less than three points", {"segmentation": [[]]}),
    ("a polygon of less than three points", {"segmentation": [[8, 8, 9, 9]]}),
    ("a polygon of less than three points", {"segmentation": [[8, 8, 28, 8, 28, 24], [8, 8, 9, 9]]}),
    ("a polygon of less than three points", {"segmentation": [[8, 8, 28, 8, 28, 24, 3]]}),
    ("its image or category is not listed", {"image_id": 99}),
    ("its image or category is not listed", {"category_id": None}),
]


@pytest.mark.parametrize(("fault", "changes"), COCO_ODD)
def test_of_coco_an_odd_annotation_is_left_out_and_its_image_keeps_the_others(fault, changes, tmp_path):
    FIXTURES["coco"].write(tmp_path, [*COCO_ROWS, {**COCO_ROWS[0], "id": 9, **changes}])
    with pytest.raises(MalformedRows) as caught:
        coco.load(str(tmp_path), "train2017")
    assert {why: len(names) for why, names in caught.value.rest.left_out.items()} == {fault: 1}
    assert [len(image.regions) for image in caught.value.rest.images] == [1, 1, 1]


@pytest.mark.parametrize("written", [str, float, lambda number: f" {number} ", int])
@pytest.mark.parametrize("table", ["images", "categories", "annotations"])
def test_ids_of_coco_are_compared_by_value(written, table, tmp_path):
    FIXTURES["coco"].write(tmp_path, COCO_ROWS)
    expected = coco.load(str(tmp_path), "train2017").images
    content = coco_content(copy.deepcopy(COCO_ROWS))
    for row in content[table]:
        for field in ("image_id", "category_id") if table == "annotations" else ("id",):
            row[field] = written(row[field])
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    assert coco.load(str(tmp_path), "train2017").images == expected


def test_two_ids_of_one_value_are_one_id(tmp_path):
    content = coco_content(COCO_ROWS)
    content["images"].append({**content["images"][0], "id": "0", "file_name": "x.jpg"})
    FIXTURES["coco"].write(tmp_path, COCO_ROWS)
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    with refused(DataError, "data.duplicate-id", "images 3", "'0'"):
        coco.load(str(tmp_path), "train2017")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": None}, "no image"),
        ({"image": ""}, "no image"),
        ({"image": []}, "no image"),
        ({"image": ["0_F1.jpg", "1_F1.jpg"]}, "several images"),
        ({"conversations": [{"from": "system", "value": "You are a doctor."}, *LLAVA_ROWS[0]["conversations"]]}, None),
        ({"conversations": [{"from": "gpt", "value": "Hello."}, *LLAVA_ROWS[0]["conversations"]]}, None),
    ],
)
@pytest.mark.parametrize("name", ["llava_med_alignment", "llava_med_instruct"])
def test_conversations_of_other_shapes_are_left_out_by_reason(name, changes, reason, tmp_path):
    FIXTURES[name].write(tmp_path, [*LLAVA_ROWS, {**LLAVA_ROWS[0], "id": "odd", **changes}])
    split, malformed = read(name, tmp_path)
    reason = reason or "human and gpt do not alternate"
    assert (len(split.examples), malformed) == (3, 0)
    assert split.left_out == {reason: [f"{name}/{FIXTURES[name].split}/odd"]}


@pytest.mark.parametrize("image", [["1_F1.jpg"], "sub/2.jpg", ["sub/2.jpg"]])
def test_an_image_in_a_list_or_in_a_folder_is_read(image, tmp_path):
    name = "llava_med_instruct"
    FIXTURES[name].write(tmp_path, [{**LLAVA_ROWS[0], "image": image}])
    (tmp_path / "images/sub").mkdir()
    (tmp_path / "images/sub/2.jpg").write_bytes((tmp_path / "images/0_F1.jpg").read_bytes())
    split, malformed = read(name, tmp_path)
    assert (len(split.examples), malformed) == (1, 0)
    named = image[0] if isinstance(image, list) else image
    assert split.images[0].image_id == named
    assert str(split.images[0].image).endswith(named)


@pytest.mark.parametrize("name", ["vqa_med_2019", "pmc_vqa", "slake", "medpix"])
def test_where_files_of_a_split_are_missing_the_splits_that_are_there_are_named(name, tmp_path, capsys):
    fixture = FIXTURES[name]
    fixture.write(tmp_path / "in", fixture.rows)
    command = [name, "--source", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--allow-missing"]) == 2
    assert_refused(capsys.readouterr().err, "file.missing", f"--splits {fixture.split}")
    assert main([*command, "--allow-missing", "--splits", fixture.split]) == 0
