"""Two runs' answers to the same questions, side by side.

What can be compared: an `eval/STEP` folder, a run's workdir (its newest evaluation of the test split), or a folder of
answers of the region trust benchmark.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.core.errors import MissingFile, NoExamples
from data_pipelines.core.paths import path_of
from rllava_jax.evaluation.metrics import Row
from rllava_jax.evaluation.paired import ComparisonRow, comparison_rows, unmatched
from rllava_jax.evaluation.predictions import Key, Prediction, by_key, key_of, read_predictions
from rllava_jax.evaluation.protocols.strict import STRICT
from rllava_jax.evaluation.results import METRICS_FILE, read_rows
from rllava_jax.evaluation.scoring import Scored, scored

_ANSWER_FILES = ("predictions.jsonl", "answers.jsonl")  # of an evaluation, and of the trust benchmark
_NOT_OF_TEST = ("validation", "calibration")  # eval/STEP-…: of the validation split


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
      folder: where its answers were found.
      rows: its own results, as they were written beside the answers; empty where there are none.
    """

    name: str
    folder: Path
    predictions: list[Prediction]
    rows: list[Row]


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    rows: over the questions that both sides answered under the same condition.
    only_first, only_second: answers that take no part, as "id (condition)".
    changed: questions whose image, words or reference differ between the sides, as "id (condition)"; they take no part.
    """

    rows: list[ComparisonRow]
    only_first: list[str]
    only_second: list[str]
    changed: list[str]


def read_side(path: str, name: str = "") -> Side:
    """Reads the answers of a folder.

    Args:
      name: what the side is called; "" takes it from the path.

    Raises:
      DataError: no such folder, none with answers, or a question that was answered twice under one condition.
    """
    given = path_of(path)
    if not given.is_dir():
        raise MissingFile(f"{path}: no such folder; give an eval/STEP folder, or the workdir of a run")
    answers = next(filter(None, map(_answers_of, (given, *_evaluations(given)))), None)
    if answers is None:
        raise MissingFile(f"{path}: holds no {' or '.join(_ANSWER_FILES)}, nor does an eval/STEP below it")
    predictions = read_predictions(answers)
    if not predictions:
        raise NoExamples(f"{answers}: is empty; evaluate the run again")
    by_key(predictions, where=f"{answers}: ")
    folder = answers.parent
    rows = folder / METRICS_FILE
    return Side(name or name_of(folder), folder, predictions, read_rows(rows) if rows.is_file() else [])


def name_of(folder: Path) -> str:
    """ "slake_tiny, 3000" of runs/slake_tiny/eval/3000; else the folder's own name."""
    folder = folder.resolve()
    return f"{folder.parent.parent.name}, {folder.name}" if folder.parent.name == "eval" else folder.name


def _evaluations(workdir: Path) -> list[Path]:
    """Of the test split, the last step first: eval/STEP, then eval/STEP-HASH, evaluated otherwise than configured."""
    found = []
    for folder in workdir.glob("eval/*"):
        step, _, suffix = folder.name.partition("-")
        if step.isdigit() and suffix not in _NOT_OF_TEST:
            found.append((-int(step), suffix, folder))
    return [folder for *_, folder in sorted(found, key=lambda item: item[:2])]


def _answers_of(folder: Path) -> Path | None:
    return next((folder / name for name in _ANSWER_FILES if (folder / name).is_file()), None)


def compare_sides(first: Side, second: Side, *, bootstrap: int, seed: int) -> Comparison:
    """Compares every subset under every condition, over the questions that both were asked.

    Raises:
      DataError: no question was put to both under the same condition.
    """
    changed = _changed(first.predictions, second.predictions)
    ours, theirs = (_scored(side.predictions, changed) for side in (first, second))
    rows = comparison_rows(ours, theirs, STRICT.metrics_of, resamples=bootstrap, seed=seed)
    if not rows:
        raise NoExamples(
            f"{first.folder} and {second.folder}: have no question in common under the same condition; compare "
            "evaluations of the same data set and split"
        )
    return Comparison(rows, *unmatched(ours, theirs), [f"{key[2]} ({key[3]})" for key in sorted(changed)])


def _changed(first: Iterable[Prediction], second: Iterable[Prediction]) -> set[Key]:
    """An id that names another question on each side, e.g. because the wording was drawn with another seed."""

    def asked(p: Prediction) -> tuple[object, ...]:
        return p.image_id, p.question, p.answer, p.choices, p.boxes

    others = {key_of(p): asked(p) for p in second}
    return {key for p in first if (key := key_of(p)) in others and others[key] != asked(p)}


def _scored(predictions: Iterable[Prediction], left_out: set[Key]) -> list[Scored[Prediction]]:
    """By data set and split, in the order in which they are named."""
    kept = [p for p in predictions if key_of(p) not in left_out]
    order = {group: place for place, group in enumerate(dict.fromkeys((p.dataset, p.split) for p in kept))}
    return scored(sorted(kept, key=lambda p: order[p.dataset, p.split]), STRICT)


def in_both(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    """The answers of both to the same question under the same condition."""
    others = by_key(second)
    changed = _changed(first, second)
    return [(p, others[key]) for p in first if (key := key_of(p)) in others and key not in changed]
