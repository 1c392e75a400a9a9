"""One example to arrays: shapes, frames of reference, augmentation, and what is refused."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.images import reading
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import MaskFile, Region, VQAExample
from data_pipelines.regions.boxes import boxes_from_text, iou
from data_pipelines.regions.policy import Shown
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import AugmentConfig, DataConfig, PolicyConfig, RegionConfig

SIZE, PATCH, CROP = 56, 14, 28
BOX = (0.25, 0.5, 0.5, 0.75)
LIVER = Region(BOX, "liver")
RIGHT = Shown((LIVER,), "right")
NONE = Shown((), "none")
ALL = ("crop", "align", "overlay", "loc")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    texts = ["answer en what is the marked structure?", "liver", "detect spleen"] * 5
    return train_tokenizer(texts, tmp_path_factory.mktemp("preprocess") / "small.model", vocab_size=320)


def picture(height: int = 120, width: int = 80) -> np.ndarray:
    """Dark, with the liver's box bright: pixels say where they come from."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[height // 4 : height // 2, width // 2 : 3 * width // 4] = 200
    return image


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def example(**changes) -> VQAExample:
    fields = {
        "id": "toy/1",
        "dataset": "toy",
        "split": "train",
        "image": png(picture()),
        "image_id": "one",
        "question": "what is the marked structure?",
        "answer": "liver",
        "family": "identify",
        "regions": (LIVER,),
    }
    return VQAExample(**{**fields, **changes})


@pytest.fixture
def build(tokenizer):
    def make(
        encoders=("crop",), *, slots=2, shown=1.0, wrong=0.0, augment=None, text_length=64, outlines=True
    ) -> Preprocessor:
        regions = RegionConfig(
            encoders=encoders,
            max_regions=slots,
            tokens=4,
            crop_size=CROP,
            crop_context=1.0,
            crop_min_pixels=1,
            outlines=outlines,
        )
        policy = PolicyConfig(shown=shown, wrong=wrong)
        data = DataConfig(text_length=text_length, policy=policy, augment=augment or AugmentConfig())
        return Preprocessor(SIZE, PATCH, regions, data, tokenizer)

    return make


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_shapes_and_dtypes_are_the_same_with_and_without_regions_in_training_and_evaluation(build):
    expected = {
        "image": ("uint8", (SIZE, SIZE, 3)),
        "text": ("int32", (64,)),
        "mask_ar": ("int32", (64,)),
        "mask_loss": ("int32", (64,)),
        "mask_input": ("int32", (64,)),
        "regions": ("float32", (2, 4)),
        "region_valid": ("bool", (2,)),
        "region_pixels": ("uint8", (2, CROP, CROP, 3)),
        "region_crop_coverage": ("float32", (2, 2, 2)),
        "region_align_coverage": ("float32", (2, 2, 2)),
    }
    cases = [
        build(ALL).training(example(), rng()),
        build(ALL, shown=0.0).training(example(), rng()),
        build(ALL).evaluation(example(), RIGHT),
        build(ALL).evaluation(example(), NONE, condition="blank"),
    ]
    for arrays in cases:
        assert {name: (str(a.dtype), a.shape) for name, a in arrays.items()} == expected


def test_only_the_arrays_of_the_chosen_encoders_exist(build):
    common = {"image", "text", "mask_ar", "mask_loss", "mask_input", "regions", "region_valid"}
    assert set(build(("overlay", "loc")).evaluation(example(), RIGHT)) == common
    assert set(build(("align",)).evaluation(example(), RIGHT)) == common | {"region_align_coverage"}


def test_empty_slots_hold_zeros(build):
    arrays = build(ALL).evaluation(example(), RIGHT)
    assert arrays["region_valid"].tolist() == [True, False]
    for name in ("regions", "region_pixels", "region_crop_coverage", "region_align_coverage"):
        assert arrays[name][0].any()
        assert not arrays[name][1].any()


def test_an_unshown_region_leaves_no_trace(build):
    with_region = build(ALL, shown=0.0).training(example(), rng())
    without = build(ALL).training(example(regions=()), rng())
    assert with_region.keys() == without.keys()
    for name, array in with_region.items():
        assert (array == without[name]).all(), name


def test_evaluation_sees_the_resized_image_and_the_prompt_alone(build, tokenizer):
    arrays = build().evaluation(example(), RIGHT)
    assert (arrays["image"] == reading.resize(picture(), SIZE)).all()
    assert arrays["regions"][0] == pytest.approx(BOX)
    assert not arrays["mask_loss"].any()
    real = arrays["text"][arrays["mask_input"] == 1]
    assert tokenizer.decode(real) == "answer en what is the marked structure?\n"


def test_training_learns_the_answer_and_eos(build, tokenizer):
    arrays = build().training(example(), rng())
    assert arrays["text"][arrays["mask_loss"] == 1].tolist() == [*tokenizer.encode("liver"), tokenizer.eos_id]


def test_crop_comes_from_the_original_pixels(build):
    """Stripes of one pixel: gone from the resized image, whole in the crop."""
    image = np.zeros((560, 560, 3), np.uint8)
    image[140:168:2, 140:168] = 255
    region = Region((0.25, 0.25, 0.3, 0.3), "stripes")
    arrays = build().evaluation(example(image=png(image), regions=(region,)), Shown((region,), "right"))
    assert (arrays["region_pixels"][0] == image[140:168, 140:168]).all()
    assert arrays["image"].max() < 140


def test_blank_hides_image_and_crops_and_keeps_the_region(build):
    arrays = build(("crop", "align")).evaluation(example(), RIGHT, condition="blank")
    assert (arrays["image"] == 127).all()
    assert (arrays["region_pixels"][0] == 127).all()
    assert arrays["regions"][0] == pytest.approx(BOX)
    assert arrays["region_valid"][0]


def test_blank_arrays_do_not_depend_on_the_picture(build):
    one = build(ALL).evaluation(example(), RIGHT, condition="blank")
    other = build(ALL).evaluation(example(image=png(255 - picture())), RIGHT, condition="blank")
    for name, array in one.items():
        assert (array == other[name]).all(), name


def test_overlay_marks_the_image_and_not_the_crop(build):
    plain, drawn = (build((*e, "crop")).evaluation(example(), RIGHT) for e in ((), ("overlay",)))
    assert (plain["image"] != drawn["image"]).any()
    assert (plain["region_pixels"] == drawn["region_pixels"]).all()


def test_loc_encoder_writes_the_shown_box_into_the_prompt(build, tokenizer):
    arrays = build(("loc",)).evaluation(example(), RIGHT)
    text = tokenizer.decode(arrays["text"][arrays["mask_input"] == 1])
    assert text == "answer en <loc0256><loc0512><loc0512><loc0767> what is the marked structure?\n"
    assert "<loc" not in tokenizer.decode(build(("loc",)).evaluation(example(), NONE)["text"])


def test_box_covers_its_own_crop_as_far_as_it_fills_the_square_window(build):
    arrays = build(("crop", "align")).evaluation(example(), RIGHT)
    # The box is 30 x 20 pixels; the window 30 x 30 around it.
    assert arrays["region_crop_coverage"][0] == pytest.approx(np.full((2, 2), 2 / 3), abs=1e-5)
    assert (arrays["region_align_coverage"][0] == 1).all()


def mask_region(tmp_path, box=BOX, *, level=70) -> Region:
    """The left half of the box, and a stray pixel elsewhere that is not this region's."""
    mask = np.zeros((120, 80), np.uint8)
    mask[30:60, 40:50] = 70
    mask[100, 5] = 70
    path = tmp_path / "mask.png"
    Image.fromarray(mask).save(path)
    return Region(box, "liver", mask=MaskFile(str(path), level))


def test_mask_and_polygon_of_the_same_shape_cover_the_same(build, tmp_path):
    polygon = Region(BOX, "liver", polygon=((0.25, 0.5), (0.25, 0.625), (0.5, 0.625), (0.5, 0.5)))
    by_mask = build(ALL).evaluation(example(), Shown((mask_region(tmp_path),), "right"))
    by_polygon = build(ALL).evaluation(example(), Shown((polygon,), "right"))
    assert by_mask["region_align_coverage"][0] == pytest.approx(np.array([[1, 0], [1, 0]]))
    assert by_mask["region_crop_coverage"][0].mean() == pytest.approx(1 / 3, abs=1e-5)
    for name, array in by_mask.items():
        assert array == pytest.approx(by_polygon[name], abs=1e-6), name


def test_without_outlines_a_mask_counts_as_its_box(build, tmp_path):
    plain = build(ALL, outlines=False)
    by_mask = plain.evaluation(example(), Shown((mask_region(tmp_path),), "right"))
    by_box = plain.evaluation(example(), Shown((Region(BOX, "liver"),), "right"))
    for name, array in by_mask.items():
        np.testing.assert_array_equal(array, by_box[name], err_msg=name)


def test_overlay_follows_the_mask(build, tmp_path):
    by_mask = build(("overlay",)).evaluation(example(), Shown((mask_region(tmp_path),), "right"))["image"]
    changed = (by_mask != reading.resize(picture(), SIZE)).any(axis=-1)
    columns = np.nonzero(changed)[1]
    assert (columns.min(), columns.max()) == (28, 34)  # 40..50 of 80 pixels, seen at 56


def test_jitter_moves_the_box_by_at_most_two_deviations(build):
    jittered = build(augment=AugmentConfig(box_jitter=0.1))
    seen = np.array([jittered.training(example(), rng(seed))["regions"][0] for seed in range(100)])
    assert len(np.unique(seen, axis=0)) == 100
    assert np.abs(seen - BOX).max() < 0.25 * (0.2 + 0.5 * (np.exp(0.2) - 1)) + 1e-6
    assert seen.mean(axis=0) == pytest.approx(BOX, abs=0.02)


def test_random_window_keeps_the_shown_region_and_reexpresses_its_box(build):
    cropped = build(("crop", "loc"), augment=AugmentConfig(crop=0.5))
    still = build(("crop", "loc")).training(example(), rng())
    sides = []
    for seed in range(60):
        arrays = cropped.training(example(), rng(seed))
        y0, x0, y1, x1 = arrays["regions"][0]
        sides.append(y1 - y0)
        bright = arrays["image"][..., 0] > 150
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        found = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / SIZE
        assert np.abs(found - (y0, x0, y1, x1)).max() < 1.5 / SIZE
        assert (arrays["region_pixels"] == still["region_pixels"]).all()
        text = cropped.tokenizer.decode(arrays["text"])
        assert iou(boxes_from_text(text)[0], (y0, x0, y1, x1)) > 0.97
    assert min(sides) == pytest.approx(0.25, abs=0.03)
    assert max(sides) == pytest.approx(0.5, abs=0.05)


def test_localise_examples_keep_the_whole_image_as_their_answer_is_a_place_in_it(build):
    detect = example(family="localise", task="detect", question="liver", answer="<loc0256> liver", regions=())
    arrays = build(augment=AugmentConfig(crop=0.5)).training(detect, rng())
    assert (arrays["image"] == reading.resize(picture(), SIZE)).all()


def test_tone_changes_image_and_crop_alike(build):
    toned = build(augment=AugmentConfig(brightness=0.2, contrast=0.3))
    levels = set()
    for seed in range(10):
        arrays = toned.training(example(), rng(seed))
        inside = int(arrays["image"][20, 34, 0])
        assert inside == arrays["region_pixels"][0, 14, 14, 0]
        levels.add(inside)
    assert len(levels) > 5


def test_the_same_draws_give_the_same_arrays_also_after_pickling(build):
    augment = AugmentConfig(crop=0.3, box_jitter=0.1, brightness=0.1, contrast=0.1)
    preprocessor = build(ALL, wrong=0.5, augment=augment)
    copy = pickle.loads(pickle.dumps(preprocessor))
    for seed in range(5):
        one, other = preprocessor.training(example(), rng(seed)), copy.training(example(), rng(seed))
        for name, array in one.items():
            assert (array == other[name]).all(), name


def test_more_regions_than_slots_is_an_error_naming_the_setting(build):
    with refused(DataError, "data.too-many-regions", "toy/1", "2 regions", "regions.max_regions = 1"):
        build(slots=1).evaluation(example(), Shown((LIVER, LIVER), "right"))


def test_mask_of_another_size_is_refused_by_name(build, tmp_path):
    region = mask_region(tmp_path)
    with refused(DataError, "data.invalid-region", "mask.png", "80 x 120", "50 x 50", "toy/1"):
        build().evaluation(example(image=png(picture(50, 50))), Shown((region,), "right"))


def test_mask_with_nothing_in_its_box_is_refused(build, tmp_path):
    region = mask_region(tmp_path, level=33)
    with refused(DataError, "data.invalid-region", "mask.png", "'liver'", "toy/1"):
        build().evaluation(example(), Shown((region,), "right"))


def test_unreadable_image_is_named_by_its_example(build):
    with pytest.raises(ImageError, match="toy/1: image cannot be read"):
        build().evaluation(example(image=b"no image"), NONE)


def test_text_that_does_not_fit_is_named(build):
    with refused(DataError, "data.too-long", "toy/1", "data.text_length = 8"):
        build(text_length=8).training(example(), rng())


def test_wrong_regions_are_what_the_policy_says(build):
    wrong = build(wrong=1.0)
    shown = dataclasses.replace(LIVER)
    for seed in range(20):
        box = tuple(wrong.training(example(regions=(shown,)), rng(seed))["regions"][0].tolist())
        assert np.abs(np.array(box) - BOX).max() > 0.05
