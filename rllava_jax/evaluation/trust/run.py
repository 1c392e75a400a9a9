"""Asks a model every question under every variant, one variant after the other, and keeps each that is finished."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import DataError, MissingFile
from data_pipelines.core.schemas import file_as
from data_pipelines.regions.perturbations import PREFIX, VARIANTS, Variant
from rllava_jax.evaluation.evaluator import choose_examples
from rllava_jax.evaluation.predictions import Prediction, read_predictions, to_json
from rllava_jax.evaluation.results import json_lines
from rllava_jax.evaluation.trust.boxes_file import BoxesFile, TrustQuestion

ANSWERS_FILE, RUN_FILE = "answers.jsonl", "run.json"
_PARTS = "unfinished"


Asked = Sequence[tuple[TrustQuestion, Variant]]
# The answers to some questions under one variant, and whether the model gave confidences (both, if with some only).
Ask = Callable[[Asked], tuple[list[Prediction], set[bool]]]


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


def chosen(boxes: BoxesFile, most: int) -> list[TrustQuestion]:
    """At most so many questions of each family, drawn by a hash of their ids, in the file's order; 0: all."""
    families = list(dict.fromkeys(question.family for question in boxes.questions))
    keep = {question.id for question in choose_examples(boxes.questions, families, most=most)}
    return [question for question in boxes.questions if question.id in keep]


def askable(questions: Iterable[TrustQuestion], name: str, most_regions: int) -> list[tuple[TrustQuestion, Variant]]:
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
        found, gives = ask(pairs)
        if len(gives | {run.has_confidence} - {None}) > 1:
            raise DataError(
                f"{PREFIX}{name}: the model gives a confidence with some answers only; give it always or never",
                code="trust.invalid-reply",
            )
        run = replace(run, has_confidence=gives.pop())
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
        raise MissingFile(f"{path}: no such file; it is written with the answers by: python -m rllava_jax.trust run")
    return file_as(Run, path, remedy="run the benchmark into another folder")


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
