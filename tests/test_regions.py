"""The region branch: what it adds, what it must never change, and its resampling against plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, assert_close, decode, golden_model, training_inputs, with_regions
from golden_model import logits_of as forward

from rllava_jax.config import RegionConfig
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma, positions_of
from rllava_jax.model.params import merge, split
from rllava_jax.model.region_encoders.align import align
from rllava_jax.model.resampling import align_corners_matrix, area_matrix

SLOTS = 2
CROP = 28
ENCODERS = [("crop",), ("align",), ("crop", "align")]
# XLA splits sums over a longer row differently: with no region the values agree, their last bit need not.
ROUNDING = 1e-6


def region_config(encoders, tokens=4):
    return RegionConfig(encoders=encoders, max_regions=SLOTS, tokens=tokens, crop_size=CROP)


def model_with(encoders):
    """The golden model with region parameters drawn at random: zero, as they start, some would not matter."""
    model, golden = golden_model(region_config(encoders))
    rng = np.random.default_rng(0)
    for param in (model.roi.geometry.kernel, model.roi.geometry.bias, model.roi.token_embedding, model.roi.inside):
        param[...] = jnp.asarray(rng.normal(size=param.shape), jnp.float32)
    return model, golden


def regions(valid, *, seed=0):
    """Random boxes, crops and outlines for the three golden examples."""
    rng = np.random.default_rng(seed)
    low, high = rng.uniform(0, 0.5, (3, SLOTS, 2)), rng.uniform(0.5, 1, (3, SLOTS, 2))
    return {
        "regions": jnp.asarray(np.concatenate([low, high], axis=-1), jnp.float32),
        "region_valid": jnp.broadcast_to(jnp.asarray(valid), (3, SLOTS)),
        "region_pixels": jnp.asarray(rng.uniform(-1, 1, (3, SLOTS, CROP, CROP, 3)), jnp.float32),
        "region_crop_coverage": jnp.asarray(rng.uniform(size=(3, SLOTS, CROP // 14, CROP // 14)), jnp.float32),
        "region_align_coverage": jnp.asarray(rng.uniform(size=(3, SLOTS, 2, 2)), jnp.float32),
    }


def logits_of(model, golden, given):
    return np.asarray(forward(model, training_inputs(golden, **given).truncated(11)))


def change(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


@pytest.mark.parametrize("encoders", ENCODERS)
def test_absent_regions_give_plain_logits(encoders):
    model, golden = model_with(encoders)
    plain, _ = golden_model()
    expected = logits_of(plain, golden, {})
    assert_close(logits_of(model, golden, regions([False, False])), expected, ROUNDING)
    assert change(expected, logits_of(model, golden, regions([True, False]))) > 1e-3


@pytest.mark.parametrize("encoders", ENCODERS)
@pytest.mark.slow
def test_a_batch_without_region_slots_is_one_whose_slots_are_empty(encoders):
    model, golden = model_with(encoders)
    empty = regions([False, False])
    without = {name: array[:, :0] for name, array in empty.items()}
    assert_close(logits_of(model, golden, without), logits_of(model, golden, empty), ROUNDING)


@pytest.mark.parametrize("encoders", ENCODERS)
@pytest.mark.slow
def test_absent_regions_leave_every_place_in_the_sequence_to_the_text(encoders):
    """Text positions are those of plain PaliGemma: RoPE would otherwise tell a gap."""
    model, golden = model_with(encoders)
    plain, _ = golden_model()
    inputs = dataclasses.replace(
        training_inputs(golden, **regions([False, False])), mask_input=jnp.asarray(golden["in/text"] != 0)
    )

    def places(model, inputs):
        return np.asarray(positions_of(model.embed(inputs).valid))[:, -inputs.text.shape[1] :]

    expected = places(plain, inputs)
    np.testing.assert_array_equal(places(model, inputs), expected)
    shown = places(model, with_regions(inputs, regions([True, False])))
    np.testing.assert_array_equal(shown, expected + 4 * len(encoders))


@pytest.mark.parametrize("name", ["regions", "region_pixels", "region_crop_coverage", "region_align_coverage"])
@pytest.mark.parametrize("valid", [[True, False], [False, True], [False, False]])
def test_what_stands_in_an_invalid_slot_has_no_influence(valid, name):
    model, golden = model_with(("crop", "align"))
    given, other = regions(valid), regions(valid, seed=1)
    invalid = ~np.asarray(given["region_valid"])
    mixed = jnp.where(invalid.reshape(*invalid.shape, *(1,) * (given[name].ndim - 2)), 100 * other[name], given[name])
    assert not np.array_equal(mixed, given[name])
    changed = logits_of(model, golden, given | {name: mixed})
    np.testing.assert_array_equal(changed, logits_of(model, golden, given))


@pytest.mark.parametrize(
    ("encoders", "name"),
    [
        (("crop",), "regions"),
        (("crop",), "region_pixels"),
        (("crop",), "region_crop_coverage"),
        (("align",), "regions"),
        (("align",), "region_align_coverage"),
    ],
)
def test_what_a_valid_region_shows_reaches_the_logits(encoders, name):
    model, golden = model_with(encoders)
    given, other = regions([True, False]), regions([True, False], seed=1)
    shown = logits_of(model, golden, given)
    assert change(shown, logits_of(model, golden, given | {name: other[name]})) > 1e-3


def test_pixels_of_the_image_reach_an_aligned_region_only_through_its_box():
    features = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0].set(1)
    boxes = jnp.asarray([[[0.0, 0.0, 0.25, 0.25], [0.5, 0.5, 1.0, 1.0]]])
    pooled = align(features, boxes, bins=2)
    assert pooled[0, 0].min() > 0
    assert pooled[0, 1].max() == 0


def test_two_regions_say_more_than_one_and_their_order_is_told():
    model, golden = model_with(("crop",))
    given = regions([True, True])
    both = logits_of(model, golden, given)
    assert change(both, logits_of(model, golden, regions([True, False]))) > 1e-3
    swapped = {name: value[:, ::-1] for name, value in given.items()}
    assert change(both, logits_of(model, golden, swapped)) > 1e-4


@pytest.mark.parametrize("encoders", ENCODERS)
def test_untrained_region_parameters_are_all_zero(encoders):
    model, _ = golden_model(region_config(encoders))
    flat = nnx.to_flat_state(nnx.state(model.roi, nnx.Param))
    assert {"/".join(path) for path, _ in flat} == {"geometry/kernel", "geometry/bias", "token_embedding", "inside"}
    for path, param in flat:
        assert not np.any(param[...]), path


@pytest.mark.parametrize("tokens", [4, 16])
@pytest.mark.slow
def test_an_untrained_crop_of_the_whole_image_gives_pooled_image_tokens(tokens):
    """Region tokens start in the space of the image tokens, which the decoder already reads."""
    side = CONFIG.vision.image_size
    model, golden = golden_model(RegionConfig(encoders=("crop",), tokens=tokens, crop_size=side))
    image = jnp.asarray(golden["in/image"])
    inputs = training_inputs(
        golden,
        regions=jnp.asarray([[[0.0, 0.0, 1.0, 1.0]]] * 3),
        region_valid=jnp.ones((3, 1), bool),
        region_pixels=image[:, None],
        region_crop_coverage=jnp.ones((3, 1, 4, 4)),
    )
    features = model.img.encode(image)[0].reshape(3, 4, 4, -1)
    bins = int(tokens**0.5)
    per_bin = 4 // bins
    expected = np.asarray(features).reshape(3, bins, per_bin, bins, per_bin, -1).mean(axis=(2, 4))
    sequence = jax.jit(model.embed)(inputs)
    assert_close(sequence.x[:, 16 : 16 + tokens], model.img.head(jnp.asarray(expected.reshape(3, tokens, -1))))


def test_an_outline_reaches_the_logits_once_inside_is_trained():
    model, golden = golden_model(region_config(("crop",)))
    given = regions([True, False])
    filled = given | {"region_crop_coverage": jnp.ones_like(given["region_crop_coverage"])}
    np.testing.assert_array_equal(logits_of(model, golden, given), logits_of(model, golden, filled))
    model.roi.inside[...] = jnp.ones_like(model.roi.inside[...])
    assert change(logits_of(model, golden, given), logits_of(model, golden, filled)) > 1e-4


@pytest.mark.parametrize("encoders", [(), ("overlay",), ("loc",), ("overlay", "loc")])
def test_overlay_and_loc_add_no_parameters_and_no_tokens(encoders):
    model, golden = golden_model(region_config(encoders))
    plain, _ = golden_model()
    assert split(model)[1].keys() == split(plain)[1].keys()
    np.testing.assert_array_equal(logits_of(model, golden, regions([True, True])), logits_of(plain, golden, {}))


@pytest.mark.slow
def test_every_token_making_encoder_adds_its_tokens_for_every_slot():
    inputs = training_inputs(golden_model()[1], **regions([True, True]))
    length = {encoders: model_with(encoders)[0].embed(inputs).x.shape[1] for encoders in ENCODERS}
    text = inputs.text.shape[1]
    assert length == {("crop",): 16 + 8 + text, ("align",): 16 + 8 + text, ("crop", "align"): 16 + 16 + text}


def test_a_batch_without_what_the_encoders_need_says_what_is_missing():
    model, golden = model_with(("crop",))
    given = regions([True, False])
    del given["region_pixels"]
    with pytest.raises(ValueError, match=r"Inputs\.region_pixels: missing"):
        logits_of(model, golden, given)


@pytest.mark.parametrize("encoders", ENCODERS)
@pytest.mark.slow
def test_absent_regions_decode_as_plain(encoders):
    model, golden = model_with(encoders)
    plain, _ = golden_model()
    prompt = Inputs(
        image=jnp.asarray(golden["in/image"]),
        text=jnp.asarray(golden["in/prompt_text"]),
        mask_ar=jnp.zeros_like(golden["in/prompt_text"]),
        mask_input=jnp.asarray(golden["in/prompt_mask"], bool),
    )
    expected = decode(plain, prompt, new_tokens=6, eos=-1)
    absent = decode(model, with_regions(prompt, regions([False, False])), new_tokens=6, eos=-1)
    np.testing.assert_array_equal(absent.tokens, expected.tokens)
    np.testing.assert_allclose(absent.log_prob, expected.log_prob, rtol=1e-5)
    shown = decode(model, with_regions(prompt, regions([True, True])), new_tokens=6, eos=-1)
    assert np.abs(shown.log_prob - expected.log_prob).max() > 1e-2


@pytest.mark.slow
def test_decoding_with_regions_equals_teacher_forcing():
    model, golden = model_with(("crop", "align"))
    prompt = dataclasses.replace(
        training_inputs(golden, **regions([True, False])),
        text=jnp.asarray(golden["in/prompt_text"]),
        mask_ar=jnp.zeros_like(golden["in/prompt_text"]),
        mask_input=jnp.asarray(golden["in/prompt_mask"], bool),
    )
    generated = decode(model, prompt, new_tokens=3, eos=-1)
    length = golden["in/prompt_mask"].sum(axis=1)
    width = prompt.text.shape[1] + 3
    text, causal, real = (np.zeros((3, width), np.int32) for _ in range(3))
    for row, start in enumerate(length):
        text[row, :start] = golden["in/prompt_text"][row, :start]
        text[row, start : start + 3] = generated.tokens[row]
        causal[row, start:] = 1
        real[row, : start + 3] = 1
    whole = forward(
        model,
        dataclasses.replace(prompt, text=jnp.asarray(text), mask_ar=jnp.asarray(causal), mask_input=real.astype(bool)),
    )
    for row, start in enumerate(length):
        np.testing.assert_array_equal(np.argmax(whole[row, start - 1 : start + 2], axis=-1), generated.tokens[row])


def bilinear(feature, y, x):
    """One sample of a [Y, X] map between its cells' centres, the map's edge held."""
    height, width = feature.shape
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * feature[top, left] + across * feature[top, right]
    lower = (1 - across) * feature[bottom, left] + across * feature[bottom, right]
    return (1 - down) * upper + down * lower


def plain_roi_align(feature, box, bins, samples=2):
    """RoIAlign as the usual implementations write it (aligned, sampling ratio 2), one sample at a time."""
    height, width = feature.shape
    start_y, start_x = box[0] * height - 0.5, box[1] * width - 0.5
    bin_height, bin_width = (box[2] - box[0]) * height / bins, (box[3] - box[1]) * width / bins
    pooled = np.zeros((bins, bins))
    for row in range(bins):
        for column in range(bins):
            for down in range(samples):
                for across in range(samples):
                    y = start_y + row * bin_height + (down + 0.5) * bin_height / samples
                    x = start_x + column * bin_width + (across + 0.5) * bin_width / samples
                    pooled[row, column] += bilinear(feature, y, x)
    return pooled / samples**2


@pytest.mark.parametrize("bins", [1, 2, 4])
@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 1.0, 1.0),
        (0.0, 0.0, 0.3, 0.2),
        (0.71, 0.55, 1.0, 1.0),
        (0.2, 0.31, 0.63, 0.9),
        (0.5, 0.5, 0.502, 0.501),
        (0.998, 0.0, 1.0, 0.002),
        (0.1, 0.45, 0.95, 0.46),
    ],
    ids=["whole", "top-left corner", "bottom-right corner", "inside", "tiny", "tiny at the corner", "sliver"],
)
def test_align_is_plain_roi_align(box, bins):
    feature = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    pooled = align(jnp.asarray(feature)[None, ..., None], jnp.asarray([[box]]), bins=bins)[0, 0, ..., 0]
    np.testing.assert_allclose(pooled, plain_roi_align(feature, box, bins), atol=1e-5)


def test_align_keeps_regions_images_and_channels_apart():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    boxes = np.array([[[0.1, 0.2, 0.6, 0.5], [0, 0, 1, 1]], [[0.5, 0.5, 0.9, 1], [0.3, 0, 0.4, 0.9]]], np.float32)
    pooled = align(jnp.asarray(features), jnp.asarray(boxes), bins=2)
    for image in range(2):
        for slot in range(2):
            for channel in range(3):
                expected = plain_roi_align(features[image, ..., channel], boxes[image, slot], 2)
                np.testing.assert_allclose(pooled[image, slot, ..., channel], expected, atol=1e-5)


@pytest.mark.slow
def test_gradients_are_finite_even_for_a_box_of_no_area():
    """Empty slots hold the box (0, 0, 0, 0)."""
    model, golden = model_with(("crop", "align"))
    graphdef, params = split(model)
    given = regions([True, False])
    given["regions"] = given["regions"].at[:, 1].set(0)
    inputs = training_inputs(golden, **given).truncated(11)
    gradients = jax.jit(jax.grad(lambda params: jnp.square(merge(graphdef, params)(inputs).logits).mean()))(params)
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        assert np.any(gradient), name


def test_align_corners_samples_first_and_last_cells():
    """`scipy.ndimage.zoom(order=1)` of 3 values to 5 and of 5 to 3, worked out by hand."""
    np.testing.assert_allclose(align_corners_matrix(5, 3) @ [1.0, 3.0, 9.0], [1, 2, 3, 6, 9])
    np.testing.assert_allclose(align_corners_matrix(3, 5) @ [1.0, 2.0, 3.0, 6.0, 9.0], [1, 3, 9])
    np.testing.assert_allclose(align_corners_matrix(4, 3) @ [0.0, 3.0, 0.0], [0, 2, 2, 0], rtol=1e-6)
    values = np.random.default_rng(0).normal(size=16)
    expected = np.interp(np.linspace(0, 15, 32), np.arange(16), values)
    np.testing.assert_allclose(align_corners_matrix(32, 16) @ values, expected, rtol=1e-5, atol=1e-6)


def test_area_pooling_shares_a_cell_on_a_bins_edge():
    np.testing.assert_allclose(area_matrix(2, 4), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(area_matrix(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(area_matrix(4, 2), [[1, 0], [1, 0], [0, 1], [0, 1]])


@pytest.mark.parametrize(("out", "size"), [(1, 5), (4, 4), (3, 7), (4, 8), (5, 3)])
def test_area_pooling_keeps_the_mean(out, size):
    matrix = area_matrix(out, size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(matrix.mean(axis=0), 1 / size, rtol=1e-6)
    if out == size:
        np.testing.assert_array_equal(matrix, np.eye(size))


def test_region_modules_of_a_plain_model_do_not_exist():
    plain = nnx.eval_shape(lambda: PaliGemma(CONFIG, RegionConfig(encoders=()), rngs=nnx.Rngs(0)))
    assert not hasattr(plain, "roi")
