"""Evaluates a model: every question under every condition (right region, none, wrong, a blank image, controls)."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.conditions import DETECTED
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.controls import ShuffledImages, picture_kind
from data_pipelines.loading.evaluation_batches import EvaluationRequest, evaluation_batches, requests_under
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from rllava_jax.config import EvaluationConfig
from rllava_jax.evaluation.detected_regions import answer_with_detected
from rllava_jax.evaluation.json_records import record_of
from rllava_jax.evaluation.predictions import Prediction, common_fields, from_json, to_json
from rllava_jax.evaluation.trust.boxes_file import TrustQuestion
from rllava_jax.inference.generator import GeneratedAnswer, Generator
from rllava_jax.model.params import Params

Question = TypeVar("Question", VQAExample, TrustQuestion)


def choose_examples(examples: Sequence[Question], families: Sequence[str], *, most: int) -> list[Question]:
    """The examples of the named families; of each at most `most` (0: all), drawn by a hash of their ids."""
    chosen: list[Question] = []
    for family in families:
        group = [example for example in examples if example.family == family]
        if most and len(group) > most:
            by_chance = sorted(group, key=lambda example: rng_for("subset", example.id).random())
            keep = {example.id for example in by_chance[:most]}
            group = [example for example in group if example.id in keep]
        chosen += group
    return chosen


def not_all(examples: Sequence[Question], families: Sequence[str], *, most: int) -> str:
    """What `choose_examples` takes of families that it cuts, for people: "300 of 500 vqa questions"; "" of none."""
    counts: Counter[str] = Counter(example.family for example in examples)
    cut = [f"{most:,} of {counts[family]:,} {family}" for family in families if 0 < most < counts[family]]
    return f"{', '.join(cut)} questions" if cut else ""


def evaluate_examples(
    generator: Generator,
    params: Params,
    preprocessor: Preprocessor,
    examples: Sequence[VQAExample],
    config: EvaluationConfig,
    *,
    split: Sequence[VQAExample] | None = None,
    progress: str = "",
) -> list[Prediction]:
    """Answers each example once under each of `config.conditions`, greedily; under "detected" the ordinary ones alone.

    A question that shows no region is the same under right, none and wrong, and under blank and question_only; it is
    decoded once.

    Args:
      split: all examples of the split, of whose images "shuffled" takes another; None is `examples`.
      progress: label of the progress bar; "" shows none.

    Returns:
      Predictions of all hosts, condition by condition, in the order of the examples.
    """
    predictions: list[Prediction] = []
    unmarked: dict[str, dict[str, Prediction]] = defaultdict(dict)  # by the picture shown, and the question
    images = ShuffledImages(examples if split is None else split) if "shuffled" in config.conditions else None

    def ask(requests: Sequence[EvaluationRequest]) -> list[Prediction]:
        return evaluate(generator, params, preprocessor, requests, batch_size=config.batch_size, progress=progress)

    for condition in config.conditions:
        if condition == DETECTED:
            most = preprocessor.regions.max_regions
            predictions += answer_with_detected(
                examples, ask, structures=config.structures, max_regions=most, unmarked=unmarked["own"]
            )
            continue
        known = unmarked[picture_kind(condition)]
        requests = requests_under(examples, condition, config.wrong_kinds, images)
        found = ask([one for one in requests if one.shown.regions or one.example.id not in known])
        by_id = {prediction.id: prediction for prediction in found}
        known |= {name: prediction for name, prediction in by_id.items() if not prediction.boxes}
        predictions += [by_id.get(e.id) or replace(known[e.id], condition=condition) for e in examples]
    return predictions


def evaluate(
    generator: Generator,
    params: Params,
    preprocessor: Preprocessor,
    requests: Sequence[EvaluationRequest],
    *,
    batch_size: int,
    one_shape: bool = False,
    progress: str = "",
) -> list[Prediction]:
    """Answers every request once, on all hosts together; a variant of the trust benchmark is a request like any other.

    Args:
      requests: each of another id, under one condition.
      one_shape: requests are answered in their order, in batches of one shape; else like ones together.
      progress: label of the progress bar; "" shows none.

    Returns:
      Predictions of all hosts, in the order of the requests.
    """
    if not requests:
        return []
    batches = evaluation_batches(
        requests,
        preprocessor,
        batch_size,
        alike=not one_shape,
        one_shape=one_shape,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    predictions: list[Prediction] = []

    def read(answers: Future[list[GeneratedAnswer]], asked: list[EvaluationRequest]) -> None:
        predictions.extend(
            prediction_of(request, answer.text, answer.confidence, answer.log_prob)
            for request, answer in zip(asked, answers.result()[: len(asked)], strict=True)
        )
        bar.update(len(asked) * jax.process_count())

    label = f"{progress} {requests[0].condition}"
    # One thread waits for the devices while this one stacks the next batch.
    with (
        ThreadPoolExecutor(1) as devices,
        tqdm(total=len(requests), desc=label, unit=" examples", disable=None if progress else True) as bar,
    ):
        pending: tuple[Future[list[GeneratedAnswer]], list[EvaluationRequest]] | None = None
        for batch, asked in batches:
            following = (devices.submit(generator.answer, params, batch), asked)
            if pending:
                read(*pending)
            pending = following
        if pending:
            read(*pending)
    by_id = {prediction.id: prediction for prediction in _gather(predictions)}
    return [by_id[request.example.id] for request in requests]


def prediction_of(request: EvaluationRequest, text: str, confidence: float, log_prob: float) -> Prediction:
    """The record of an answer. Raises DataError for a confidence that is no probability."""
    fields = common_fields(
        request.example,
        Prediction,
        prediction=text,
        confidence=min(confidence, 1.0),  # rounding may lift exp(log_prob) above 1
        log_prob=log_prob,
        condition=request.condition,
        shown_kind=request.shown.kind,
        boxes=tuple(region.box for region in request.shown.regions),
        box_labels=tuple(region.label for region in request.shown.regions),
        right_boxes=tuple(region.box for region in request.example.regions),
    )
    return record_of(Prediction, fields, f"prediction {request.example.id!r}")


def _gather(predictions: list[Prediction]) -> list[Prediction]:
    """Every host's predictions, on every host."""
    if jax.process_count() == 1:
        return predictions
    text = np.frombuffer(json.dumps([to_json(prediction) for prediction in predictions]).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(text)]))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    gathered = multihost_utils.process_allgather(padded)
    parts = [row[: int(length)].tobytes() for row, length in zip(gathered, lengths.ravel(), strict=True)]
    return [from_json(fields) for part in parts for fields in parse_json(part, "answers of a host", remedy="")]
