"""What `data_pipelines.inspect` says of drawn data sets, whose numbers are known, and of the published ones."""

import io
import json

import imagehash
import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines import inspect
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.inspection.contact_sheet import contact_sheet
from data_pipelines.inspection.figures import split_figures
from data_pipelines.inspection.overlap import fingerprints, groups_of, overlaps
from data_pipelines.inspection.reading import DataSet, read_data_sets
from data_pipelines.records import AnnotatedImage, Region, SourceSplit, VQAExample


def picture(seed, *, kind="PNG", size=64, **save):
    """A smooth pattern as a file: the same seed gives the same picture, at any size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((64, 64), Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.LANCZOS).save(
        file, kind, **save
    )
    return file.getvalue()


def annotated(name, content, *labels, split="train", data_set="set"):
    regions = tuple(Region((0.0, 0.0, 0.5, 0.5 * (place + 1)), label) for place, label in enumerate(labels))
    return AnnotatedImage(data_set, split, content, name, regions, modality="CT", body_part="Abdomen")


def asked(name, number, question="is it?", answer="Yes", **changes):
    return VQAExample(f"set/{name}/{number}", "set", "train", b"", name, question, answer, **changes)


def values(figures):
    return {(figure.split, figure.name, figure.group): figure.value for figure in figures}


# Figures of a split.


@pytest.fixture
def split():
    images = [annotated("a", b"", "Liver", "Spleen"), annotated("b", b""), annotated("c", b"", "liver")]
    examples = [
        asked("a", 1, answer="Yes", answer_type="closed"),
        asked("a", 2, answer="yes", answer_type="closed"),
        asked("a", 3, "where is the liver?", "on the left side", content_type="Position"),
        asked("b", 4, answer="no", answer_type="closed", language="zh"),
    ]
    return SourceSplit(examples, images, {"image not in the folder": ("x.jpg", "y.jpg")})


def test_questions_and_images_are_counted_by_their_kinds(split):
    found = values(split_figures("set", "train", split))
    assert found["train", "questions", "all"] == 4
    assert found["train", "questions", "answer_type=closed"] == 3
    assert found["train", "questions", "content_type=Position"] == 1
    assert found["train", "questions", "content_type=(none)"] == 3
    assert found["train", "questions", "family=vqa"] == 4
    assert found["train", "questions", "language=zh"] == 1
    assert found["train", "images", "modality=CT"] == 3
    assert found["train", "images_without_questions", "all"] == 1
    assert found["train", "left_out", "image not in the folder"] == 2
    assert ("train", "questions", "modality=(none)") not in found  # the data set never says it


def test_box_coverage_is_of_images_and_of_questions(split):
    found = values(split_figures("set", "train", split))
    assert found["train", "boxes", "all"] == 3
    assert found["train", "boxes", "label=Liver"] == 1
    assert found["train", "labels", "all"] == 3
    assert found["train", "images_with_boxes", "all"] == 2
    assert found["train", "share_of_images_with_boxes", "all"] == pytest.approx(2 / 3)
    assert found["train", "questions_on_images_with_boxes", "all"] == 3
    assert found["train", "questions_with_their_own_boxes", "all"] == 1  # "where is the liver?"
    assert found["train", "box_area", "p50"] == pytest.approx(0.25)
    assert found["train", "box_area", "p95"] == pytest.approx(0.475)  # of 0.25, 0.25 and 0.5


def test_answers_are_compared_without_case(split):
    found = values(split_figures("set", "train", split))
    assert found["train", "distinct_answers", "all"] == 3
    assert found["train", "answer_count", "all=yes"] == 2
    assert found["train", "share_of_most_frequent_answer", "closed"] == pytest.approx(2 / 3)
    assert found["train", "answer_words", "max"] == 4
    assert found["train", "question_characters", "max"] == len("where is the liver?")


def test_an_empty_split_has_figures_and_no_division_by_zero():
    found = values(split_figures("set", "train", SourceSplit([], [])))
    assert found["train", "questions", "all"] == 0
    assert found["train", "share_of_images_with_boxes", "all"] == 0


# Images that occur twice.


def compared(splits, *, bits=4, data_set="set"):
    data_sets = [DataSet(data_set, {name: SourceSplit([], images) for name, images in splits.items()})]
    figures, matches = overlaps(groups_of(data_sets), fingerprints(data_sets, workers=1), bits=bits)
    return values(figures), matches


def test_equal_pixels_are_found_under_another_name_and_format():
    found, matches = compared(
        {
            "train": [annotated("a", picture(1)), annotated("b", picture(2)), annotated("c", picture(2, kind="BMP"))],
            "test": [annotated("x", picture(1, kind="TIFF")), annotated("y", picture(9))],
        }
    )
    assert found["test", "images_compared", "all"] == 2
    assert found["test", "images_equal_to_some_of", "set train"] == 1
    assert found["test", "images_equal_to_some_of", "another split"] == 1
    assert found["train", "images_equal_to_some_of", "set test"] == 1
    assert found["train", "images_repeated", "all"] == 1
    (match,) = [match for match in matches if match.split == "test"]
    assert (match.image_id, match.other_split, match.other_image_id, match.bits, match.equal) == (
        *("x", "train", "a"),
        *(0, True),
    )


def test_another_size_or_compression_is_alike_and_not_equal():
    found, matches = compared(
        {
            "train": [annotated("a", picture(1)), annotated("b", picture(2))],
            "test": [annotated("x", picture(1, kind="JPEG", quality=60)), annotated("y", picture(2, size=48))],
        }
    )
    assert found["test", "images_equal_to_some_of", "set train"] == 0
    assert found["test", "images_like_some_of", "set train"] == 2
    assert {(match.image_id, match.other_image_id) for match in matches if match.split == "test"} == {
        ("x", "a"),
        ("y", "b"),
    }


def test_likeness_is_imagehashs_distance_against_the_threshold():
    a, b = picture(3), picture(4)
    hashes = [imagehash.phash(Image.open(io.BytesIO(content)).convert("RGB")) for content in (a, b)]
    distance = hashes[0] - hashes[1]
    assert distance > 8
    splits = {"train": [annotated("a", a)], "test": [annotated("b", b)]}
    assert compared(splits, bits=distance)[0]["test", "images_like_some_of", "set train"] == 1
    assert compared(splits, bits=distance - 1)[0]["test", "images_like_some_of", "set train"] == 0


def test_one_name_for_two_pictures_is_no_overlap():
    found, _ = compared({"train": [annotated("1", picture(1))], "test": [annotated("1", picture(2))]})
    assert found["test", "images_equal_to_some_of", "set train"] == 0


def test_an_unreadable_image_is_left_out_counted_and_named(caplog):
    found, _ = compared({"train": [annotated("broken", b"not an image"), annotated("a", picture(1))]})
    assert found["train", "images_compared", "all"] == 1
    assert "left out 1 unreadable images: broken: image cannot be read" in caplog.text


# The contact sheet.


def test_the_contact_sheet_draws_boxes_where_they_are():
    grey = io.BytesIO()
    Image.new("RGB", (300, 300), (90, 90, 90)).save(grey, "PNG")
    image = AnnotatedImage("set", "train", grey.getvalue(), "a", (Region((0.2, 0.4, 0.6, 0.8), "Liver"),))
    data_set = DataSet("set", {"train": SourceSplit([asked("a", 1)], [image])})
    plain = DataSet("set", {"train": SourceSplit([], [AnnotatedImage("set", "train", grey.getvalue(), "a", ())])})
    drawn, bare = (np.asarray(contact_sheet(each, count=4)).astype(int) for each in (data_set, plain))
    inside = np.abs(drawn - bare).sum(axis=2)[64:364, 28:328] > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert np.abs([rows[0] - 60, rows[-1] - 180, columns[0] - 120, columns[-1] - 240]).max() <= 3
    assert not inside[70:170, 130:230].any()  # the picture itself is not drawn over


def test_the_contact_sheet_shows_every_kind_and_passes_over_what_is_unreadable():
    images = [annotated(f"ct{n}", picture(n)) for n in range(5)]
    images += [AnnotatedImage("set", "train", b"broken", "broken", (), modality="MRI")]
    images += [AnnotatedImage("set", "train", picture(7), "mri", (), modality="MRI")]
    data_set = DataSet("set", {"train": SourceSplit([asked("ct1", 1, "什么?", "肝")], images)})
    sheets = [contact_sheet(data_set, count=count) for count in (2, 99, 99)]
    assert sheets[0].tobytes() != sheets[1].tobytes()
    assert sheets[1].tobytes() == sheets[2].tobytes()  # the same images each time
    one_row = contact_sheet(DataSet("set", {"train": SourceSplit([], images[:5] + images[6:])}), count=99)
    assert sheets[1].size == one_row.size  # the unreadable one has no place


# The command.


@pytest.fixture(scope="module")
def vqa_rad_folder(tmp_path_factory):
    """VQA-RAD's layout with three images: one only trained on, one only tested on, one both."""
    root = tmp_path_factory.mktemp("vqa_rad")
    (root / "images").mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (root / "images" / name).write_bytes(picture(int(name[0]), kind="JPEG"))
    asked_of = [("1.jpg", "freeform"), ("2.jpg", "freeform"), ("2.jpg", "test_freeform"), ("3.jpg", "test_para")]
    entries = [
        {
            "qid": number,
            "image_name": image,
            "image_organ": "CHEST",
            "phrase_type": phrase,
            "question": "is it normal?",
            "question_type": "ABN",
            "answer": "Yes",
            "answer_type": "CLOSED",
        }
        for number, (image, phrase) in enumerate(asked_of)
    ]
    (root / "VQA_RAD Dataset Public.json").write_text(json.dumps(entries))
    return root


def test_the_command_prints_tables_and_writes_numbers_and_a_sheet(vqa_rad_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(vqa_rad_folder), "--source", "vqa_rad", "--out", str(out), "--workers", "1"]
    assert inspect.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "vqa_rad: Questions" in printed
    assert "most frequent 1" in printed
    assert sorted(path.name for path in out.iterdir()) == ["contact_sheet_vqa_rad.png", "inspect.json"]
    written = json.loads((out / "inspect.json").read_text())
    rows = {(row["split"], row["name"], row["group"]): row["value"] for row in written["figures"]}
    assert len(rows) == len(written["figures"])  # one row a number
    assert all(row["data_set"] == "vqa_rad" for row in written["figures"])
    assert rows["test", "images_equal_to_some_of", "another split"] == 1
    assert written["near_bits"] == 4
    assert {row["image_id"] for row in written["overlapping_images"]} == {"2.jpg"}
    assert Image.open(out / "contact_sheet_vqa_rad.png").size[0] > 300


def test_two_copies_of_one_data_set_are_told_apart(vqa_rad_folder, capsys):
    folder = str(vqa_rad_folder)
    assert inspect.main([folder, folder + "/.", "--source", "vqa_rad", "--workers", "1"]) == 0
    assert f"vqa_rad ({folder}/.): Questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("root", "sources", "splits", "kind", "code", "named"),
    [
        ("absent", ["slake"], (), DataError, "file.missing", ["absent", "slake"]),
        (".", ["phantom"], ("tset",), DataError, "data.unknown-name", ["--splits", "phantom", "'tset'", "test"]),
        (
            ".",
            ["phantom", "slake", "vqa_rad"],
            (),
            ConfigError,
            "option.conflict",
            ["--source", "3 names", "1 folders"],
        ),
    ],
)
def test_a_folder_a_split_or_a_number_of_sources_that_does_not_fit_is_refused(root, sources, splits, kind, code, named):
    with refused(kind, code, *named):
        read_data_sets([root], sources, splits)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "--source", "slake"], "absent"),
        ([".", "--source", "slack"], "slake"),
        ([".", "--source", "phantom", "--splits", "tset"], "tset"),
        ([".", "--source", "phantom", "--near-bits", "65"], "--near-bits: '65'"),
        ([".", "--source", "phantom", "--workers", "0"], "--workers: '0'"),
        ([".", "--source", "phantom", "--images", "0"], "--images: '0'"),
        ([".", ".", ".", "--source", "phantom", "--source", "slake"], "--source"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, said, capsys):
    assert inspect.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1


# The published data sets.


@pytest.mark.slow
def test_202_of_vqa_rads_203_test_images_are_training_images_too(vqa_rad_root, tmp_path):
    assert inspect.main([vqa_rad_root, "--source", "vqa_rad", "--out", str(tmp_path), "--images", "1"]) == 0
    figures = json.loads((tmp_path / "inspect.json").read_text())["figures"]
    rows = {(row["split"], row["name"], row["group"]): row["value"] for row in figures}
    assert rows["test", "images_compared", "all"] == 203
    assert rows["test", "images_equal_to_some_of", "vqa_rad train"] == 202
    assert (rows["test", "questions", "all"], rows["test", "questions", "answer_type=closed"]) == (451, 272)


@pytest.mark.slow
def test_slakes_other_language_has_84_of_its_96_english_test_images_of_which_one_is_lacking(slake_root, tmp_path):
    assert inspect.main([slake_root, "--source", "slake", "--out", str(tmp_path), "--images", "1"]) == 0
    figures = json.loads((tmp_path / "inspect.json").read_text())["figures"]
    rows = {(row["split"], row["name"], row["group"]): row["value"] for row in figures}
    assert rows["test/en", "images_compared", "all"] == 95
    assert rows["test/en", "images_equal_to_some_of", "another split"] == 83
    assert rows["test/en", "images_equal_to_some_of", "slake train/en"] == 0
    # But slices of patients who were trained on are among them, which no file name and no exact hash tells.
    assert rows["test/en", "images_like_some_of", "slake train/en"] > 15
