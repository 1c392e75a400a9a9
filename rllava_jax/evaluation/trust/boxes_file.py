"""The published file of perturbed boxes: JSON Lines, a header and then one question a line (docs/TRUST.md).

It holds no images, and all that is needed to ask another model the same: words, boxes, right answers.
"""

import dataclasses
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import DataError, InvalidValue, MalformedFile, NoExamples, UserError
from data_pipelines.core.json_files import list_of_objects, parse_json
from data_pipelines.core.text_files import content_of
from data_pipelines.images.windows import window_of
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
        **_facts_of(questions),
        "conversations_left_out": sum(bool(e.regions) and bool(e.turns) for e in everything),
        "sha256": _sha256(lines),
    }
    return BoxesFile(header, questions)


def _facts_of(questions: Sequence[TrustQuestion]) -> dict[str, Any]:
    """What a header says that its questions show. The sum is of their lines alone, so readers compare these."""
    return {
        "seed_rule": SEED_RULE,
        "boxes": "boxes: y0,x0,y1,x1 normalised to the image; pixels: x,y,w,h of the original image",
        "questions": len(questions),
        "images": len({question.image_id for question in questions}),
        "families": dict(Counter(question.family for question in questions)),
        "variants": {name: _available(questions, name) for name in VARIANTS},
    }


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
        questions = tuple(_question_of(line, f"{path}: line {n}") for n, line in enumerate(lines[1:], start=2))
        for number, question in enumerate(questions, start=2):
            _check_boxes(question, f"line {number}: {question.id}")
    except DataError as error:
        raise _malformed(path, f"a question cannot be read ({error})") from None
    _check_header(path, header, questions)
    return BoxesFile(header, questions)


def _check_boxes(question: TrustQuestion, where: str) -> None:
    """Raises: DataError: boxes, overlaps or a size that no image has, or as many as do not go together."""
    if len(question.image_size) != 2 or min(question.image_size) < 1:
        raise InvalidValue(f"{where}: image_size is {list(question.image_size)}; expected width and height")
    named = [("right_boxes", question.right_boxes), *((variant.name, variant.boxes) for variant in question.variants)]
    for name, found in named:
        for box in found:
            y0, x0, y1, x1 = box
            if not (0 <= y0 <= y1 <= 1 and 0 <= x0 <= x1 <= 1):  # of NaN neither holds
                raise InvalidValue(f"{where}: {name} has a box {list(box)}; expected y0,x0,y1,x1 of 0 to 1, in order")
    for variant in question.variants:
        if not all(0 <= overlap <= 1 for overlap in variant.ious):
            raise InvalidValue(f"{where}: {variant.name} has ious {list(variant.ious)}; expected 0 to 1")
        if variant.name == "right" and variant.boxes != question.right_boxes:
            raise InvalidValue(f"{where}: the boxes of right are not right_boxes")


def _check_header(path: Path, header: Mapping[str, Any], questions: Sequence[TrustQuestion]) -> None:
    """Compares the header, which the sum does not cover, with the questions, and its settings with what they can be."""
    for field, value in {**_facts_of(questions), "split": questions[0].split if questions else None}.items():
        if header.get(field) != value:
            said, found = (" ".join(str(one).split())[:80] for one in (header.get(field), value))
            raise _malformed(path, f"its header says {field} {said}, its questions {found}")
    if len({question.split for question in questions}) > 1:
        raise _malformed(path, "its questions are of several splits")
    settings = header.get("settings")
    try:
        if not isinstance(header.get("source"), str) or not isinstance(settings, dict):
            raise InvalidValue("source or settings is missing")
        window_of(settings.get("window", "auto"), "settings.window")
        for name in ("seed", "max_regions"):
            if type(settings.get(name, 0)) is not int:
                raise InvalidValue(f"settings.{name} is {settings[name]!r}")
        if unknown := {question.language for question in questions} - set(settings.get("languages", ())):
            raise InvalidValue(f"settings.languages lacks {', '.join(sorted(unknown))}")
    except (UserError, TypeError, AttributeError) as error:
        raise _malformed(path, f"its header cannot be used ({error})") from None


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
