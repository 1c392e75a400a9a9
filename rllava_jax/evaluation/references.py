"""The questions that predictions are scored against: a data set's, or those of a JSONL file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.core.errors import DuplicateId, InvalidValue, MalformedFile, NoExamples
from data_pipelines.core.values import is_absent, is_number, number_as_text
from data_pipelines.loading.examples import load_examples
from data_pipelines.prepared import layout
from data_pipelines.records import AS_FOUND, BoxReading
from data_pipelines.settings import DataConfig, RegionConfig
from data_pipelines.sources import registry
from data_pipelines.sources.split_builder import without_pictures
from rllava_jax.evaluation.answers import normalise_answer
from rllava_jax.evaluation.json_records import parsed_lines, record_of
from rllava_jax.evaluation.predictions import Prediction, Response, check_box, common_fields

# What a `Response` is made of; its other fields come with an answer.
_READ = ("id", "answer", "dataset", "split", "question", "content_type", "modality", "language", "image_id",
         "answer_type", "family", "choices", "accepted")  # fmt: skip


def from_data(
    name: str,
    root: str,
    split: str,
    *,
    languages: Sequence[str],
    families: Sequence[str],
    seed: int,
    reading: BoxReading = AS_FOUND,
) -> list[Response]:
    """The questions of one split, in the data set's order.

    Args:
      name: a data set of `data_pipelines/sources/registry.py`, or "prepared".
      families: "vqa" are the data set's own; the others are rebuilt from its boxes, with `seed`, as for a run.
      reading: of the boxes.

    Raises:
      DataError: files missing or malformed, or no question left.
    """
    if name != "prepared":
        registry.SOURCES.get(name, setting="--data")
    # Scoring shows no picture, so whichever window the pictures were made with is the right one.
    window = layout.read_record(root).get("window") if name == "prepared" else None
    data = DataConfig(
        source=name, root=root, languages=tuple(languages), window=window or "auto",
        boxes=reading.boxes, orientation=reading.orientation,
    )  # fmt: skip
    with without_pictures():
        examples = load_examples(data, split, seed=seed, max_regions=RegionConfig().max_regions)
    asked = [e for e in examples if e.family in families and (not e.language or e.language in languages)]
    if not asked:
        raise NoExamples(
            f"{name} {split}: has no question of --families {','.join(families)} in --languages {','.join(languages)}"
        )
    return [Response(**common_fields(e, Response, has_region=bool(e.regions))) for e in asked]


def from_file(path: Path) -> list[Response]:
    """The questions of a JSONL file: an object a line with `id` and `answer`, and whatever else a `Response` has.

    Without `answer_type` a question is closed where its answer is yes or no; without `image_id` it has an image of its
    own. Numbers are read as text. Other fields are not read.

    Raises:
      DataError: no file, a malformed line, or two questions of one id.
    """
    found: dict[str, Response] = {}
    for where, fields in parsed_lines(path, settle=True):
        item = _of_fields(fields, where, dataset=path.stem)
        if item.id in found:
            raise DuplicateId(f"{where}: a second question has the id {item.id!r}; ids must be unique")
        found[item.id] = item
    if not found:
        raise NoExamples(f"{path}: has no question; write one object a line, with id and answer")
    return list(found.values())


def from_predictions(predictions: Iterable[Prediction]) -> list[Response]:
    """The questions that a run's own predictions.jsonl asked: one for every condition under which it was asked."""
    found: dict[tuple[str, str], Response] = {}
    for p in predictions:
        item = Response(**common_fields(p, Response, predictions=(), confidence=None, shown_kind=""))
        found.setdefault((p.id, p.condition), item)
    return list(found.values())


def _of_fields(fields: Any, where: str, *, dataset: str) -> Response:
    if not isinstance(fields, dict):
        raise MalformedFile(f"{where}: is {type(fields).__name__}; write one object a line, with id and answer")
    given = {"id": None, "answer": None} | {name: fields[name] for name in _READ if not is_absent(fields.get(name))}
    given = {name: _numbers_as_text(value) for name, value in given.items()}
    if not is_absent(fields.get("has_region")):
        given["has_region"] = fields["has_region"]
    if given.get("id") == "":
        raise InvalidValue(f"{where}: id is empty; give each question one")
    answer_type = given.get("answer_type")
    if isinstance(answer_type, str):
        given["answer_type"] = answer_type.strip().lower()
    elif isinstance(answer := given.get("answer"), str) and normalise_answer(answer) in ("yes", "no"):
        given["answer_type"] = "closed"
    defaults = {"dataset": dataset, "split": "", "question": "", "image_id": given.get("id")}
    item = record_of(Response, defaults | given, where)
    check_box(item, where)
    return item


def _numbers_as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers_as_text(item) for item in value]
    return number_as_text(value) if is_number(value) else value
