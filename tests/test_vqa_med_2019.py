import logging

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.sources.vqa_med_2019 import SOURCE

TRAIN = "ImageClef-2019-VQA-Med-Training"
VALIDATION = "ImageClef-2019-VQA-Med-Validation"
TEST = "VQAMed2019Test"

MODALITY = "synpic1|what modality is shown?|ct w/contrast (iv)"
PLANE = "synpic1|in what plane is this ct scan?|axial"
ORGAN = "synpic1|what is the organ principally shown?|lung, mediastinum, pleura"
ABNORMALITY = "synpic1|is this image normal?|no"


@pytest.fixture
def small_root(tmp_path):
    """The organisers' layout with one image a split."""

    def build(all_pairs=None, test=("synpic9|plane|what plane is this?|axial",), without_category=()):
        four = [MODALITY, PLANE, ORGAN, ABNORMALITY]
        for folder, split, images in ((TRAIN, "train", "Train_images"), (VALIDATION, "val", "Val_images")):
            (tmp_path / folder / "QAPairsByCategory").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / images).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / folder / images / "synpic1.jpg")
            # The published files end their lines as Windows does.
            lines = "\r\n".join(four if all_pairs is None else all_pairs) + "\r\n"
            (tmp_path / folder / f"All_QA_Pairs_{split}.txt").write_bytes(lines.encode())
            names = ("C1_Modality", "C2_Plane", "C3_Organ", "C4_Abnormality")
            for name, line in zip(names, four, strict=True):
                text = "\n" if name in without_category else line + "\n"
                (tmp_path / folder / "QAPairsByCategory" / f"{name}_{split}.txt").write_text(text)
        (tmp_path / TEST / "VQAMed2019_Test_Images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / TEST / "VQAMed2019_Test_Images" / "synpic9.jpg")
        answers = tmp_path / TEST / "VQAMed2019_Test_Questions_w_Ref_Answers.txt"
        answers.write_text("\n".join(test) + "\n", encoding="utf-8")
        return str(tmp_path)

    return build


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_question_has_the_category_of_the_file_that_repeats_it(small_root, split):
    examples = SOURCE.load(small_root(), split).examples
    assert [e.content_type for e in examples] == ["modality", "plane", "organ", "abnormality"]
    assert [e.answer for e in examples] == ["ct w/contrast (iv)", "axial", "lung, mediastinum, pleura", "no"]
    assert [e.answer_type for e in examples] == ["open", "open", "open", "closed"]
    assert [e.id for e in examples] == [f"vqa_med_2019/{split}/{n}" for n in (1, 2, 3, 4)]


def test_the_questions_of_an_image_share_it(small_root):
    split = SOURCE.load(small_root(), "train")
    (image,) = split.images
    assert image.image.endswith(f"{TRAIN}/Train_images/synpic1.jpg")
    assert {(e.image, e.image_id) for e in split.examples} == {(image.image, "synpic1")}


def test_training_answers_stay_as_written_and_are_alone(small_root):
    root = small_root(["synpic1|what is abnormal?|arteriovenous malformation (avm) #1"])
    (example,) = SOURCE.load(root, "train").examples
    assert (example.answer, example.accepted) == ("arteriovenous malformation (avm) #1", ())


@pytest.mark.parametrize(
    ("written", "answer", "accepted"),
    [
        ("axial", "axial", ()),
        ("glioma#cystic mass#neoplasm", "glioma", ("cystic mass", "neoplasm")),
        ("(septic) cerebral emboli", "(septic) cerebral emboli", ("cerebral emboli",)),
        ("noncontrast (mri)#plain", "noncontrast (mri)", ("plain", "noncontrast")),
        ("mass (left) of lung (upper)", "mass (left) of lung (upper)", ("mass of lung",)),
        ("(all of it)", "(all of it)", ()),
        ("glioma##", "glioma", ()),
    ],
)
def test_test_answers_name_every_right_answer(small_root, written, answer, accepted):
    (example,) = SOURCE.load(small_root(test=[f"synpic9|abnormality|what is abnormal?|{written}"]), "test").examples
    assert (example.answer, example.accepted, example.content_type) == (answer, accepted, "abnormality")


def test_answers_may_hold_a_bar_and_blanks_are_made_single(small_root):
    (example,) = SOURCE.load(small_root(["synpic1|is \tthis  a t1?|yes|no"]), "train").examples
    assert (example.question, example.answer) == ("is this a t1?", "yes|no")


def test_questions_of_no_category_are_counted_in_a_warning(small_root, caplog):
    with caplog.at_level(logging.WARNING):
        examples = SOURCE.load(small_root(without_category=("C2_Plane",)), "train").examples
    assert [e.content_type for e in examples] == ["modality", "", "organ", "abnormality"]
    assert "1 questions stand in no category's file: vqa_med_2019/train/2" in caplog.text


def test_missing_images_and_empty_answers_are_left_out_and_named(small_root, caplog):
    root = small_root([MODALITY, "synpic7|what plane?|axial", "synpic1|in what plane is this ct scan?| "])
    with caplog.at_level(logging.WARNING):
        split = SOURCE.load(root, "train")
    assert len(split.examples) == 1
    assert split.left_out == {
        "image not in the folder": [f"{TRAIN}/Train_images/synpic7.jpg"],
        "no answer": ["vqa_med_2019/train/3"],
    }
    assert "synpic7.jpg" in caplog.text


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("synpic1 what plane?", ("data.missing-field", "2", "3")),
        ("synpic1|what plane?", ("data.missing-field", "2", "3")),
        ("|what plane?|axial", ("data.missing-field", "2", "3")),
        ("synpic1||axial", ("data.missing-field", "2")),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(small_root, line, complaint):
    with refused(DataError, *complaint, "All_QA_Pairs_train.txt") as caught:
        SOURCE.load(small_root([MODALITY, line]), "train")
    assert "\n" not in str(caught.value)


def test_a_file_in_another_encoding_is_named(small_root, tmp_path):
    root = small_root()
    (tmp_path / TRAIN / "All_QA_Pairs_train.txt").write_bytes("synpic1|what?|Müller".encode("latin-1"))
    with refused(DataError, "file.malformed", "All_QA_Pairs_train.txt", "UTF-8"):
        SOURCE.load(root, "train")


def test_unknown_split_and_missing_files_are_errors(small_root, tmp_path):
    root = small_root()
    with refused(DataError, "data.unknown-name", "validate"):
        SOURCE.load(root, "validate")
    with refused(DataError, "file.missing", "/nowhere"):
        SOURCE.load("/nowhere", "train")
    (tmp_path / TRAIN / "QAPairsByCategory" / "C3_Organ_train.txt").unlink()
    with refused(DataError, "file.missing", "C3_Organ_train.txt"):
        SOURCE.load(root, "train")
