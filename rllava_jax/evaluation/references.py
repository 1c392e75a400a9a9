"""The questions that predictions are scored against: a data set's, or those of a JSONL file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.core.errors import DataError
from data_pipelines.loading.examples import load_examples
from data_pipelines.prepared import layout
from data_pipelines.records import FAMILIES, VQAExample
from data_pipelines.regions.boxes import boxes_from_text
from data_pipelines.settings import DataConfig, RegionConfig
from data_pipelines.sources import registry
from rllava_jax.evaluation.answer_files import is_encodable, is_number, text_lines
from rllava_jax.evaluation.answers import normalise_answer
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.protocols.protocol import Response

_TEXTS = ("dataset", "split", "question", "content_type", "modality", "language", "image_id")


def from_data(
    name: str, root: str, split: str, *, languages: Sequence[str], families: Sequence[str], seed: int
) -> list[Response]:
    """The questions of one split, in the data set's order.

    Args:
      name: a data set of `data_pipelines/sources/registry.py`, or "prepared".
      families: "vqa" are the data set's own; the others are rebuilt from its boxes, with `seed`, as for a run.

    Raises:
      DataError: files missing or malformed, or no question left.
    """
    if name != "prepared":
        registry.source(name, setting="--data")
    # Scoring shows no picture, so whichever window the pictures were made with is the right one.
    window = layout.read_record(root).get("window") if name == "prepared" else None
    data = DataConfig(source=name, root=root, languages=tuple(languages), window=window or "auto")
    examples = load_examples(data, split, seed=seed, max_regions=RegionConfig().max_regions)
    asked = [e for e in examples if e.family in families and (not e.language or e.language in languages)]
    if not asked:
        raise DataError(
            f"{name} {split}: has no question of --families {','.join(families)} in --languages {','.join(languages)}",
            code="data.no-examples",
        )
    return [_of_example(example) for example in asked]


def from_file(path: Path) -> list[Response]:
    """The questions of a JSONL file: an object a line with `id` and `answer`, and whatever else a `Response` has.

    Without `answer_type` a question is closed where its answer is yes or no; without `image_id` it has an image of its
    own. Numbers are read as text. Other fields are not read.

    Raises:
      DataError: no file, a malformed line, or two questions of one id.
    """
    found: dict[str, Response] = {}
    dataset = path.stem
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: is not JSON ({error}); write one object a line", code="file.malformed") from None
        if not isinstance(fields, dict):
            raise DataError(
                f"{where}: is {type(fields).__name__}; write one object a line, with id and answer",
                code="file.malformed",
            )
        item = _of_fields(fields, where, dataset=dataset)
        if item.id in found:
            raise DataError(
                f"{where}: a second question has the id {item.id!r}; ids must be unique", code="data.duplicate-id"
            )
        found[item.id] = item
    if not found:
        raise DataError(
            f"{path}: has no question; write one object a line, with id and answer", code="data.no-examples"
        )
    return list(found.values())


def from_predictions(predictions: Iterable[Prediction]) -> list[Response]:
    """The questions that a run's own predictions.jsonl asked: one for every condition under which it was asked."""
    found: dict[tuple[str, str], Response] = {}
    for p in predictions:
        item = Response(
            id=p.id, dataset=p.dataset, split=p.split, image_id=p.image_id, question=p.question, answer=p.answer,
            answer_type=p.answer_type, family=p.family, content_type=p.content_type, modality=p.modality,
            choices=p.choices, accepted=p.accepted, has_region=bool(p.right_boxes), condition=p.condition,
        )  # fmt: skip
        found.setdefault((p.id, p.condition), item)
    return list(found.values())


def _of_example(e: VQAExample) -> Response:
    return Response(
        id=e.id, dataset=e.dataset, split=e.split, image_id=e.image_id, question=e.question, answer=e.answer,
        answer_type=e.answer_type, family=e.family, content_type=e.content_type, modality=e.modality,
        language=e.language, choices=e.choices, accepted=e.accepted, has_region=bool(e.regions),
    )  # fmt: skip


def _of_fields(fields: dict[str, Any], where: str, *, dataset: str) -> Response:
    name = _text(fields, "id", where)
    if not name:
        raise DataError(f"{where}: id is empty; give each question one", code="data.invalid-value")
    texts = {field: _text(fields, field, where) for field in _TEXTS if fields.get(field) is not None}
    answer = _text(fields, "answer", where)
    closed = normalise_answer(answer) in ("yes", "no")
    answer_type = _text(fields, "answer_type", where).strip().lower() if "answer_type" in fields else ""
    if answer_type not in ("open", "closed", ""):
        raise DataError(
            f"{where}: answer_type is {fields['answer_type']!r}; write open or closed, or leave it out",
            code="data.invalid-value",
        )
    family = fields.get("family", "vqa")
    if family not in FAMILIES:
        raise DataError(
            f"{where}: family is {family!r}; write one of {', '.join(FAMILIES)}, or leave it out",
            code="data.invalid-value",
        )
    if family == "localise" and not boxes_from_text(answer):
        raise DataError(
            f"{where}: answer is {answer!r}; of family localise, write four loc tokens and a name",
            code="data.invalid-value",
        )
    has_region = fields.get("has_region")
    if not (has_region is None or isinstance(has_region, bool)):
        raise DataError(
            f"{where}: has_region is {has_region!r}; write true or false, or leave it out", code="data.invalid-value"
        )
    return Response(
        id=name,
        **{"dataset": dataset, "split": "", "question": "", "image_id": name, **texts},  # type: ignore[arg-type]
        answer=answer,
        answer_type="closed" if answer_type == "closed" or (not answer_type and closed) else "open",
        family=family,
        has_region=bool(has_region),
        choices=_texts(fields, "choices", where),
        accepted=_texts(fields, "accepted", where),
    )


def _texts(fields: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    values = fields.get(field) or []
    if not isinstance(values, list):
        raise DataError(f"{where}: {field} is {values!r}; write a list of texts", code="data.invalid-value")
    return tuple(_text({field: value}, field, where) for value in values)


def _text(fields: dict[str, Any], field: str, where: str) -> str:
    value = fields.get(field)
    if not (isinstance(value, str) or is_number(value)):
        raise DataError(f"{where}: {field} is {value!r}; write text", code="data.invalid-value")
    if not is_encodable(str(value)):
        raise DataError(
            f"{where}: {field} is {value!r}; it holds half a surrogate pair, write the whole character",
            code="data.invalid-value",
        )
    return str(value)
