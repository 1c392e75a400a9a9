"""A region encoder is added in one file, this one: the mean colour of the region as one token a slot.

Nothing in the project knows it; preprocessing, model, training, planning, model card and export find it by its name.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from expected_errors import refused
from flax import nnx
from golden_model import assert_close, golden_model, logits_of, training_inputs
from jax.sharding import PartitionSpec
from small_runs import BATCH, CONFIG, SMALL, batch, run_of
from test_preprocess import BOX, PATCH, SIZE, example, picture
from tiny_models import tokenizer_file

from data_pipelines.core.errors import ConfigError
from data_pipelines.loading.evaluation_batches import evaluation_batches, requests_under
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.regions.encoders.protocol import ENCODERS, ArraySpec, RegionEncoder
from data_pipelines.regions.policy import NOTHING, Shown
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.config import DataConfig, MeshConfig, RegionConfig
from rllava_jax.interop.export_checkpoint import export_checkpoint
from rllava_jax.model.params import abstract
from rllava_jax.model.partition_rules import check_rules, register_rules
from rllava_jax.model.region_encoders.protocol import ENCODERS as TOKEN_ENCODERS
from rllava_jax.model.region_encoders.protocol import Product, TokenEncoder
from rllava_jax.model.sharding import make_mesh
from rllava_jax.planning.flops import sequence_length, training_flops
from rllava_jax.planning.plan import abstract_batch

NAME = "mean_colour"
# The toy, whole --------------------------------------------------------------------------------------------------


class MeanColour(RegionEncoder):
    """Data half: one colour a region."""

    name = NAME
    summary = "`mean_colour` (the region's mean colour as a token)"

    def specs(self, config, patch):
        return {"region_mean_colour": ArraySpec(np.float32, (3,))}

    def arrays(self, image, region, config, patch):
        height, width = image.pixels.shape[:2]
        y0, x0, y1, x1 = (np.array(region.box) * (height, width, height, width)).round().astype(int)
        return {"region_mean_colour": image.tone[image.pixels[y0:y1, x0:x1]].mean(axis=(0, 1)) / 127.5 - 1}


class Colour(nnx.Module):
    """Its parameters."""

    def __init__(self, width, rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (3, width)))


class MeanColourToken(TokenEncoder):
    """Model half: a matrix makes a token of the colour."""

    name = NAME

    def tokens(self, config):
        return 1

    def parameters(self, config, vision, rngs):
        return Colour(vision.width, rngs)

    def encode(self, scene, config, parameters):
        colour = scene.inputs.given("region_mean_colour").astype(scene.features.dtype)
        return (colour @ parameters.kernel[...].astype(colour.dtype))[:, :, None]

    def products(self, config, vision):
        yield Product(2.0 * config.max_regions * 3 * vision.width, "arrays", f"roi/{NAME}/kernel")


ENCODERS.register(NAME, MeanColour())
TOKEN_ENCODERS.register(NAME, MeanColourToken())
register_rules(f"roi/{NAME}", {"kernel": (None, "fsdp")})

# What it gets from the project -----------------------------------------------------------------------------------

BOTH = dataclasses.replace(CONFIG, regions=dataclasses.replace(CONFIG.regions, encoders=(NAME, "crop")))
ALONE = dataclasses.replace(CONFIG, regions=dataclasses.replace(CONFIG.regions, encoders=(NAME,)))


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    tokenizer = Tokenizer(tokenizer_file(), "tiny")
    regions = RegionConfig(encoders=(NAME,), max_regions=2)
    return Preprocessor(SIZE, PATCH, regions, DataConfig(text_length=64), tokenizer)


def test_preprocessing_makes_its_array_and_zeros_where_no_region_is(preprocessor):
    colour = preprocessor.evaluation(example(), Shown(example().regions, "right"))["region_mean_colour"]
    assert colour.shape == (2, 3)
    height, width = picture().shape[:2]
    inside = picture()[int(BOX[0] * height) : int(BOX[2] * height), int(BOX[1] * width) : int(BOX[3] * width)]
    assert colour[0] == pytest.approx(inside.mean(axis=(0, 1)) / 127.5 - 1)
    assert not colour[1].any()
    assert not preprocessor.evaluation(example(), NOTHING)["region_mean_colour"].any()


def test_batches_of_an_evaluation_hold_its_array(preprocessor):
    (arrays, _), *_ = evaluation_batches(requests_under([example()], "right", ("shifted",)), preprocessor, 2)
    assert arrays["region_mean_colour"].shape == (2, 2, 3)


def colours():
    return np.random.default_rng(0).uniform(-1, 1, (BATCH, 2, 3)).astype(np.float32)


def test_one_step_trains_it_on_eight_devices():
    run = run_of(BOTH, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    name = f"roi/{NAME}/kernel"
    assert run.shardings.params[name].spec == PartitionSpec(None, "fsdp")
    metrics, state = run.train(batch() | {"region_mean_colour": colours()})
    assert np.isfinite(metrics[0]["loss"])
    assert not np.array_equal(state.params[name], run.initial.params[name])


def test_every_parameter_of_a_model_with_it_alone_has_its_rule():
    _, params = abstract(ALONE, vocab=64)
    assert {name for name in params if name.startswith("roi/")} == {
        "roi/geometry/bias",
        "roi/geometry/kernel",
        f"roi/{NAME}/kernel",
    }
    check_rules(params)


def test_planning_counts_its_bytes_tokens_and_operations():
    assert abstract_batch(ALONE, SMALL)["region_mean_colour"].shape == (ALONE.train.batch_size, 2, 3)
    plain = dataclasses.replace(CONFIG, regions=RegionConfig(encoders=()))
    assert sequence_length(ALONE, SMALL) - sequence_length(plain, SMALL) == 2
    vision, decoder = SMALL.vision, SMALL.decoder
    names = abstract(ALONE, vocab=64)[1]
    (found,) = (flops for flops in training_flops(ALONE, SMALL, names) if flops.part == "regions")
    geometry, head = 2 * 2 * 128 * vision.width, 2 * 2 * vision.width * decoder.width
    assert found.forward == 2 * 2 * 3 * vision.width + geometry + head
    assert found.backward == 2 * 2 * 3 * vision.width + geometry + 2 * head


def test_without_a_valid_region_logits_are_those_of_plain_paligemma():
    plain, golden = golden_model()
    model, _ = golden_model(RegionConfig(encoders=(NAME,), max_regions=2))
    given = {
        "regions": jnp.asarray(np.tile([0.1, 0.2, 0.6, 0.7], (3, 2, 1)), jnp.float32),
        "region_mean_colour": jnp.asarray(colours()[:3]),
    }
    expected = np.asarray(plain(training_inputs(golden)).logits)
    absent = training_inputs(golden, **given, region_valid=jnp.zeros((3, 2), bool))
    assert_close(logits_of(model, absent), expected, 2e-6)
    shown = logits_of(model, training_inputs(golden, **given, region_valid=jnp.ones((3, 2), bool)))
    assert np.abs(np.asarray(shown) - expected).max() > 1e-3


# What is said of it ----------------------------------------------------------------------------------------------


def test_the_model_card_names_it():
    from test_model_card import card, checkpoint

    assert MeanColour.summary in card(checkpoint(config=ALONE))


def test_export_refuses_it_in_one_line(tmp_path):
    from converted import write_checkpoint

    tokenizer = Tokenizer(tokenizer_file(), "tiny")
    config = dataclasses.replace(ALONE, model=dataclasses.replace(ALONE.model, vocab=tokenizer.vocab_size))
    params = abstract(config, vocab=tokenizer.vocab_size)[1]
    arrays = {name: np.zeros(shape.shape, np.float32) for name, shape in params.items()}
    write_checkpoint(tmp_path / "run", config, arrays, tokenizer)
    with refused(ConfigError, "export.unsupported", "regions.encoders", NAME, "--plain"):
        export_checkpoint(tmp_path / "run", tmp_path / "exported")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match=NAME):
        ENCODERS.register(NAME, MeanColour())
    with pytest.raises(ValueError, match=NAME):
        TOKEN_ENCODERS.register(NAME, MeanColourToken())


def test_no_other_file_names_an_encoder():
    """Their own packages do, and what travels with exported folders; `["loc"]` is pydantic's place of an error."""
    names, root = {"crop", "align", "overlay", "loc"}, Path(__file__).parents[1]
    own = ("data_pipelines/regions/encoders/", "rllava_jax/model/region_encoders/", "rllava_jax/interop/remote_code/")
    found = []
    for package in ("rllava_jax", "data_pipelines"):
        for path in (root / package).rglob("*.py"):
            where = path.relative_to(root).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"))
            keys = {id(node.slice) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
            for node in ast.walk(tree):
                if not isinstance(node, ast.Constant) or node.value not in names or where.startswith(own):
                    continue
                if not (node.value == "loc" and id(node) in keys):
                    found.append(f"{where}:{node.lineno}: {node.value!r}")
    settings = "data_pipelines/settings.py"
    assert [line.split(":")[0] for line in found] == [settings], found  # the default of `regions.encoders`
