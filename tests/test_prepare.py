"""A prepared data set: what it holds, what it refuses, and that interruptions and processes leave no trace in it."""

import hashlib
import json
import logging
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import images
from data_pipelines.cards import Source
from data_pipelines.evaluation_batches import evaluation_batches
from data_pipelines.loader import training_iterator
from data_pipelines.prepare import main
from data_pipelines.prepared import image_shards, layout, record_shards, runners, stored_images
from data_pipelines.prepared.preparation import prepare
from data_pipelines.preprocess import Preprocessor
from data_pipelines.records import DataError, ImageError, StoredImage
from data_pipelines.sources import load_examples, load_source, phantom, registry
from data_pipelines.tokenizer import train_tokenizer
from rllava_jax.config import Config, ConfigError, DataConfig, PhantomConfig, PolicyConfig, RegionConfig
from rllava_jax.config_validation import validate


def row(number, **changes):
    record = {
        "id": str(number),
        "image": f"images/{number % 4}.png",
        "question": f"What is marked {number}?",
        "answer": "A mass",
        "regions": [{"box": [8, 8, 20, 20], "label": "Mass", "mask": "mask.png", "mask_level": 9}],
        "turns": [{"question": "Which modality?", "answer": "CT"}],
        "choices": ["A mass", "Nothing"],
        "labels": ["Mass"],
    }
    return record | changes


@pytest.fixture
def source(tmp_path):
    """A folder of JSON Lines with 12 questions on four noisy images, and one mask."""
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / f"images/{number}.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:20] = 9
    Image.fromarray(mask).save(root / "mask.png")
    write_rows(root, *(row(number) for number in range(12)))
    return root


def write_rows(root, *rows, split="train"):
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))


@pytest.fixture
def many_shards(monkeypatch):
    """Small sets are cut into shards of about one image of `source`."""
    monkeypatch.setattr(image_shards, "_SMALL", 9_000)


def in_process(shards):
    runners.run_processes(shards, workers=1)


def prepared(root, out, name="jsonl", run=in_process, **options):
    return prepare(registry.source(name, setting="NAME"), root=str(root), out=str(out), run=run, **options)


def content(folder):
    """Every file below a folder by name, with its SHA-256."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def without_places(records):
    """Records with what an image or a mask holds in place of where it lies."""

    def bare(record):
        regions = tuple(
            replace(region, mask=region.mask and (encoded(region.mask.path), region.mask.level))
            for region in record.regions
        )
        return replace(record, image=encoded(record.image), regions=regions)

    return [bare(record) for record in records]


def encoded(image):
    if isinstance(image, bytes):
        return image
    return stored_images.read(image) if isinstance(image, StoredImage) else Path(image).read_bytes()


# What comes back.


def test_questions_and_images_come_back_as_the_source_gave_them(source, tmp_path):
    prepared(source, tmp_path / "out")
    published = load_source(DataConfig(source="jsonl", root=str(source)), "train")
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert without_places(read.examples) == without_places(published.examples)
    assert without_places(read.images) == without_places(published.images)


def test_questions_in_several_shards_keep_their_order(source, tmp_path, monkeypatch):
    monkeypatch.setattr(record_shards, "_RECORDS_IN_SHARD", 5)
    prepared(source, tmp_path / "out")
    folder = layout.config_folder(str(tmp_path / "out"), "questions")
    assert [shard.take for shard in layout.shards(folder, "train")] == [5, 5, 2]
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert [example.id for example in read.examples] == [f"jsonl/{n}" for n in range(12)]
    assert len(tfds.builder_from_directory(folder).as_data_source("train")) == 12


def test_each_image_is_stored_once_however_many_questions_and_splits_ask_about_it(source, tmp_path):
    write_rows(source, *(row(number) for number in range(20, 30)), split="test")
    prepared(source, tmp_path / "out")
    shards = layout.shards(layout.config_folder(str(tmp_path / "out"), "images"), "images")
    masks = layout.shards(layout.config_folder(str(tmp_path / "out"), "images"), "masks")
    assert (sum(shard.take for shard in shards), sum(shard.take for shard in masks)) == (4, 1)


def test_tfds_opens_all_three_configurations_without_tensorflow(source, tmp_path):
    prepared(source, tmp_path / "jsonl")
    folder = layout.config_folder(str(tmp_path / "jsonl"), "questions")
    builder = tfds.builder_from_directory(folder)
    questions = builder.as_data_source("train")
    assert [question["id"].decode() for question in questions] == [f"jsonl/{n}" for n in range(12)]
    np.testing.assert_array_equal(questions[3]["regions"]["box"], [[8 / 48, 8 / 64, 28 / 48, 28 / 64]])
    by_name = tfds.builder("jsonl/images", data_dir=tmp_path).as_data_source("images")
    for stored, number in zip(by_name, range(4), strict=True):
        assert (stored["image"] == np.asarray(Image.open(source / f"images/{number}.png"))).all()
    assert len(tfds.builder("jsonl/annotations", data_dir=tmp_path).as_data_source("train")) == 4
    assert "tensorflow" not in sys.modules


def test_grain_reads_it(source, tmp_path):
    prepared(source, tmp_path / "out")
    builder = tfds.builder_from_directory(layout.config_folder(str(tmp_path / "out"), "questions"))
    dataset = grain.MapDataset.source(builder.as_data_source("train")).shuffle(seed=0)
    assert {question["id"] for question in dataset} == {f"jsonl/{n}".encode() for n in range(12)}


def test_an_image_is_a_small_reference_that_travels_between_processes(source, tmp_path):
    prepared(source, tmp_path / "out")
    example = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train").examples[5]
    assert len(pickle.dumps(example.image)) < 500
    decoded = images.decode(pickle.loads(pickle.dumps(example.image)), example.id)
    assert (decoded == np.asarray(Image.open(source / "images/1.png"))).all()


def test_images_that_come_as_bytes_are_stored_too(tmp_path):
    small = PhantomConfig(train_images=3, image_size=64)
    drawn = phantom.load(small, "train")
    source = Source(phantom.CARD, lambda root, split: phantom.load(small, split))
    prepare(source, root="", out=str(tmp_path / "out"), splits=("train",), allow_missing=True, run=in_process)
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    assert without_places(read.examples) == without_places(drawn.examples)
    assert without_places(read.images) == without_places(drawn.images)
    assert (tmp_path / "out/source_files.sha256").read_text() == ""


def test_a_set_without_questions_is_read_as_such(tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    Image.new("RGB", (40, 30)).save(root / "val/a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "Clause"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9]}],
    }
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    prepared(root, tmp_path / "out", "coco")
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    assert {e.family for e in load_examples(data, "val", seed=0, max_regions=1)} == {"identify", "localise"}


# Languages.


def test_images_that_only_another_language_asks_about_are_left_out(source, tmp_path):
    rows = [row(0, language="zh"), row(1, language="en"), row(4, language="en"), row(2, language="zh")]
    write_rows(source, *rows, {"image": "images/3.png"})
    prepared(source, tmp_path / "out")
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), languages=("en",)), "train")
    assert [example.id for example in read.examples] == ["jsonl/1", "jsonl/4"]
    assert [image.image_id for image in read.images] == ["images/1.png", "images/0.png", "images/3.png"]


def test_no_question_in_the_languages_asked_for_is_an_error_that_names_those_there_are(source, tmp_path):
    prepared(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"data\.languages: de: .* has questions in en alone"):
        load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), languages=("de",)), "train")


# Privacy.


def test_neither_metadata_nor_the_place_of_the_source_is_stored(source, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "Doe^Jane"
    Image.open(source / "images/0.png").save(source / "images/0.png", exif=exif)
    (source / "images/1.png").write_bytes(b"no image")
    assert b"Doe^Jane" in (source / "images/0.png").read_bytes()
    out = tmp_path / "out"
    arguments = ["jsonl", "--source", str(source), "--out", str(out), "--allow-missing", "--workers", "1"]
    assert main(arguments) == 0
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert b"Doe^Jane" not in path.read_bytes(), path
        assert str(tmp_path).encode() not in path.read_bytes(), path
    record = json.loads((out / "prepared.json").read_text())
    assert record["command"] == "python -m data_pipelines.prepare jsonl --source source --out out --allow-missing"
    assert str(tmp_path) not in repr(list(tfds.builder_from_directory(out / "questions/1.0.0").as_data_source("train")))


def test_checksums_of_the_source_are_those_of_sha256sum(source, tmp_path):
    prepared(source, tmp_path / "out")
    lines = (tmp_path / "out/source_files.sha256").read_text().splitlines()
    names = [f"images/{n}.png" for n in range(4)] + ["mask.png", "train.jsonl"]
    assert lines == [f"{hashlib.sha256((source / name).read_bytes()).hexdigest()}  {name}" for name in names]


# Counts.


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
        assert (images.decode(image.image, "x") == np.asarray(Image.open(source / image.image_id))).all()


# A detector's boxes.


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
    assert "name it with --detections" in capsys.readouterr().err
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


# Interruptions and processes.


def test_stopped_at_any_shard_and_started_again_it_is_the_same_byte_for_byte(source, tmp_path, many_shards):
    prepared(source, tmp_path / "out", run=in_process)
    undisturbed = content(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")
    assert sum("array_record" in name for name in undisturbed) == 7

    def stopped_after(count):
        def run(shards):
            for shard in shards[:count]:
                image_shards.write_shard(shard)
            Path(f"{shards[count].path}.99.partial").write_bytes(b"half a shard")
            raise KeyboardInterrupt

        return run

    for count in (0, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            prepared(source, tmp_path / "out", run=stopped_after(count))
        assert not (tmp_path / "out").exists()
    prepared(source, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


def test_finished_shards_are_not_written_again(source, tmp_path, many_shards, monkeypatch):
    def stopped(shards):
        in_process(shards[:3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "out", run=stopped)
    read = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda image, where, **of: read.append(where) or decode(image, where, **of))
    prepared(source, tmp_path / "out")
    assert read == ["images/3.png"]


def test_two_killed_processes_leave_what_is_finished_and_nothing_half_done(source, tmp_path, command_line):
    rng = np.random.default_rng(0)
    for number in range(4):  # eight MB make two shards
        Image.fromarray(rng.integers(0, 256, (830, 830, 3), np.uint8)).save(source / f"images/{number}.png")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "data_pipelines.prepare", "jsonl", "--source", str(source), "--out", str(out)]
    process = command_line.start([*command, "--workers", "2"], own_group=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out.incomplete/images/1.0.0/*.array_record*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    status, printed, err = command_line.run([*command, "--workers", "2"])
    assert (status, printed) == (0, f"train: 12 questions, 4 images, 4 boxes\nprepared jsonl in {out}\n"), err
    resumed = content(out)
    assert main([*command[3:], "--overwrite", "--workers", "1"]) == 0
    assert content(out) == resumed


# The command line.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["slak", "--source", ".", "--out", "x"], "NAME: no data set 'slak'; did you mean 'slake'?"),
        ([], "NAME: name a data set"),
        (["jsonl", "--source", "."], "--out: name the folder"),
        (["jsonl", "--out", "x"], "--source None: is no folder; name the one that holds *.jsonl"),
        (["jsonl", "--source", "/nowhere", "--out", "x"], "--source /nowhere: is no folder"),
        (["jsonl", "--source", ".", "--out", "x", "--workers", "0"], "--workers 0"),
        (["phantom", "--out", "x", "--splits", "dev"], "phantom: no split 'dev'"),
        (["phantom", "--out", "x", "--splits", "a-b"], "phantom: split 'a-b'; name it with letters"),
        (["--card", "vqarad"], "--card: no data set 'vqarad'; did you mean 'vqa_rad'?"),
        (["jsonl", "--source", ".", "--out", "x", "--beam-option=--project=p"], "--beam-option: is Beam's"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_in_one_line(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {complaint}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_prepared_set_is_replaced_only_when_told_to(source, tmp_path):
    prepared(source, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match="exists; choose another destination, or replace it with --overwrite"):
        prepared(source, tmp_path / "out")
    prepared(source, tmp_path / "out", overwrite=True)
    assert content(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds files that this command did not write"):
        prepared(source, tmp_path / "mine", overwrite=True)
    with pytest.raises(ConfigError, match="lie in one another"):
        prepared(source, source / "out")


def test_the_data_cards_are_printed(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name in registry.MODULES:
        assert f"{name}: " in printed
    assert main(["--card", "vqa_rad"]) == 0
    assert "train 1,797 questions, 313 images" in capsys.readouterr().out


def test_every_registered_data_set_has_a_card_of_its_name():
    for name in registry.MODULES:
        assert registry.source(name, setting="NAME").card.name == name


def test_two_questions_of_one_id_are_an_error(source, tmp_path):
    write_rows(source, row(1), row(1))
    with pytest.raises(DataError, match="two questions have the id 'jsonl/1'"):
        prepared(source, tmp_path / "out")


# Reading what is not there, or damaged.


def test_a_folder_that_is_no_prepared_set_says_what_to_run(source, tmp_path):
    with pytest.raises(DataError, match=r"is no prepared data set .* data_pipelines\.prepare"):
        load_source(DataConfig(source="prepared", root=str(source)), "train")
    prepared(source, tmp_path / "out")
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    with pytest.raises(DataError, match="has no split 'test', only train"):
        load_source(data, "test")
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    (tmp_path / "out/prepared.json").write_text(json.dumps(record | {"layout": "9.0.0"}))
    with pytest.raises(DataError, match=r"layout 9\.0\.0, this version reads 1\.0\.0"):
        load_source(data, "train")


def test_a_missing_or_damaged_shard_is_named(source, tmp_path):
    prepared(source, tmp_path / "out")
    data = DataConfig(source="prepared", root=str(tmp_path / "out"))
    example = load_source(data, "train").examples[0]
    (questions,) = (tmp_path / "out/questions/1.0.0").glob("*train*")
    questions.write_bytes(questions.read_bytes()[: questions.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{questions.name}: cannot be read"):
        load_source(data, "train")
    for path in (tmp_path / "out/images/1.0.0").glob("*-images.*"):
        path.unlink()
    with pytest.raises(ImageError, match=r"images\[0\]: image cannot be read .*; prepare the data set again"):
        images.decode(example.image, "x")


def test_an_unknown_source_in_a_configuration_names_the_nearest():
    with pytest.raises(ConfigError, match=r"data\.source: 'prepard' is not possible; did you mean 'prepared'"):
        validate(Config(data=DataConfig(source="prepard", root="x")))
    with pytest.raises(ConfigError, match=r"prepared needs the folder of a prepared data set: --config\.data\.root"):
        validate(Config(data=DataConfig(source="prepared")))


# The published SLAKE.


@pytest.fixture(scope="module")
def prepared_slake(slake_root, tmp_path_factory):
    """The two smaller splits, both languages."""
    out = tmp_path_factory.mktemp("prepared") / "slake"
    splits = ("validate", "test")
    prepared(slake_root, out, "slake", splits=splits, allow_missing=True)
    return str(out)


def test_the_copy_of_slake_lacks_16_images_which_are_named(slake_root, tmp_path):
    with pytest.raises(DataError, match=r"slake train: 9,834 questions expected, 9,610 found; 586 .* 571 found") as e:
        prepared(slake_root, tmp_path / "out", "slake")
    assert "image not in the folder (15): xmlab26, xmlab27" in str(e.value)
    assert "slake validate: 2,099 questions expected, 2,044 found" in str(e.value)


@pytest.mark.parametrize("languages", [("en",), ("zh",), ("en", "zh")])
@pytest.mark.parametrize("split", ["validate", "test"])
def test_prepared_slake_is_the_published_one(slake_root, prepared_slake, split, languages):
    published = load_source(DataConfig(source="slake", root=slake_root, languages=languages), split)
    read = load_source(DataConfig(source="prepared", root=prepared_slake, languages=languages), split)
    assert without_places(read.examples) == without_places(published.examples)
    assert without_places(read.images) == without_places(published.images)


def test_prepared_slake_gives_the_batches_of_the_published_one_bit_for_bit(slake_root, prepared_slake, tmp_path):
    texts = ["answer en what is the marked structure?", "detect left lung", "what organ is it"] * 40
    tokenizer = train_tokenizer(texts, tmp_path / "small.model", vocab_size=300)
    regions = RegionConfig(encoders=("crop", "overlay"), crop_size=28, tokens=4, outlines=True)

    def batches(source, root):
        data = DataConfig(source=source, root=root, text_length=200, policy=PolicyConfig(shown=0.8))
        examples = load_examples(data, "validate", seed=3, max_regions=1)
        preprocessor = Preprocessor(56, 14, regions, data, tokenizer)
        families = {"vqa": 0.5, "identify": 0.3, "verify": 0.2}
        iterator = training_iterator(examples, preprocessor, families=families, batch_size=16, seed=5, data=data)
        training = [next(iterator) for _ in range(3)]
        state = iterator.get_state()
        iterator.close()
        asked = next(evaluation_batches(examples[:16], preprocessor, "right", (), 16))[0]
        return [[examples[i].id for i in batch["index"]] for batch in training], [*training, asked], state

    ids, arrays, state = batches("slake", slake_root)
    ids_read, arrays_read, state_read = batches("prepared", prepared_slake)
    assert ids == ids_read
    assert state == state_read
    for batch, read in zip(arrays, arrays_read, strict=True):
        assert batch.keys() == read.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], read[name])


@pytest.mark.parametrize("neighbour", ["out.replaced", "out.incomplete"])
def test_a_folder_beside_the_destination_that_is_not_ours_is_left_alone(source, tmp_path, neighbour):
    kept = tmp_path / neighbour / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(ConfigError, match=f"{neighbour} is in the way"):
        prepared(source, tmp_path / "out")
    assert kept.read_text() == "mine"


def test_a_destination_that_cannot_be_made_is_said_in_one_line(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["jsonl", "--source", str(source), "--out", str(tmp_path / "file" / "out")]
    assert main(arguments) == 2
    assert "cannot be made" in capsys.readouterr().err.splitlines()[-1]
