import logging

import pytest
from expected_errors import refused

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.loading.checks import check_leaks
from data_pipelines.records import VQAExample
from data_pipelines.sources import slake, vqa_rad


def example(image_id, image=b"", split="train", dataset="toy"):
    return VQAExample(f"{split}/{image_id}", dataset, split, image or image_id.encode(), image_id, "Why?", "So.")


TRAIN = [example(f"train{i}") for i in range(3)]


def test_disjoint_splits_pass():
    check_leaks(TRAIN, [example("test0")], allowed=False)


def test_shared_name_is_refused_and_named():
    with refused(DataError, "data.leak", "1", "2", "train1", "allow_test_images"):
        check_leaks(TRAIN, [example("train1", b"other bytes"), example("test0")], allowed=False)


def test_shared_bytes_under_another_name_are_refused(tmp_path):
    file = tmp_path / "copy.png"
    file.write_bytes(b"train2")
    with refused(DataError, "data.leak", "copy.png"):
        check_leaks(TRAIN, [example("copy.png", str(file))], allowed=False)


def test_equal_names_in_two_data_sets_are_two_images():
    check_leaks(TRAIN, [example("train1", b"other bytes", dataset="other")], allowed=False)


def test_ten_are_named_and_the_rest_counted():
    train = [example(f"image{i:02d}") for i in range(12)]
    with pytest.raises(DataError) as caught:
        check_leaks(train, train, allowed=False)
    assert "12 of 12" in str(caught.value)
    assert "image09 and 2 more" in str(caught.value)
    assert "image10" not in str(caught.value)


def test_allowed_leaks_are_logged(caplog):
    with caplog.at_level(logging.WARNING):
        check_leaks(TRAIN, TRAIN, allowed=True)
    assert "3 of 3 test images" in caplog.text


def test_unreadable_file_is_named(tmp_path):
    with refused(ImageError, "image.unreadable", "gone.png"):
        check_leaks(TRAIN, [example("gone.png", str(tmp_path / "gone.png"))], allowed=False)


def test_slake_english_does_not_leak(slake_root):
    train, test = (slake.load(slake_root, split).examples for split in ("train", "test"))
    check_leaks(train, test, allowed=False)


def test_slake_in_both_languages_leaks_72_english_test_images_into_training(slake_root):
    train = slake.load(slake_root, "train", languages=("en", "zh")).examples
    test = slake.load(slake_root, "test", languages=("en",)).examples
    # 72 by the published splits, of which xmlab25 may have no image here.
    with pytest.raises(DataError, match=r"7[12] of 9[56] test images"):
        check_leaks(train, test, allowed=False)


def test_vqa_rad_leaks_202_of_its_203_test_images(vqa_rad_root):
    train, test = (vqa_rad.load(vqa_rad_root, split).examples for split in ("train", "test"))
    with pytest.raises(DataError, match="202 of 203 test images"):
        check_leaks(train, test, allowed=False)
    check_leaks(train, test, allowed=True)
