"""Several answers to each question, drawn at random from the model: what scores of consistency are made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from rllava_jax.config import EvaluationConfig
from rllava_jax.evaluation.evaluator import evaluate_examples
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.generator import GeneratedAnswer, Generator
from rllava_jax.model.params import Params


class SamplingGenerator(Generator):
    """A generator that draws anew for every batch; compiled once for all runs.

    The draw depends on seed, run and the batch's place in it: the same questions in the same order and batch size have
    the same answers.
    """

    def __init__(self, of: Generator, sampling: Sampling, *, seed: int):
        super().__init__(of.graphdef, of.tokenizer, of.mesh, new_tokens=of.new_tokens, sampling=sampling)
        self._seed = seed
        self.begin(0)

    def begin(self, run: int) -> None:
        """Begins a run, from its first batch."""
        self._run_number, self._batches = run, 0

    def answer(self, params: Params, batch: Mapping[str, np.ndarray], *, seed: int = 0) -> list[GeneratedAnswer]:
        """As `Generator.answer`; `seed` is not read."""
        drawn = rng_for(self._seed, "sampled run", self._run_number, self._batches).integers(2**31)
        self._batches += 1
        return super().answer(params, batch, seed=int(drawn))


def sampled_runs(
    generator: SamplingGenerator,
    params: Params,
    preprocessor: Preprocessor,
    examples: Sequence[VQAExample],
    config: EvaluationConfig,
    *,
    runs: int = 5,
    progress: str = "",
) -> list[list[Prediction]]:
    """Answers every example under every condition `runs` times.

    Args:
      progress: label of the progress bars; "" shows none.

    Returns:
      The predictions of each run, of all hosts, in the order of `evaluate_examples`. Their confidence is that of the
      drawn answer, without temperature.
    """
    found = []
    for run in range(runs):
        generator.begin(run)
        label = f"{progress} run {run + 1}/{runs}" if progress else ""
        found.append(evaluate_examples(generator, params, preprocessor, examples, config, progress=label))
    return found


def run_lines(runs: Sequence[Sequence[Prediction]]) -> Iterator[dict[str, Any]]:
    """The answers as lines of a predictions file, question by question, each with the number of its `run`, from 0."""
    for answers in zip(*runs, strict=True):
        for run, prediction in enumerate(answers):
            yield {
                "id": prediction.id,
                "condition": prediction.condition,
                "run": run,
                "answer": prediction.prediction,
                "confidence": prediction.confidence,
            }
