"""What falls short of the data card or cannot be read; and a detector's boxes in place of annotated ones."""

import hashlib
import json
import logging

import numpy as np
import pytest
from PIL import Image
from prepared_sets import in_process, make_source, prepared, row, write_rows

from data_pipelines.core.errors import DataError
from data_pipelines.images import reading
from data_pipelines.loading.examples import load_examples, load_source
from data_pipelines.prepare import main
from data_pipelines.prepared import image_shards, layout
from rllava_jax.config import DataConfig


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "source")


@pytest.fixture
def many_shards(monkeypatch):
    """Small sets are cut into shards of about one image of `source`."""
    monkeypatch.setattr(image_shards, "_SMALL", 9_000)


@pytest.fixture
def two_of_three(tmp_path):
    """SLAKE's layout with three questions, of which one has its image."""
    root = tmp_path / "slake"
    (root / "imgs/xmlab1").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(root / "imgs/xmlab1/source.jpg")
    (root / "imgs/xmlab1/detection.json").write_text("[]")
    common = {"question": "Where?", "answer": "Left", "q_lang": "en", "location": "Chest", "modality": "CT"}
    common |= {"answer_type": "OPEN", "content_type": "Position"}
    entries = [{"img_name": f"xmlab{n}/source.jpg", "qid": n, **common} for n in (1, 2, 3)]
    (root / "test.json").write_text(json.dumps(entries))
    return root


def test_a_shortfall_is_an_error_that_names_split_numbers_and_what_is_missing(two_of_three, tmp_path):
    complaint = (
        r"slake test: 2,094 questions expected, 1 found; 180 images expected, 1 found; "
        r"image not in the folder \(2\): xmlab2, xmlab3; restore the files, or .* --allow-missing"
    )
    with pytest.raises(DataError, match=complaint):
        prepared(two_of_three, tmp_path / "out", "slake", splits=("test",))
    assert not (tmp_path / "out").exists()


def test_a_shortfall_that_is_allowed_is_a_warning_and_stands_in_the_record(two_of_three, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        prepared(two_of_three, tmp_path / "out", "slake", splits=("test",), allow_missing=True)
    assert "2,094 questions expected, 1 found" in caplog.text
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    assert record["splits"]["test"]["left_out"] == {"image not in the folder": ["xmlab2", "xmlab3"]}
    assert record["card"]["splits"]["test"] == {"examples": 2094, "images": 180}
    assert record["layout"] == layout.VERSION


def test_a_missing_image_of_a_set_of_unknown_size_is_an_error_too(source, tmp_path):
    (source / "images/2.png").unlink()
    with pytest.raises(DataError, match=r"jsonl train: image not in the folder \(1\): images/2\.png"):
        prepared(source, tmp_path / "out")


def test_an_image_that_cannot_be_read_is_an_error_and_mended_without_starting_anew(source, tmp_path, many_shards):
    good = (source / "images/2.png").read_bytes()
    (source / "images/2.png").write_bytes(good[:2000].ljust(len(good)))
    with pytest.raises(DataError, match=r"train: image or mask cannot be read \(1\): images/2\.png: image cannot be"):
        prepared(source, tmp_path / "out")
    (source / "images/2.png").write_bytes(good)
    written = []
    prepared(source, tmp_path / "out", run=lambda shards: in_process(written_now(shards, written)))
    assert len(written) == 5
    assert sum(written) == 1


def written_now(shards, written):
    """The shards; notes in `written` which of them are not finished."""
    for shard in shards:
        note = image_shards.read_note(shard)
        written.append(note is None or note.identity != image_shards._identity(shard))
    return shards


def test_an_unreadable_image_that_is_allowed_takes_its_questions_along(source, tmp_path, caplog):
    (source / "images/2.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        prepared(source, tmp_path / "out", allow_missing=True)
    assert "images/2.png: image cannot be read" in caplog.text
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert [example.id for example in read.examples] == [f"jsonl/{n}" for n in range(12) if n % 4 != 2]
    for image in read.images:
        assert (reading.decode(image.image, "x") == np.asarray(Image.open(source / image.image_id))).all()


def test_a_detector_s_boxes_are_prepared_in_place_of_the_annotated_ones(source, tmp_path, capsys):
    found = [
        {"label": "Lesion", "box": [16, 12, 32, 24], "score": 0.9},
        {"label": "X", "box": [0, 0, 9, 9], "score": 0.2},
    ]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"images/1.png": found}))
    write_rows(source, row(1, question="Where is the lesion?"), row(2))
    arguments = ["jsonl", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--detections", str(boxes), "--min-score", "0.5"]) == 0
    assert "left out 1 boxes that score below 0.5" in capsys.readouterr().err
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    marked, bare = load_source(data, "train").images
    assert [(region.label, region.box) for region in marked.regions] == [("Lesion", (0.25, 0.25, 0.75, 0.75))]
    assert (marked.provenance, bare.provenance, bare.regions) == ("detector", "detector", ())
    examples = load_examples(data, "train", seed=0, max_regions=2)
    assert {example.provenance for example in examples if example.regions} == {"detector", "detector:question"}
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    checksum = hashlib.sha256(boxes.read_bytes()).hexdigest()
    assert record["detections"] == {"sha256": {"boxes.json": checksum}, "min_score": 0.5}
    assert "--detections boxes.json --min-score 0.5" in record["command"]


def test_detections_in_coco_s_form_and_what_is_wrong_with_them(source, tmp_path, capsys):
    results, names = tmp_path / "results.json", tmp_path / "names.json"
    results.write_text(json.dumps([{"image_id": 7, "category_id": 1, "bbox": [16, 12, 32, 24], "score": 1}]))
    names.write_text(
        json.dumps({"categories": [{"id": 1, "name": "Lesion"}], "images": [{"id": 7, "file_name": "1.png"}]})
    )
    arguments = ["jsonl", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--min-score", "0.5"]) == 2
    assert "--min-score 0.5: goes with --detections" in capsys.readouterr().err
    arguments += ["--detections", str(results)]
    assert main(arguments) == 2
    assert "name the COCO file that has their names" in capsys.readouterr().err
    assert main([*arguments, "--detection-names", str(names), "--min-score", "2"]) == 2
    assert main([*arguments, "--detection-names", str(names)]) == 0
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    assert (record["splits"]["train"]["boxes"], set(record["detections"]["sha256"])) == (
        1,
        {"results.json", "names.json"},
    )
