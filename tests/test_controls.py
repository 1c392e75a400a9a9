"""What each control shows: facts about pictures and regions, and which picture a shuffled question gets."""

import io

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.conditions import ASKED, CORRUPTED
from data_pipelines.core.errors import DataError
from data_pipelines.images.corruptions import corrupted, noise_image
from data_pipelines.images.pixels import resize
from data_pipelines.loading.controls import ShuffledImages
from data_pipelines.loading.evaluation_batches import evaluation_batches, requests_under
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import MaskFile, Region, VQAExample
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import Config, ConfigError, DataConfig, EvaluationConfig, RegionConfig
from rllava_jax.config.loading import validated
from rllava_jax.config.stored import from_json, to_json

LEFT = Region((0.1, 0.1, 0.5, 0.5), "Liver", mask=MaskFile("a mask of another size"))
PLAIN = Region(LEFT.box, LEFT.label)
SIZE = 28


def picture(number):
    """64 x 64, unlike every other number's."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (8, 8), np.uint8)
    return np.repeat(np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.BILINEAR))[:, :, None], 3, 2)


def example(number, image=None, regions=(PLAIN,)):
    image = number if image is None else image
    buffer = io.BytesIO()
    Image.fromarray(picture(image)).save(buffer, "PNG")
    return VQAExample(
        f"made/{number}", "made", "test", buffer.getvalue(), f"image{image}", "which one?", "liver", family="identify",
        regions=regions,
    )  # fmt: skip


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    path = tmp_path_factory.mktemp("controls") / "t.model"
    tokenizer = train_tokenizer(["answer en which one? liver"], path, vocab_size=300)
    regions = RegionConfig(crop_size=SIZE, tokens=4, crop_context=1.0, crop_min_pixels=1)
    return Preprocessor(SIZE, 14, regions, DataConfig(text_length=64), tokenizer)


def shown_under(preprocessor, condition, examples=None):
    """The first example's arrays."""
    examples = examples or [example(n) for n in range(4)]
    batch, rows = next(
        evaluation_batches(requests_under(examples, condition, ("random",)), preprocessor, len(examples))
    )
    assert [one.example.id for one in rows] == [one.id for one in examples]
    return {name: array[0] for name, array in batch.items()}


@pytest.fixture(scope="module")
def right(preprocessor):
    return shown_under(preprocessor, "right")


def test_blank_is_a_grey_image_with_the_right_region(preprocessor, right):
    blank = shown_under(preprocessor, "blank")
    assert (blank["image"] == 127).all()
    assert (blank["region_pixels"] == 127).all()
    assert (blank["regions"] == right["regions"]).all()
    assert blank["region_valid"].all()


def test_question_only_is_a_grey_image_and_no_region(preprocessor, right):
    asked = shown_under(preprocessor, "question_only")
    assert (asked["image"] == 127).all()
    assert not asked["region_valid"].any()
    assert not asked["region_pixels"].any()
    assert (asked["text"] == right["text"]).all()


def test_no_region_is_the_image_alone(preprocessor, right):
    none = shown_under(preprocessor, "none")
    assert (none["image"] == right["image"]).all()
    assert not none["region_valid"].any()


def test_noise_is_a_noise_image_of_which_the_region_shows_a_part(preprocessor, right):
    noise = shown_under(preprocessor, "noise")
    whole = noise_image(picture(0), "made/0")
    assert (noise["image"] == resize(whole, SIZE)).all()
    assert abs(np.corrcoef(noise["image"].ravel(), right["image"].ravel())[0, 1]) < 0.2
    assert (noise["regions"] == right["regions"]).all()
    assert (noise["region_pixels"] != right["region_pixels"]).mean() > 0.9


def test_shuffled_is_another_questions_image_with_the_right_box(preprocessor, right):
    shuffled = shown_under(preprocessor, "shuffled")
    others = [resize(picture(n), SIZE) for n in range(1, 4)]
    assert sum((shuffled["image"] == other).all() for other in others) == 1
    assert (shuffled["regions"] == right["regions"]).all()
    assert (shuffled["region_pixels"] != right["region_pixels"]).mean() > 0.5


@pytest.mark.parametrize("condition", ["corrupted:noise:3", "corrupted:blur:5", "corrupted:occlusion:1"])
def test_the_crop_sees_the_corrupted_pixels_of_the_original(preprocessor, right, condition):
    _, kind, level = condition.split(":")
    made = corrupted(picture(0), kind, int(level), "made/0")
    seen = shown_under(preprocessor, condition)
    expected = shown_under(preprocessor, "right", [png_example(made)])
    for name in ("image", "region_pixels", "regions", "region_valid", "text"):
        assert (seen[name] == expected[name]).all(), name
    assert (seen["image"] != right["image"]).any()


def png_example(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return VQAExample("made/0", "made", "test", buffer.getvalue(), "x", "which one?", "liver", "identify",
                      regions=(Region(LEFT.box),))  # fmt: skip


def test_a_shuffled_image_is_never_the_questions_own():
    examples = [example(n, image=n % 7) for n in range(60)]
    images = ShuffledImages(examples)
    own = {one.image_id: one.image for one in examples}
    drawn = [images.under(one) for one in examples]
    assert all(other.image != own[one.image_id] for one, other in zip(examples, drawn, strict=True))
    assert {other.image for other in drawn} == set(own.values())  # and every image is some question's
    assert [other.id for other in drawn] == [one.id for one in examples]


def test_two_images_are_swapped():
    one, other = example(0), example(1)
    images = ShuffledImages([one, other])
    assert images.under(one).image == other.image
    assert images.under(other).image == one.image


def test_a_shuffled_image_depends_on_the_question_and_the_split_alone():
    examples = [example(n, image=n % 7) for n in range(30)]
    first, backwards = ShuffledImages(examples), ShuffledImages(examples[::-1])
    assert all(first.under(one) == backwards.under(one) for one in examples)


def test_an_outline_does_not_follow_to_another_image():
    shuffled = ShuffledImages([example(0), example(1)]).under(example(0, regions=(LEFT,)))
    assert shuffled.regions == (Region(LEFT.box, "Liver"),)


def test_a_split_of_one_image_cannot_be_shuffled():
    with pytest.raises(DataError, match="'shuffled' needs another image"):
        ShuffledImages([example(0), example(1, image=0)]).under(example(0))


@pytest.mark.parametrize(
    ("said", "meant"),
    [("nosie", "'noise'"), ("corrupted:blurr:2", "'corrupted:blur:2'"), ("corrupted:blur:6", "'corrupted:blur:"),
     ("question only", "'question_only'"), ("trust:right", "'right'"), ("zzz", "right, none")],
)  # fmt: skip
def test_a_condition_misspelt_is_refused_and_the_nearest_named(said, meant):
    with refused(ConfigError, "config.invalid-value", "evaluation.conditions", repr(said), meant):
        validated(Config(evaluation=EvaluationConfig(conditions=("right", said))))


def test_a_condition_that_no_evaluation_asks_is_no_picture(preprocessor):
    with pytest.raises(DataError, match="condition 'rihgt'"):
        shown_under(preprocessor, "rihgt")


def test_every_control_may_be_asked_and_is_stored():
    config = Config(evaluation=EvaluationConfig(conditions=ASKED))
    validated(config)
    assert from_json(to_json(config)) == config
    assert len(CORRUPTED) == 25
    assert len(ASKED) == 4 + 3 + 25
