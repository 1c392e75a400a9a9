"""What annotation files name is looked for below the data set's folder, and found in every spelling of its name."""

import json
import os
import sys
import unicodedata
from pathlib import Path

import pytest
from expected_errors import refused
from PIL import Image
from published_layouts import LAYOUTS, NAMING

from data_pipelines.core.data_root import DataRoot, NoPlainFile, OutsideRoot
from data_pipelines.core.errors import DataError
from data_pipelines.prepare import main as prepare
from data_pipelines.regions.detections import attach_detections
from data_pipelines.sources import registry

# What no data set holds: its size, and its one grey.
SECRET_SIZE, SECRET_GREY = (16, 16), 201
_WATCHED: list[str] = []
_OPENED: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _WATCHED and event in ("open", "os.listdir", "os.scandir"):
        path = os.path.realpath(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if str(path).startswith(_WATCHED[0]):
            _OPENED.append(str(path))


sys.addaudithook(_watch)


@pytest.fixture
def outside(tmp_path):
    """A folder beside the data set's, with files of every name that a row might be made to lead to; none is opened."""
    folder = tmp_path / "outside"
    (folder / "secret").mkdir(parents=True)
    for name in ("secret.jpg", "secret.png", "secret/source.jpg", "secret/mask.png"):
        Image.new("L", SECRET_SIZE, SECRET_GREY).save(folder / name)
    (folder / "secret/detection.json").write_text('[{"Secret": [1, 1, 8, 8]}]')
    (folder / "secret.txt").write_text("FINDINGS: Secret.\n")
    _OPENED.clear()
    _WATCHED[:] = [os.path.join(os.path.realpath(folder), "")]
    yield folder
    _WATCHED.clear()
    assert not _OPENED, f"read outside the data set: {_OPENED}"


def load(name, root):
    return registry.SOURCES.get(name, setting="data.source").load(root, LAYOUTS[name].split)


def images_of(split):
    return {Path(getattr(record.image, "path", record.image)) for record in split.records}


def assert_left_out(name, root, code, *reasons):
    """The first image is refused with this code, or left out for one of these reasons, and the second one is read."""
    try:
        split = load(name, root)
    except DataError as error:
        if error.code != code:
            raise
        return
    assert images_of(split) == {Path(root, LAYOUTS[name].file.format("two"))}
    assert sum(len(split.left_out.get(reason, ())) for reason in reasons) == 1, split.left_out


def test_every_data_set_of_the_registry_is_tried_here():
    assert list(LAYOUTS) == list(registry.SOURCES)


@pytest.mark.parametrize("name", NAMING)
def test_both_images_are_read_as_they_were_laid_out(tmp_path, name):
    layout = LAYOUTS[name]
    split = load(name, layout.lay_out(tmp_path))
    assert images_of(split) == {tmp_path / layout.file.format(called) for called in ("one", "two")}
    assert not split.left_out


@pytest.mark.parametrize("name", NAMING)
def test_no_name_in_an_annotation_file_leads_out_of_the_folder(tmp_path, outside, name):
    root = tmp_path / "in" / "set"
    layout = LAYOUTS[name]
    ways = [str(outside), *("/".join([*[".."] * ups, "outside"]) for ups in range(1, 8))]
    # SLAKE's names end at the first slash, so that none but a folder beside its root can be meant.
    evil = [f"{way}/{layout.said.format('secret').removeprefix('images/')}" for way in ways]
    for said in [*evil, *(way.replace("/", "\\") for way in evil)]:
        layout.lay_out(root, said=said)
        assert_left_out(
            name, str(root), "data.invalid-value", "image leads out of the folder", "image not in the folder"
        )


@pytest.mark.parametrize("name", NAMING)
def test_no_link_leads_an_image_out_of_the_folder(tmp_path, outside, name):
    layout = LAYOUTS[name]
    root = layout.lay_out(tmp_path / "in" / "set")
    file = Path(root, layout.file.format("one"))
    file.unlink()
    file.symlink_to(outside / f"secret{file.suffix}")
    assert_left_out(name, root, "file.outside-root", "image leads out of the folder")


@pytest.mark.parametrize("name", NAMING)
def test_an_image_is_no_pipe_and_no_device(tmp_path, name):
    layout = LAYOUTS[name]
    root = layout.lay_out(tmp_path / "in" / "set")
    file = Path(root, layout.file.format("one"))
    file.unlink()
    os.mkfifo(file)
    assert_left_out(name, root, "file.not-plain", "image is no plain file")
    file.unlink()
    file.symlink_to("/dev/zero")
    assert_left_out(name, root, "file.outside-root", "image leads out of the folder")


@pytest.mark.parametrize(
    ("name", "beside"), [(name, beside) for name, layout in LAYOUTS.items() for beside in layout.beside]
)
def test_what_is_read_beside_an_image_lies_in_the_folder_too(tmp_path, outside, name, beside):
    root = LAYOUTS[name].lay_out(tmp_path / "in" / "set")
    file = Path(root, beside.format("one"))
    file.unlink()
    file.symlink_to(outside / ("secret/detection.json" if file.suffix == ".json" else "secret.png"))
    with refused(DataError, "file.outside-root", str(file)):
        load(name, root)


def test_a_report_of_mimic_is_no_link_to_elsewhere(tmp_path, outside):
    root = LAYOUTS["mimic_cxr_jpg"].lay_out(tmp_path / "in" / "set")
    report = Path(root, "files/p19/p19/s5.txt")
    report.unlink()
    report.symlink_to(outside / "secret.txt")
    with refused(DataError, "file.unreadable", "files") as caught:
        load("mimic_cxr_jpg", root)
    assert "s5" not in str(caught.value)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
# The films of ChestX-ray14 have numbers for names.
@pytest.mark.parametrize("name", [name for name in NAMING if name != "chest_xray14"])
def test_a_name_is_found_composed_and_decomposed(tmp_path, name, form):
    layout = LAYOUTS[name]
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    called, said = unicodedata.normalize(form, "läsion é"), unicodedata.normalize(other, "läsion é")
    split = load(name, layout.lay_out(tmp_path, called=called, said=layout.said.format(said)))
    assert images_of(split) == {tmp_path / layout.file.format(called), tmp_path / layout.file.format("two")}
    assert not split.left_out


@pytest.mark.parametrize("name", [name for name in NAMING if LAYOUTS[name].folders])
def test_a_name_that_was_written_on_windows_is_found(tmp_path, name):
    layout = LAYOUTS[name]
    said = layout.said.format("sub/one").replace("/", "\\")
    called = "one" if name == "slake" else "sub/one"
    said = said.replace("sub\\", "") if name == "slake" else said
    split = load(name, layout.lay_out(tmp_path, called=called, said=said))
    assert images_of(split) == {tmp_path / layout.file.format(called), tmp_path / layout.file.format("two")}


@pytest.mark.parametrize("name", NAMING)
def test_a_folder_that_is_linked_at_the_top_belongs_to_the_data_set(tmp_path, name):
    layout = LAYOUTS[name]
    published = Path(layout.lay_out(tmp_path / "published"))
    root = tmp_path / "set"
    root.mkdir()
    for entry in published.iterdir():
        (root / entry.name).symlink_to(entry)
    split = load(name, str(root))
    assert images_of(split) == {root / layout.file.format(called) for called in ("one", "two")}
    assert not split.left_out


@pytest.mark.parametrize("name", NAMING)
def test_a_snapshot_in_the_cache_of_hugging_face_is_read(tmp_path, name):
    layout = LAYOUTS[name]
    plain = Path(layout.lay_out(tmp_path / "plain"))
    blobs, snapshot = tmp_path / "datasets--x--y/blobs", tmp_path / "datasets--x--y/snapshots/abc"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    split = load(name, str(snapshot))
    assert images_of(split) == {snapshot / layout.file.format(called) for called in ("one", "two")}
    assert not split.left_out


def test_a_link_deeper_down_leads_into_what_is_linked_at_the_top(tmp_path):
    elsewhere, root = tmp_path / "all", tmp_path / "set"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"a")
    (root / "images").mkdir(parents=True)
    (root / "images/a.png").symlink_to(elsewhere / "a.png")
    with refused(OutsideRoot, "file.outside-root", str(root / "images/a.png"), str(elsewhere)):
        DataRoot(str(root)).file(str(root / "images/a.png"))
    (root / "shared").symlink_to(elsewhere)
    assert DataRoot(str(root)).file(str(root / "images/a.png")) == str(root / "images/a.png")


def test_a_folder_that_contains_the_root_is_no_part_of_it(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "private.png").write_bytes(b"private")
    (root / "up").symlink_to(tmp_path)
    with refused(OutsideRoot, "file.outside-root"):
        DataRoot(str(root)).file(str(root / "up/private.png"))
    (root / "notes.json").symlink_to(tmp_path / "notes.json")
    with refused(OutsideRoot, "file.outside-root"):
        DataRoot(str(root)).file(str(root / "up/private.png"))


def test_an_image_at_the_top_is_no_link_to_elsewhere_but_an_annotation_file_may_be(tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    for name in ("a.png", "train.json"):
        (elsewhere / name).write_bytes(b"1")
        (root / name).symlink_to(elsewhere / name)
    (root / "train.json").unlink()
    with refused(OutsideRoot, "file.outside-root"):
        DataRoot(str(root)).file(str(root / "a.png"))
    (root / "train.json").symlink_to(elsewhere / "train.json")
    assert DataRoot(str(root)).layout_file(str(root / "train.json"))


@pytest.mark.parametrize("said", ["images", "images/none.png", "a\0b", "x" * 5000, "broken.png", ""])
def test_what_is_no_file_is_not_found(tmp_path, said):
    (tmp_path / "images").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    assert DataRoot(str(tmp_path)).file(os.path.join(tmp_path, said)) == ""


def test_a_pipe_is_said_to_be_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with refused(NoPlainFile, "file.not-plain", "pipe.png"):
        DataRoot(str(tmp_path)).file(str(tmp_path / "pipe.png"))


def test_a_prepared_set_has_neither_pixels_nor_checksums_of_what_lies_outside(tmp_path, outside, capsys):
    layout = LAYOUTS["vqa_rad"]
    root = Path(layout.lay_out(tmp_path / "in" / "set"))
    (root / "images/one.jpg").unlink()
    (root / "images/one.jpg").symlink_to(outside / "secret.jpg")
    (root / "images/secret.txt").symlink_to(outside / "secret.txt")
    out = tmp_path / "out"
    arguments = ["vqa_rad", "--source", str(root), "--out", str(out), "--splits", "train", "--workers", "1"]
    assert prepare(arguments) == 2
    assert "image leads out of the folder (1): one.jpg" in capsys.readouterr().err
    assert prepare([*arguments, "--allow-missing"]) == 0
    listed = (out / "source_files.sha256").read_text()
    assert "two.jpg" in listed
    assert "secret" not in listed
    assert "one.jpg" not in listed


@pytest.mark.parametrize("said", ["NFC", "NFD", "windows"])
def test_a_detectors_file_names_images_in_any_spelling(tmp_path, said):
    layout, called = LAYOUTS["jsonl"], unicodedata.normalize("NFD", "läsion")
    split = load("jsonl", layout.lay_out(tmp_path, called=called, said=layout.said.format(called)))
    named = {"windows": f"images\\{called}.png"}.get(said) or unicodedata.normalize(said, f"images/{called}.png")
    found = [{"label": "Nodule", "box": [2, 2, 4, 4], "score": 0.9}]
    (tmp_path / "boxes.json").write_text(json.dumps({named: found}))
    first, second = attach_detections(split, str(tmp_path / "boxes.json"), min_score=0.0).images
    assert [region.label for region in first.regions] == ["Nodule"]
    assert not second.regions
