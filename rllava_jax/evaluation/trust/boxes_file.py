"""The published file of perturbed boxes: JSON Lines, a header and then one question a line (docs/TRUST.md).

It holds no images, and all that is needed to ask another model the same: words, boxes, right answers.
"""

import dataclasses
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import DataError, InvalidValue, MalformedFile, NoExamples
from data_pipelines.core.json_files import list_of_objects, parse_json
from data_pipelines.core.text_files import content_of
from data_pipelines.records import AnswerType, Box, VQAExample
from data_pipelines.regions.boxes import box_to_pixels
from data_pipelines.regions.perturbations import SEED_RULE, VARIANTS, Variant, is_asked, labels_of, variants
from rllava_jax.evaluation.json_records import record_of
from rllava_jax.evaluation.predictions import common_fields

FORMAT = "rllava-trust-boxes"
VERSION = 1
_READ = ("name", "question", "boxes", "labels", "ious", "implied", "clipped")  # of a variant; pixels follow from boxes
_REMEDY = "make it anew with: python -m rllava_jax.trust boxes"


@dataclass(frozen=True, kw_only=True)
class TrustQuestion:
    """One question of the benchmark, with every variant of its region; the fields are those of `VQAExample`.

    Attributes:
      image_size: width and height of the original image in pixels.
      right_boxes: as annotated, (y0, x0, y1, x1) normalised to the image.
      variants: in the order of `trust_boxes.VARIANTS`.
    """

    id: str
    dataset: str
    split: str
    image_id: str
    image_size: tuple[int, int]
    family: str
    question: str
    answer: str
    answer_type: AnswerType
    language: str = "en"
    content_type: str = ""
    modality: str = ""
    provenance: str = ""
    choices: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    right_boxes: tuple[Box, ...] = ()
    right_labels: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class BoxesFile:
    """Attributes:
    header: its first line.
    questions: the others.
    """

    header: dict[str, Any]
    questions: tuple[TrustQuestion, ...]

    @property
    def sha256(self) -> str:
        """Of the questions' lines, as the header has it: names the boxes in every result."""
        return str(self.header["sha256"])


def make(
    examples: Iterable[VQAExample],
    size_of: Callable[[VQAExample], tuple[int, int]],
    *,
    source: str,
    split: str,
    settings: dict[str, Any],
) -> BoxesFile:
    """The boxes of every question that the benchmark asks.

    Args:
      examples: of one split, all of it: false names are drawn from its labels.
      size_of: width and height of an example's image in pixels.
      source: of the data set, as on the command line.
      settings: what else the questions depend on; stands in the header, and is read when a model is asked.

    Raises:
      DataError: no example has a right region.
    """
    everything = list(examples)
    asked = [example for example in everything if is_asked(example)]
    if not asked:
        raise NoExamples(f"{source} {split}: no question has a right box; the benchmark needs a data set with boxes")
    labels = labels_of(everything)
    questions = tuple(_question(example, size_of(example), variants(example, labels)) for example in asked)
    lines = [_line(question) for question in questions]
    header = {
        "format": FORMAT,
        "version": VERSION,
        "source": source,
        "split": split,
        "settings": settings,
        "seed_rule": SEED_RULE,
        "boxes": "boxes: y0,x0,y1,x1 normalised to the image; pixels: x,y,w,h of the original image",
        "questions": len(questions),
        "images": len({question.image_id for question in questions}),
        "families": dict(Counter(question.family for question in questions)),
        "variants": {name: _available(questions, name) for name in VARIANTS},
        "conversations_left_out": sum(bool(e.regions) and bool(e.turns) for e in everything),
        "sha256": _sha256(lines),
    }
    return BoxesFile(header, questions)


def write(path: Path, boxes: BoxesFile) -> None:
    """Writes the file, whole or not at all; compressed where its name ends in .gz."""
    lines = [json.dumps(boxes.header, ensure_ascii=False), *(_line(question) for question in boxes.questions)]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read(path: Path) -> BoxesFile:
    """Reads a file, compressed where its name ends in .gz, and checks that it is what was written.

    Raises:
      DataError: missing, of another format or version, or changed since it was written.
    """
    content = plain_bytes(path)
    try:
        # Not splitlines, which also cuts at signs that a question may hold.
        lines = content.decode().removesuffix("\n").split("\n")
        header = parse_json(lines[0], f"{path}: line 1", remedy=_REMEDY)
        known = isinstance(header, dict) and header.get("format") == FORMAT
    except (DataError, UnicodeDecodeError):
        known = False
    if not known:
        raise _malformed(path, f"is no file of perturbed boxes (its first line is no {FORMAT} header)")
    if header.get("version") != VERSION:
        raise _malformed(path, f"version is {header.get('version')!r}, this program reads {VERSION}")
    if len(lines) - 1 != header.get("questions"):
        raise _malformed(path, f"has {len(lines) - 1} questions, its header says {header.get('questions')}")
    if _sha256(lines[1:]) != header.get("sha256"):
        raise _malformed(path, "its content was changed after it was written (sha256 differs)")
    try:
        return BoxesFile(
            header,
            tuple(_question_of(line, f"{path}: line {number}") for number, line in enumerate(lines[1:], start=2)),
        )
    except DataError as error:
        raise _malformed(path, f"a question cannot be read ({error})") from None


def _malformed(path: Path, fault: str) -> MalformedFile:
    return MalformedFile(f"{path}: {fault}; {_REMEDY}")


def plain_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked where they are compressed. Raises DataError as `read`."""
    return content_of(path, form="JSON Lines", remedy=_REMEDY)


def _question(example: VQAExample, size: tuple[int, int], found: Sequence[Variant]) -> TrustQuestion:
    boxes, labels = found[VARIANTS.index("right")].boxes, tuple(region.label for region in example.regions)
    others = {"image_size": size, "right_boxes": boxes, "right_labels": labels, "variants": tuple(found)}
    return TrustQuestion(**common_fields(example, TrustQuestion, **others))


def _available(questions: Sequence[TrustQuestion], name: str) -> dict[str, Any]:
    """How many questions have the variant, and how many lack it for which reason."""
    held = [next(v for v in question.variants if v.name == name) for question in questions]
    reasons = Counter(v.unavailable for v in held if v.unavailable)
    return {"available": sum(not v.unavailable for v in held), "unavailable": dict(reasons)}


def _line(question: TrustQuestion) -> str:
    fields = dataclasses.asdict(question)
    fields["variants"] = [_variant_to_json(variant, question) for variant in question.variants]
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def _variant_to_json(variant: Variant, question: TrustQuestion) -> dict[str, Any]:
    if variant.unavailable:
        return {"name": variant.name, "unavailable": variant.unavailable}
    width, height = question.image_size
    fields: dict[str, Any] = {
        "name": variant.name,
        "boxes": variant.boxes,
        "pixels": [[round(v, 3) for v in box_to_pixels(box, width=width, height=height)] for box in variant.boxes],
        "ious": variant.ious,
        "labels": variant.labels,
        "implied": variant.implied,
    }
    if variant.clipped:
        fields["clipped"] = True
    if variant.question != question.question:
        fields["question"] = variant.question
    return fields


def _question_of(line: str, where: str) -> TrustQuestion:
    fields = parse_json(line, where, remedy=_REMEDY)
    names = {field.name for field in dataclasses.fields(TrustQuestion)}
    if differ := fields.keys() ^ names if isinstance(fields, dict) else names:
        raise InvalidValue(f"{where}: unknown or missing fields {sorted(differ)}")
    given = list_of_objects(fields["variants"], f"{where}: variants", remedy=_REMEDY)
    found = tuple(_variant_of(variant, fields["question"], where) for variant in given)
    if tuple(variant.name for variant in found) != VARIANTS:
        raise InvalidValue(f"{where}: its variants are not {', '.join(VARIANTS)}")
    return record_of(TrustQuestion, {**fields, "variants": found}, where)


def _variant_of(fields: dict[str, Any], question: str, where: str) -> Variant:
    given: dict[str, Any] = {"question": question, "clipped": False, **fields}
    kept = ("name", "unavailable") if "unavailable" in fields else _READ
    return record_of(Variant, {name: given[name] for name in kept if name in given}, f"{where}: variant")


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
