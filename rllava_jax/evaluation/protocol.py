"""Asks a model every question under every condition: right region, none, wrong, and a blank image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.evaluation_batches import evaluation_batches
from data_pipelines.policy import Shown, regions_under
from data_pipelines.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.seeding import rng_for
from rllava_jax.config import Condition, EvaluationConfig
from rllava_jax.evaluation.predictions import Prediction, from_json, to_json
from rllava_jax.inference.answerer import Answer, Answerer
from rllava_jax.model.params import Params


@dataclass(frozen=True)
class Question:
    """An example as it is asked."""

    example: VQAExample
    shown: Shown


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
    answerer: Answerer,
    params: Params,
    preprocessor: Preprocessor,
    examples: Sequence[VQAExample],
    config: EvaluationConfig,
    *,
    progress: str = "",
) -> list[Prediction]:
    """Answers each example once under each of `config.conditions`, greedily.

    A question that shows no region is the same under right, none and wrong; it is decoded once.

    Args:
      progress: label of the progress bar; "" shows none.

    Returns:
      Predictions of all hosts, condition by condition, in the order of the examples.
    """
    predictions: list[Prediction] = []
    unmarked: dict[str, Prediction] = {}
    for condition in config.conditions:
        asked = [
            example
            for example in examples
            if condition == "blank"
            or example.id not in unmarked
            or regions_under(example, condition, config.wrong_kinds).regions
        ]
        new = _gather(_ask(answerer, params, preprocessor, asked, condition, config, progress=progress))
        by_id = {prediction.id: prediction for prediction in new}
        if condition != "blank":
            unmarked |= {name: prediction for name, prediction in by_id.items() if not prediction.boxes}
        predictions += [by_id.get(example.id) or _under(unmarked[example.id], condition) for example in examples]
    return predictions


def _ask(
    answerer: Answerer,
    params: Params,
    preprocessor: Preprocessor,
    examples: Sequence[VQAExample],
    condition: Condition,
    config: EvaluationConfig,
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
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    predictions = []
    with tqdm(
        total=len(examples), desc=f"{progress} {condition}", unit="example", disable=None if progress else True
    ) as bar:
        for batch, asked in batches:
            batch.pop("example_valid")
            answers = answerer.answer(params, batch)
            predictions += [
                _prediction(example, shown, condition, answer)
                for (example, shown), answer in zip(asked, answers[: len(asked)], strict=True)
            ]
            bar.update(len(asked) * jax.process_count())
    return predictions


def _prediction(example: VQAExample, shown: Shown, condition: Condition, answer: Answer) -> Prediction:
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
        region=condition,
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


def _under(prediction: Prediction, condition: Condition) -> Prediction:
    return from_json(to_json(prediction) | {"region": condition})


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
