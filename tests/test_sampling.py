"""Sampled runs: drawn anew in every run and batch, and the same again with the same seed."""

import io
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import Config, DataConfig, EvaluationConfig, MeshConfig, ModelConfig, RegionConfig
from rllava_jax.evaluation import run_checkpoint
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.run_checkpoint import SamplingGenerator, run_lines, sampled_runs
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.generator import GeneratedAnswer, Generator
from rllava_jax.model.params import build, split
from rllava_jax.model.sharding import make_mesh


@pytest.fixture
def generator(tmp_path, monkeypatch):
    """A sampling generator that answers with the seed of its decoding, and the seeds."""
    seeds = []

    def answer(self, params, batch, *, seed=0):
        seeds.append(seed)
        return [GeneratedAnswer(str(seed), -0.5, True)]

    monkeypatch.setattr(Generator, "__init__", lambda self, *_, **__: None)
    monkeypatch.setattr(Generator, "answer", answer)

    def make(seed=0):
        seeds.clear()
        return SamplingGenerator(Mock(), Sampling(0.7), seed=seed), seeds

    return make


def run(generator, run_number, batches=3):
    generator.begin(run_number)
    return [generator.answer(None, {})[0].text for _ in range(batches)]


def test_every_run_and_batch_draws_anew(generator):
    ours, seeds = generator()
    for number in range(5):
        run(ours, number)
    assert len(set(seeds)) == 15
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_same_seed_gives_the_same_runs_and_another_others(generator):
    first, _ = generator(seed=3)
    second, _ = generator(seed=3)
    other, _ = generator(seed=4)
    runs = [[run(ours, number) for number in (0, 1)] for ours in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]
    assert run(second, 0) == runs[0][0]  # in whatever order the runs are made


def predicted(name, text):
    return Prediction(
        id=name, dataset="d", split="test", image_id="i", question="?", answer="liver", prediction=text,
        confidence=0.5, log_prob=-0.7, family="vqa", answer_type="open", condition="right",
    )  # fmt: skip


def test_each_run_begins_anew_and_keeps_the_order_of_the_questions(generator, monkeypatch):
    ours, _ = generator()

    def evaluate(generator, params, preprocessor, examples, config, *, progress):
        return [predicted(name, generator.answer(params, {})[0].text) for name in examples]

    monkeypatch.setattr(run_checkpoint, "evaluate_examples", evaluate)
    runs = sampled_runs(ours, None, None, ["a", "b"], EvaluationConfig(), runs=2)
    assert [[p.id for p in predictions] for predictions in runs] == [["a", "b"]] * 2
    assert [[p.prediction for p in predictions] for predictions in runs] == [run(ours, 0, 2), run(ours, 1, 2)]
    lines = list(run_lines(runs))
    assert [(line["id"], line["run"]) for line in lines] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert lines[1] == {"id": "a", "condition": "right", "run": 1, "answer": runs[1][0].prediction, "confidence": 0.5}


@pytest.mark.slow
def test_a_real_model_answers_otherwise_in_another_run_and_the_same_in_a_repeated_one(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)).save(picture, "PNG")
    examples = [
        VQAExample(f"q{n}", "made", "test", picture.getvalue(), "i", f"which {n}?", "liver", family="vqa")
        for n in range(3)
    ]
    tokenizer = train_tokenizer(["answer en which one? liver spleen"], tmp_path / "t.model", vocab_size=300)
    config = Config(model=ModelConfig(image_size=28), regions=RegionConfig(crop_size=28, tokens=4))
    graphdef, params = split(build(config, vocab=tokenizer.vocab_size))
    mesh = make_mesh(MeshConfig(data=1), jax.local_devices()[:1])
    drawing = SamplingGenerator(Generator(graphdef, tokenizer, mesh, new_tokens=4), Sampling(5.0), seed=0)
    asked = EvaluationConfig(conditions=("right",), families=("vqa",), batch_size=2)
    preprocessor = Preprocessor(28, 14, config.regions, DataConfig(text_length=64), tokenizer)

    def texts(runs):
        return [
            [p.prediction for p in run]
            for run in sampled_runs(drawing, params, preprocessor, examples, asked, runs=runs)
        ]

    first, second = texts(2)
    assert first != second
    assert texts(1) == [first]
