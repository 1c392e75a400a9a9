"""The example of docs/ measures an exported folder through transformers as the project measures the model itself."""

import importlib.util
import io
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from remote_code_folders import NEW_TOKENS, export, picture, tiny_config

from data_pipelines.records import Region, VQAExample
from rllava_jax.config import Config, MeshConfig
from rllava_jax.evaluation.trust import boxes_file
from rllava_jax.evaluation.trust.models import measure, measure_predictor
from rllava_jax.inference.generator import Generator
from rllava_jax.inference.predictor import Predictor
from rllava_jax.model.sharding import make_mesh

EXAMPLE = Path(__file__).parents[1] / "docs" / "trust_exported_model.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("trust_exported_model", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image(seed):
    encoded = io.BytesIO()
    Image.fromarray(picture(80, 96, seed)).save(encoded, "PNG")
    return encoded.getvalue()


def boxes():
    examples = [
        VQAExample(
            f"q{i}", "toy", "test", image(i), f"i{i}", "what is the marked structure", name, family="identify",
            regions=(Region((0.4, 0.1, 0.6, 0.4), name),), distractors=(Region((0.1, 0.6, 0.3, 0.9), other),),
        )
        for i, (name, other) in enumerate((("liver", "left lung"), ("right kidney", "liver")))
    ]  # fmt: skip
    settings = {"languages": ["en"], "window": "auto", "seed": 0, "max_regions": 1}
    return boxes_file.make(examples, lambda _: (96, 80), source="toy", split="test", settings=settings)


@pytest.mark.slow
def test_the_example_answers_as_the_model_itself_under_every_variant(example, tmp_path):
    exported = export(tiny_config(("crop", "align")), tmp_path / "folder")
    asked, sources = boxes(), {f"i{i}": image(i) for i in range(2)}
    mesh = make_mesh(MeshConfig(data=1), jax.local_devices()[:1])
    generator = Generator(exported.graphdef, exported.tokenizer, mesh, new_tokens=NEW_TOKENS)
    predictor = Predictor(
        exported.preprocessor, generator, exported.params, checkpoint=exported.folder, config=Config(), files={}
    )
    ours, run = measure_predictor(predictor, asked, sources, model={}, batch_size=3, most_questions=1)
    theirs, _ = measure(
        example.answers_of(exported.folder, NEW_TOKENS),
        asked,
        lambda question: Image.open(io.BytesIO(sources[question.image_id])).convert("RGB"),
        name="exported",
        most_regions=2,
        most_questions=1,
    )
    assert run.most_regions == 2
    assert [(p.id, p.condition, p.prediction) for p in theirs] == [(p.id, p.condition, p.prediction) for p in ours]
    # As shares of each other: the probability of six random tokens is small.
    shares = [a.confidence / b.confidence for a, b in zip(theirs, ours, strict=True)]
    np.testing.assert_allclose(shares, 1, rtol=2e-3)
    assert {p.condition for p in ours} >= {"trust:two", "trust:contradicted", "trust:tiny"}
    assert len({p.log_prob for p in ours}) > 10  # the box matters to this model
