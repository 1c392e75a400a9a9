"""Asks a stored model the questions of a data set, with its controls if wanted, and scores its answers.

    python -m rllava_jax.evaluate --checkpoint runs/slake_tiny --data slake --root DIR --controls \\
        --out runs/slake_tiny_controls

Configuration, tokenizer and preprocessing come with the checkpoint; the batch is shared by all devices of this machine.
Writes metrics.json, predictions.jsonl and report.html, scored by the strict rules. Research use, not a medical device.
"""

import argparse
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import words
from data_pipelines.core.errors import FileExists, MeshMismatch, MissingOption, OptionConflict
from data_pipelines.core.paths import path_of
from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.settings import DataConfig
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config, EvaluationConfig
from rllava_jax.config.loading import validated
from rllava_jax.evaluation.evaluate_options import ALL_CONTROLS
from rllava_jax.evaluation.evaluator import choose_examples, evaluate_examples
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.results import json_lines
from rllava_jax.evaluation.run import ReportWriter, evaluate_test
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.generator import GeneratedAnswer, Generator
from rllava_jax.inference.predictor import Predictor
from rllava_jax.inference.run_data import load_run_data
from rllava_jax.model.params import Params

logger = logging.getLogger(__name__)


def run(options: argparse.Namespace, write_report: ReportWriter) -> None:
    """Does what the options say.

    Args:
      write_report: `report.run_report.write_report`.

    Raises:
      ConfigError, DataError, CheckpointError: an error that the user can mend; nothing is written.
    """
    out = _folder(options)
    stored = OpenedCheckpoint.open(path_of(options.checkpoint), options.step)
    config = asked_config(stored.config, options, devices=len(jax.devices()))
    validated(config)
    # Everything that can be wrong with the data is told before weights are read.
    data = load_run_data(config, tokenizer=stored.tokenizer, training=False)
    predictor = Predictor.load(stored, new_tokens=config.evaluation.max_new_tokens, devices=jax.devices())
    resampling = config if options.seed is None else dataclasses.replace(config, seed=options.seed)
    facts = {
        "command": options.command,
        "seed": config.seed,
        "seed of the resampling": resampling.seed,
        "step": stored.step,
        "checkpoint": str(stored.where),
    }
    evaluate_test(
        predictor.generator,
        predictor.params,
        resampling,
        data,
        stored.where,
        out,
        title=f"{stored.workdir.name}, step {stored.step}, on {config.data.source} {config.data.test_split}",
        run=facts | provenance.describe(config),
        write_report=write_report,
    )
    logger.info("report: %s", out / "report.html")
    if options.sampled_runs is not None:
        settings, runs, path = config.evaluation, options.sampled_runs, out / "sampled.jsonl"
        generator = SamplingGenerator(predictor.generator, Sampling(options.temperature or 0.7), seed=config.seed)
        examples = choose_examples(data.test, settings.families, most=settings.max_examples)
        answered = sampled_runs(
            generator, predictor.params, data.preprocessor, examples, settings, runs=runs, progress="sampled"
        )
        write_atomically(path, json_lines(run_lines(answered)))
        logger.info("answers of %d sampled runs: %s", runs, path)


def _folder(options: argparse.Namespace) -> Path:
    """What can be wrong with the options alone is told first."""
    if not options.out:
        raise MissingOption("--out: is missing; give a folder")
    out = path_of(options.out)
    if (out / "predictions.jsonl").exists():
        raise FileExists(f"--out {out}: holds results already; choose another folder, or remove this one")
    if options.protocol not in (None, "strict"):
        raise OptionConflict(
            f"--protocol {options.protocol}: a checkpoint's answers are scored as strict; score the predictions.jsonl "
            "that is written under another one"
        )
    return out


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


def asked_config(config: Config, options: argparse.Namespace, *, devices: int) -> Config:
    """The run's configuration, with the data and the questions that the options name."""
    settings = config.evaluation
    batch = options.batch_size or -(-settings.batch_size // devices) * devices
    if batch % devices:
        raise MeshMismatch(f"--batch-size {batch}: {devices} devices cannot share it; write a multiple of {devices}")
    numbers = {name: getattr(options, name) for name in ("bootstrap", "max_examples", "max_new_tokens")}
    evaluation = dataclasses.replace(
        settings,
        conditions=ALL_CONTROLS if options.controls else words(options.conditions or "") or settings.conditions,
        families=words(options.families or "") or settings.families,
        batch_size=batch,
        **{name: number for name, number in numbers.items() if number is not None},
    )
    return dataclasses.replace(
        config,
        data=_data(config.data, options),
        evaluation=evaluation,
        # Nothing is validated either, so the families asked need not hold the run's best_metric.
        train=dataclasses.replace(config.train, evaluate_every="never"),
    )


def _data(data: DataConfig, options: argparse.Namespace) -> DataConfig:
    source = options.data or data.source
    same = source == data.source
    languages = words(options.languages or "") or (data.languages if same else ("en",))
    return dataclasses.replace(
        data,
        source=source,
        root=options.root or (data.root if same else ""),
        languages=languages,
        boxes=options.boxes or (data.boxes if same else ""),
        orientation=options.orientation or (data.orientation if same else ""),
        test_split=options.split or data.test_split,
        # Nothing is trained here, and other sources' folders may not be at hand.
        mix={},
        mix_temperature=0.0,
    )
