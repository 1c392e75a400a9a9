"""DICOM and NIfTI files in `jsonl` and `coco`, and what a prepared data set keeps of them."""

import hashlib
import json

import nibabel
import numpy as np
import pytest
from dicom_files import write_dicom
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.images.reading import decode
from data_pipelines.loading.examples import load_source
from data_pipelines.prepare import main
from data_pipelines.sources import coco
from rllava_jax.config import DataConfig

BOX = [4, 8, 16, 6]
FILES = ("cine.dcm#frame=3", "cine.dcm", "ct.nii.gz#axis=0,slice=4", "ct.nii.gz#axis=2,slice=1,window=bone", "a.png")


@pytest.fixture
def source(tmp_path):
    """Questions on two frames of a DICOM file, two slices of a volume, and a PNG; each with a box in pixels."""
    root = tmp_path / "scans"
    root.mkdir()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 1000, (4, 30, 40)).astype(np.uint16)
    write_dicom(root / "cine.dcm", frames, RescaleSlope=1, RescaleIntercept=-900, PatientName="Nobody^Drawn")
    volume = rng.integers(-1000, 1000, (24, 36, 20)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / "ct.nii.gz")
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(root / "a.png")
    write_rows(root, FILES)
    return root


def write_rows(root, files):
    rows = [
        {"id": str(n), "image": file, "question": "What is it?", "answer": "A mass",
         "regions": [{"box": BOX, "label": "Mass"}]}
        for n, file in enumerate(files)
    ]  # fmt: skip
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare(root, out, *options):
    return main(["jsonl", "--source", str(root), "--out", str(out), "--workers", "1", *options])


def test_a_box_of_a_part_is_in_the_pixels_of_that_picture(source):
    split = load_source(DataConfig(source="jsonl", root=str(source)), "train")
    assert [image.image_id for image in split.images] == list(FILES)
    for image in split.images:
        height, width, _ = decode(image.image, image.image_id).shape
        x, y, w, h = BOX
        assert image.regions[0].box == (y / height, x / width, (y + h) / height, (x + w) / width)


def test_a_scan_that_is_not_in_the_folder_is_left_out_and_one_without_that_part_is_an_error(source):
    write_rows(source, ["lost.dcm#frame=2", "a.png"])
    split = load_source(DataConfig(source="jsonl", root=str(source)), "train")
    assert split.left_out == {"image not in the folder": ["lost.dcm#frame=2"]}
    write_rows(source, ["cine.dcm#frame=9"])
    with pytest.raises(DataError, match="no frame 9; write frame=1 to frame=4"):
        load_source(DataConfig(source="jsonl", root=str(source)), "train")


def test_coco_s_images_may_be_parts_of_scans(source):
    names = ["cine.dcm#frame=2", "lost.dcm#frame=2"]
    (source / "annotations").mkdir()
    (source / "images").symlink_to(source)
    content = {
        "images": [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "Mass"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": BOX}],
    }
    (source / "annotations/instances_train.json").write_text(json.dumps(content))
    split = coco.load(str(source), "train")
    assert [image.image_id for image in split.images] == names[:1]
    assert split.left_out == {"image not in the folder": names[1:]}
    assert decode(split.images[0].image, "x").shape == (30, 40, 3)


@pytest.mark.parametrize("window", ["auto", "lung", "-500:900"])
def test_prepared_pictures_are_the_pixels_that_the_files_give_through_the_same_window(source, tmp_path, window):
    assert prepare(source, tmp_path / "out", f"--window={window}") == 0
    published = load_source(DataConfig(source="jsonl", root=str(source)), "train")
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), window=window), "train")
    assert [example.id for example in read.examples] == [example.id for example in published.examples]
    for ours, theirs in zip(read.examples, published.examples, strict=True):
        assert ours.regions == theirs.regions
        assert (decode(ours.image, "ours", window) == decode(theirs.image, "theirs", window)).all()
    different = {decode(example.image, "x", window).tobytes() for example in read.examples}
    assert len(different) == len(FILES) - 1  # frame 3 is the middle one, which the second row takes


def test_the_record_has_the_window_and_the_whole_files_checksums_and_no_name_of_a_patient(source, tmp_path):
    assert prepare(source, tmp_path / "out", "--window", "lung") == 0
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    assert record["window"] == "lung"
    assert "--window lung" in record["command"]
    lines = (tmp_path / "out/source_files.sha256").read_text().splitlines()
    checksums = {name: checksum for checksum, name in (line.split("  ") for line in lines)}
    assert set(checksums) == {"a.png", "cine.dcm", "ct.nii.gz", "train.jsonl"}
    for name, checksum in checksums.items():
        assert checksum == hashlib.sha256((source / name).read_bytes()).hexdigest()
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any(b"Nobody" in file.read_bytes() for file in files)


def test_a_run_with_another_window_is_refused(source, tmp_path):
    assert prepare(source, tmp_path / "out", "--window", "soft_tissue") == 0
    with refused(ConfigError, "config.conflict", "data.window = 'auto'", "'soft_tissue'"):
        load_source(DataConfig(source="prepared", root=str(tmp_path / "out")), "train")
    load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), window="Soft Tissue"), "train")


def test_pictures_without_a_scan_suit_any_window_and_one_that_changes_nothing_is_warned_of(source, tmp_path, capsys):
    write_rows(source, ["a.png"])
    assert prepare(source, tmp_path / "out", "--window", "lung") == 0
    assert "--window lung: changes nothing" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/prepared.json").read_text())["window"] is None
    load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), window="bone"), "train")


def test_no_window_of_that_name_is_an_error_before_anything_is_written(source, tmp_path, capsys):
    assert prepare(source, tmp_path / "out", "--window", "lnug") == 2
    assert "error: --window: no window 'lnug'; did you mean 'lung'?" in capsys.readouterr().err
    assert not (tmp_path / "out.incomplete").exists()


def test_shards_of_another_window_are_written_anew(source, tmp_path):
    write_rows(source, ["cine.dcm", "lost.png"])
    assert prepare(source, tmp_path / "out", "--window", "lung", "--allow-missing") == 0
    (tmp_path / "out").rename(tmp_path / "out.incomplete")
    assert prepare(source, tmp_path / "out", "--window", "bone", "--allow-missing") == 0
    read = load_source(DataConfig(source="prepared", root=str(tmp_path / "out"), window="bone"), "train")
    assert (decode(read.images[0].image, "x") == decode(str(source / "cine.dcm"), "x", "bone")).all()


def test_a_changed_volume_changes_what_is_prepared_of_its_parts(source, tmp_path):
    from data_pipelines.prepared import image_shards

    split = load_source(DataConfig(source="jsonl", root=str(source)), "train")
    (shard,) = image_shards.plan_shards([split], dataset="jsonl", root=str(source), out=str(tmp_path))
    before = image_shards._identity(shard)
    (source / "ct.nii.gz").write_bytes((source / "ct.nii.gz").read_bytes() + b"\0")
    assert image_shards._identity(shard) != before
