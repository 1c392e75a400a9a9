"""The condition "detected": the model finds the structure that a question names, then answers with that box.

A first pass asks `detect {structure}` and reads the first four loc tokens of the answer; the second asks the question
with the region found, which no annotation had a part in. Only ordinary questions are asked so: the rebuilt families
are about a given box. A question is asked without a region where nothing was found; `Prediction.shown_kind` says why:

  detected             a box was read of each structure that the question names (provenance "detected")
  none                 the question names no structure, or asks whether or how often it is there
  none:no box          the answer to `detect` has no complete box with an area
  none:too many        the question names more structures than the model has region slots
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_pipelines.conditions import DETECTED
from data_pipelines.loading.evaluation_batches import EvaluationRequest
from data_pipelines.records import Box, Region, VQAExample
from data_pipelines.regions.boxes import first_box, iou
from data_pipelines.regions.named_structures import structures_to_detect
from data_pipelines.regions.policy import NOTHING, Shown
from rllava_jax.evaluation.intervals import Estimator
from rllava_jax.evaluation.metrics import Row, make_row
from rllava_jax.evaluation.predictions import Prediction

NO_BOX, TOO_MANY = "none:no box", "none:too many"

Ask = Callable[[Sequence[EvaluationRequest]], list[Prediction]]


def answer_with_detected(
    examples: Sequence[VQAExample],
    ask: Ask,
    *,
    structures: Sequence[str],
    max_regions: int,
    unmarked: Mapping[str, Prediction],
) -> list[Prediction]:
    """Answers the ordinary ones of `examples` with the regions that the model finds.

    A structure is looked for once on an image, however many questions name it.

    Args:
      ask: answers requests, in their order, on every host.
      structures: `EvaluationConfig.structures`.
      max_regions: `RegionConfig.max_regions`.
      unmarked: id → the answer without a region, where it is known already.
    """
    names = structures or sorted({r.label for e in examples for r in (*e.regions, *e.distractors) if r.label})
    ordinary = [example for example in examples if example.family == "vqa"]
    wanted = {example.id: structures_to_detect(example.question, names) for example in ordinary}
    boxes = _detect([example for example in ordinary if len(wanted[example.id]) <= max_regions], wanted, ask)
    requests = {}
    for example in ordinary:
        found = [boxes.get((example.image_id, name)) for name in wanted[example.id]]
        regions = tuple(Region(box) for box in found if box is not None)
        if len(found) > max_regions:
            shown = Shown((), TOO_MANY)
        elif len(regions) < len(found):  # one kidney of two would be a wrong hint
            shown = Shown((), NO_BOX)
        else:
            shown = Shown(regions, DETECTED if regions else "none")
        own = replace(example, provenance=DETECTED if shown.regions else "")
        requests[example.id] = EvaluationRequest(own, shown, DETECTED)
    asked = ask([one for name, one in requests.items() if one.shown.regions or name not in unmarked])
    answered = {**unmarked, **{prediction.id: prediction for prediction in asked}}
    return [
        replace(answered[name], condition=DETECTED, shown_kind=one.shown.kind, provenance=one.example.provenance)
        for name, one in requests.items()
    ]


def _detect(
    examples: Sequence[VQAExample], wanted: Mapping[str, Sequence[str]], ask: Ask
) -> dict[tuple[str, str], Box | None]:
    """(image_id, structure) → the box that the model wrote."""
    first_pass: dict[tuple[str, str], VQAExample] = {}
    for example in examples:
        for name in wanted[example.id]:
            first_pass.setdefault(
                (example.image_id, name),
                VQAExample(
                    id=f"{example.dataset}/detect/{example.image_id}/{name}",
                    dataset=example.dataset,
                    split=example.split,
                    image=example.image,
                    image_id=example.image_id,
                    question=name,
                    answer="",
                    family="localise",
                    task="detect",
                    modality=example.modality,
                ),
            )
    answers = ask([EvaluationRequest(example, NOTHING, "none") for example in first_pass.values()])
    return {key: first_box(answer.prediction) for key, answer in zip(first_pass, answers, strict=True)}


def region_sources(predictions: Sequence[Prediction]) -> str:
    """Questions by the provenance of their regions, e.g. "annotation 120, question 80; found by the model 75"."""
    given = {(p.dataset, p.split, p.id): p for p in predictions if p.condition != DETECTED and p.right_boxes}
    counts = Counter(p.provenance or "not recorded" for p in given.values())
    said = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
    if any(p.condition == DETECTED for p in predictions):
        said += f"; found by the model {sum(p.shown_kind == DETECTED for p in predictions):,}"
    return said


def detected_rows(predictions: Sequence[Prediction], *, bootstrap: int, seed: int) -> list[Row]:
    """How often and how well the model found what ordinary questions name; no rows where it was not asked.

    condition "detected", 95 % intervals by image:
      subset family=vqa, metric box_found      share of the questions naming a structure that were asked with a box
      subset has_region=yes, metric box_iou    of those that have annotated boxes: each such box's greatest IoU with a
                                               detected one, mean over the question's boxes; 0 where none was found
    """
    groups: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        if prediction.condition == DETECTED and prediction.shown_kind != "none":
            groups[prediction.dataset, prediction.split].append(prediction)
    found: list[Row] = []
    for (dataset, split), asked in groups.items():
        annotated = [prediction for prediction in asked if prediction.right_boxes]
        for subset, metric, held, value_of in (
            ("family=vqa", "box_found", asked, lambda prediction: float(bool(prediction.boxes))),
            ("has_region=yes", "box_iou", annotated, _overlap),
        ):
            if held:
                values = np.array([value_of(prediction) for prediction in held])
                figure = Estimator(bootstrap, seed).mean(values, [prediction.image_id for prediction in held])
                found.append(make_row(dataset, split, subset, DETECTED, metric, *figure))
    return found


def _overlap(prediction: Prediction) -> float:
    best = [max((iou(right, box) for box in prediction.boxes), default=0.0) for right in prediction.right_boxes]
    return float(np.mean(best))
