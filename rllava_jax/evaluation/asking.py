"""Asks a model every question under every condition: right region, none, wrong, a blank image, and controls."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.conditions import DETECTED
from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.controls import ShuffledImages, picture_kind
from data_pipelines.loading.evaluation_batches import evaluation_batches
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.regions.policy import Shown, regions_under
from rllava_jax.config import EvaluationConfig
from rllava_jax.evaluation.detected_regions import answer_with_detected
from rllava_jax.evaluation.predictions import Prediction, from_json, to_json
from rllava_jax.inference.generator import GeneratedAnswer, Generator
from rllava_jax.model.params import Params


def choose_examples(examples: Sequence[VQAExample], families: Sequence[str], *, most: int) -> list[VQAExample]:
    """The examples of the named families; of each at most `most` (0: all), drawn by a hash of their ids."""
    chosen = []
    for family in families:
        group = [example for example in examples if example.family == family]
        if most and len(group) > most:
            by_chance = sorted(group, key=lambda example: rng_for("subset", example.id).random())
            keep = {example.id for example in by_chance[:most]}
            group = [example for example in group if example.id in keep]
        chosen += group
    return chosen


def evaluate(
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

    def ask(asked: Sequence[VQAExample], condition: str) -> list[Prediction]:
        return _gather(_ask(generator, params, preprocessor, asked, condition, config, images, progress=progress))

    for condition in config.conditions:
        if condition == DETECTED:
            most = preprocessor.regions.max_regions
            predictions += answer_with_detected(
                examples, ask, structures=config.structures, max_regions=most, unmarked=unmarked["own"]
            )
            continue
        known = unmarked[picture_kind(condition)]
        asked = [
            example
            for example in examples
            if example.id not in known or regions_under(example, condition, config.wrong_kinds).regions
        ]
        by_id = {prediction.id: prediction for prediction in ask(asked, condition)}
        known |= {name: prediction for name, prediction in by_id.items() if not prediction.boxes}
        predictions += [by_id.get(example.id) or _under(known[example.id], condition) for example in examples]
    return predictions


def _ask(
    generator: Generator,
    params: Params,
    preprocessor: Preprocessor,
    examples: Sequence[VQAExample],
    condition: str,
    config: EvaluationConfig,
    images: ShuffledImages | None,
    *,
    progress: str,
) -> list[Prediction]:
    """This host's share of the answers under one condition."""
    if not examples:
        return []
    batches = evaluation_batches(
        examples,
        preprocessor,
        condition,
        config.wrong_kinds,
        config.batch_size,
        images=images,
        alike=True,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    predictions: list[Prediction] = []

    def read(answers: Future[list[GeneratedAnswer]], asked: list[tuple[VQAExample, Shown]]) -> None:
        predictions.extend(
            _prediction(example, shown, condition, answer)
            for (example, shown), answer in zip(asked, answers.result()[: len(asked)], strict=True)
        )
        bar.update(len(asked) * jax.process_count())

    # One thread waits for the devices while this one stacks the next batch.
    with (
        ThreadPoolExecutor(1) as devices,
        tqdm(
            total=len(examples), desc=f"{progress} {condition}", unit=" examples", disable=None if progress else True
        ) as bar,
    ):
        pending: tuple[Future[list[GeneratedAnswer]], list[tuple[VQAExample, Shown]]] | None = None
        for batch, asked in batches:
            batch.pop("example_valid")
            following = (devices.submit(generator.answer, params, batch), asked)
            if pending:
                read(*pending)
            pending = following
        if pending:
            read(*pending)
    return predictions


def _prediction(example: VQAExample, shown: Shown, condition: str, answer: GeneratedAnswer) -> Prediction:
    return Prediction(
        id=example.id,
        dataset=example.dataset,
        split=example.split,
        image_id=example.image_id,
        question=example.question,
        answer=example.answer,
        prediction=answer.text,
        confidence=min(answer.confidence, 1.0),  # rounding may lift exp(log_prob) above 1
        log_prob=answer.log_prob,
        family=example.family,
        answer_type=example.answer_type,
        condition=condition,
        content_type=example.content_type,
        modality=example.modality,
        shown_kind=shown.kind,
        boxes=tuple(region.box for region in shown.regions),
        box_labels=tuple(region.label for region in shown.regions),
        right_boxes=tuple(region.box for region in example.regions),
        choices=example.choices,
        provenance=example.provenance,
        accepted=example.accepted,
    )


def _under(prediction: Prediction, condition: str) -> Prediction:
    return from_json(to_json(prediction) | {"condition": condition})


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
    return [from_json(fields) for part in parts for fields in json.loads(part)]
