"""Asks a model every question under every variant, one variant after the other, and keeps each that is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import DataError
from data_pipelines.core.seeding import rng_for
from data_pipelines.regions.perturbations import FAMILIES, PREFIX, VARIANTS, Variant
from rllava_jax.evaluation.predictions import Prediction, read_predictions, to_json
from rllava_jax.evaluation.results import json_lines
from rllava_jax.evaluation.trust.boxes_file import BoxesFile, Question

ANSWERS_FILE, RUN_FILE = "answers.jsonl", "run.json"
_PARTS = "unfinished"


class Reply(NamedTuple):
    """Attributes:
    confidence: probability of the answer, 0..1; None where the model gives none.
    log_prob: its logarithm, where the model gives that; else None.
    """

    text: str
    confidence: float | None
    log_prob: float | None = None


Asked = Sequence[tuple[Question, Variant]]
Ask = Callable[[Asked], Iterator[list[Reply]]]


@dataclass(frozen=True)
class Run:
    """What was asked, of whom; `run.json` beside the answers.

    Attributes:
      model: names it, and what its answers depend on. Answers of another model are not mixed with these.
      boxes_sha256: of the boxes file.
      most_regions: boxes that the model can be shown at once; a variant that needs more is not asked.
      most_questions: asked of each family; 0 is all.
      has_confidence: False where the model gives none; the answers' lines then hold 0, which nothing reads.
    """

    model: dict[str, Any]
    boxes_sha256: str
    most_regions: int
    most_questions: int = 0
    has_confidence: bool | None = None


def chosen(boxes: BoxesFile, most: int) -> list[Question]:
    """At most so many questions of each family, drawn by a hash of their ids, in the file's order; 0: all."""
    if not most:
        return list(boxes.questions)
    keep: set[str] = set()
    for family in FAMILIES:
        ids = [question.id for question in boxes.questions if question.family == family]
        keep.update(sorted(ids, key=lambda name: rng_for("subset", name).random())[:most])
    return [question for question in boxes.questions if question.id in keep]


def askable(questions: Iterable[Question], name: str, most_regions: int) -> list[tuple[Question, Variant]]:
    """The questions that have the variant, with no more boxes than the model can be shown."""
    index = VARIANTS.index(name)
    pairs = ((question, question.variants[index]) for question in questions)
    return [(q, v) for q, v in pairs if not v.unavailable and len(v.boxes) <= most_regions]


def ask_all(boxes: BoxesFile, ask: Ask, run: Run, folder: Path | None) -> tuple[list[Prediction], Run]:
    """Asks every variant.

    Args:
      folder: takes `answers.jsonl` and `run.json`; each variant is kept there as soon as it is answered, and not asked
        again when the same run is started anew. None keeps nothing.

    Returns:
      The answers, variant by variant in the order of `VARIANTS`, and the run, which now says whether the model gives
      confidences.

    Raises:
      DataError: the folder holds the answers of another run, or the model gives a confidence with some answers only.
    """
    run = _begin(folder, run) if folder else run
    if folder and (folder / ANSWERS_FILE).is_file():
        return read_predictions(folder / ANSWERS_FILE), run
    questions, predictions = chosen(boxes, run.most_questions), []
    for name in VARIANTS:
        pairs = askable(questions, name, run.most_regions)
        part = folder / _PARTS / f"{name.replace(':', '_')}.jsonl" if folder else None
        if part and part.is_file():
            predictions += read_predictions(part)
            continue
        if not pairs:
            continue
        found, run = _answered(pairs, name, ask, run)
        if folder and part:
            _write_run(folder, run)
            write_atomically(part, json_lines(map(to_json, found)))
        predictions += found
    if folder:
        write_atomically(folder / ANSWERS_FILE, json_lines(map(to_json, predictions)))
        shutil.rmtree(folder / _PARTS)
    return predictions, run


def read_run(folder: Path) -> Run:
    """What `run.json` says. Raises DataError."""
    path = folder / RUN_FILE
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; it is written with the answers by: python -m rllava_jax.trust run",
            code="file.missing",
        )
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); run the benchmark into another folder", code="file.malformed"
        ) from None


def _begin(folder: Path, run: Run) -> Run:
    """Makes the folder, or checks that what it holds belongs to this run."""
    if not (folder / RUN_FILE).is_file():
        if (folder / ANSWERS_FILE).exists():
            raise DataError(
                f"{folder}: has an {ANSWERS_FILE} of unknown origin; choose another folder", code="trust.other-run"
            )
        (folder / _PARTS).mkdir(parents=True, exist_ok=True)
        _write_run(folder, run)
        return run
    there = read_run(folder)
    for field in ("model", "boxes_sha256", "most_regions", "most_questions"):
        old, new = getattr(there, field), getattr(run, field)
        if old != new:
            raise DataError(f"{folder}: holds answers of another run ({field} is {old!r} there, {new!r} here); "
                            "choose another folder", code="trust.other-run")  # fmt: skip
    (folder / _PARTS).mkdir(exist_ok=True)
    return there


def _write_run(folder: Path, run: Run) -> None:
    write_atomically(folder / RUN_FILE, json.dumps(asdict(run), indent=2, ensure_ascii=False) + "\n")


def _answered(pairs: Asked, name: str, ask: Ask, run: Run) -> tuple[list[Prediction], Run]:
    replies: list[Reply] = []
    with tqdm(total=len(pairs), desc=f"{PREFIX}{name}", unit="example", disable=None) as bar:
        for batch in ask(pairs):
            replies += batch
            bar.update(len(batch))
    given = {reply.confidence is not None for reply in replies}
    if run.has_confidence is not None:
        given.add(run.has_confidence)
    if len(given) > 1:
        raise DataError(
            f"{PREFIX}{name}: the model gives a confidence with some answers only; give it always or never",
            code="trust.invalid-reply",
        )
    found = [_prediction(*pair, name, reply) for pair, reply in zip(pairs, replies, strict=True)]
    return found, Run(**{**asdict(run), "has_confidence": given.pop()})


def _prediction(question: Question, variant: Variant, name: str, reply: Reply) -> Prediction:
    return Prediction(
        id=question.id,
        dataset=question.dataset,
        split=question.split,
        image_id=question.image_id,
        question=variant.question,
        answer=question.answer,
        prediction=reply.text,
        confidence=min(reply.confidence or 0.0, 1.0),  # rounding may lift exp(log_prob) above 1
        log_prob=reply.log_prob or 0.0,
        family=question.family,
        answer_type=question.answer_type,
        condition=PREFIX + name,
        content_type=question.content_type,
        modality=question.modality,
        shown_kind=name,
        boxes=variant.boxes,
        box_labels=variant.labels,
        right_boxes=question.right_boxes,
        choices=question.choices,
        accepted=question.accepted,
        provenance=question.provenance,
    )
