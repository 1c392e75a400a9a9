"""A question's region made wrong by degrees: the boxes of the region trust benchmark.

    right          the annotated box, as a plain box
    none           no box
    shifted:IOU    the same box moved until its IoU with the right one is 0.75, 0.5 or 0.25; at 0 it just touches it
    scaled:FACTOR  the same centre, FACTOR times the area, so that the IoU is FACTOR or its inverse; cut where it would
                   leave the image, and then so marked
    another        the annotated box of a structure with another label, at most 0.2 of IoU with the right one
    mirrored       reflected left to right about the image's middle, less than 0.5 of IoU
    random         anywhere, of similar area and shape, at most 0.2 of IoU
    whole          the whole image
    tiny           the same centre, a tenth of the sides: what a click in place of a drawn box gives
    two            the right box and another structure's, in random order
    contradicted   the right box, and a sentence before the question that gives it a false name

Every draw depends on the example's id and the variant alone. A variant that an example cannot have is left out and says
why; no other takes its place. Of a question with several right boxes all are moved (but for whole, two, contradicted).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.conditions import TRUST as TRUST_CONDITIONS
from data_pipelines.core.seeding import rng_for
from data_pipelines.records import Box, VQAExample
from data_pipelines.regions import policy
from data_pipelines.regions.boxes import area, clip, iou

PREFIX = "trust:"
VARIANTS = tuple(condition.removeprefix(PREFIX) for condition in TRUST_CONDITIONS)
FAMILIES = ("vqa", "identify", "verify", "choose")
# As the published file has it, which is made again byte for byte; the module is `core/seeding.py` by now.
SEED_RULE = 'PCG64 seeded by SHA-256 of "trust", the id and the variant, joined by U+001F (data_pipelines/seeding.py)'

# Of a box that IoU says is another's: as `region_questions` rules out a second name, `localise` counts a hit.
_SAME_IOU = 0.5
# A box that was to be wrong and is the right one for all a reader could see.
_UNCHANGED_IOU = 0.95
_SHIFT_TOLERANCE = 0.01
_TINY_SIDE = 0.1
_DIRECTIONS = 64


@dataclass(frozen=True)
class Variant:
    """What one question is asked with.

    Attributes:
      question: its words; only "contradicted" changes them.
      boxes: shown, (y0, x0, y1, x1) normalised to the image.
      labels: of the structure annotated in each box, "" where none is known to be there.
      ious: of each box with the right box that it overlaps most.
      implied: the answer of one who takes the wrong hint for the truth; "" where the annotations cannot tell it, or
        where it is the right answer.
      clipped: a scaled box was cut at the image's edge.
      unavailable: why the example cannot have this variant; then everything else is empty.
    """

    name: str
    question: str = ""
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    ious: tuple[float, ...] = ()
    implied: str = ""
    clipped: bool = False
    unavailable: str = ""

    @property
    def iou(self) -> float | None:
        """Mean over the shown boxes; None where none is shown."""
        return sum(self.ious) / len(self.ious) if self.ious else None


class _Unavailable(Exception):
    """The example cannot have the variant; the message is the reason."""


def is_asked(example: VQAExample) -> bool:
    """Whether the benchmark asks it: it has a right region, which is not its answer, and stands alone."""
    return example.family in FAMILIES and bool(example.regions) and not example.turns


def labels_of(examples: Iterable[VQAExample]) -> tuple[str, ...]:
    """Every label of the examples' regions and distractors, sorted: where false names are drawn from."""
    return tuple(sorted({r.label for e in examples for r in (*e.regions, *e.distractors) if r.label}))


def variants(example: VQAExample, labels: Sequence[str]) -> list[Variant]:
    """Every variant of an example, in the order of `VARIANTS`.

    Args:
      labels: `labels_of` the whole split.
    """
    return [_variant(example, name, labels) for name in VARIANTS]


def _variant(example: VQAExample, name: str, labels: Sequence[str]) -> Variant:
    rng = rng_for("trust", example.id, name)
    kind, _, degree = name.partition(":")
    try:
        if kind == "contradicted":
            return _contradicted(example, labels, rng)
        return _shown(example, name, _boxes(example, kind, degree, rng))
    except _Unavailable as reason:
        return Variant(name, unavailable=str(reason))


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise _Unavailable(otherwise)


def _shown(example: VQAExample, name: str, boxes: Sequence[Box]) -> Variant:
    right = {region.label for region in example.regions}
    found = [_label(box, example) for box in boxes]
    wrong = {label for label in found if label and label not in right}
    return Variant(
        name=name,
        question=example.question,
        boxes=tuple(boxes),
        labels=tuple(found),
        ious=tuple(round(policy.right_overlap(box, example), 4) for box in boxes),
        implied=implied_answer(example, wrong.pop()) if len(wrong) == 1 else "",
        clipped=name.startswith("scaled") and _is_clipped(example, float(name.partition(":")[2])),
    )


def implied_answer(example: VQAExample, label: str) -> str:
    """What the answer would be if the marked structure were called `label`; "" where that is not known or is right."""
    match example.family:
        case "identify":
            answer = label
        case "choose":
            answer = label if label in example.choices else ""
        case "verify":
            answer = "Yes" if example.question.lower().endswith(f" the {label.lower()}?") else "No"
        case _:  # of the data set's own questions nobody has annotated the answer for another structure
            answer = ""
    return "" if answer.lower() == example.answer.lower() else answer


def _boxes(example: VQAExample, kind: str, degree: str, rng: np.random.Generator) -> list[Box]:
    """The boxes that a variant shows. Raises _Unavailable."""
    right = [region.box for region in example.regions]
    boxes = right
    match kind:
        case "none":
            boxes = []
        case "shifted":
            wanted = float(degree)
            boxes = [moved for box in right if (moved := shift_to_iou(box, wanted, rng))]
            _require(len(boxes) == len(right), "no shift to this IoU stays inside the image")
            off = [abs(policy.right_overlap(box, example) - wanted) for box in boxes]
            _require(max(off) <= _SHIFT_TOLERANCE, "the shifted box lies on another right box")
        case "scaled":
            boxes = [clip(_around(box, math.sqrt(float(degree)))) for box in right]
            kept = [iou(box, own) for box, own in zip(boxes, right, strict=True)]
            _require(min(kept) <= _UNCHANGED_IOU, "the image leaves no room to grow")
        case "another":
            _require(example.distractors, "the image has no other annotated structure")
            boxes = [region.box for region in policy.another_structure(example, rng)]
            _require(boxes, f"no other structure overlaps the right box by at most {policy.WRONG_IOU:g} of IoU")
        case "mirrored":
            boxes = [region.box for region in policy.mirrored(example)]
            _require(boxes, f"mirrored, it still overlaps a right box by {policy.MIRRORED_IOU:g} of IoU or more")
        case "random":
            boxes = [policy.random_elsewhere(box, example, rng) for box in right]
            most = max(policy.right_overlap(box, example) for box in boxes)
            _require(
                most <= policy.WRONG_IOU, f"no random box overlaps the right one by at most {policy.WRONG_IOU:g} of IoU"
            )
        case "whole":
            boxes = [(0.0, 0.0, 1.0, 1.0)]
            _require(policy.right_overlap(boxes[0], example) <= _UNCHANGED_IOU, "the right box is the whole image")
        case "tiny":
            boxes = [clip(_around(box, _TINY_SIDE)) for box in right]
        case "two":
            _require(len(right) == 1, "has several right boxes")
            both = [*right, *_boxes(example, "another", "", rng)]
            boxes = [both[i] for i in rng.permutation(2)]
    return [_rounded(box) for box in boxes]


def shift_to_iou(box: Box, wanted: float, rng: np.random.Generator) -> Box | None:
    """The box moved, inside the image, until its IoU with itself as it was is `wanted`.

    With u and v the shifts in units of the sides, the two overlap by (1 - u)(1 - v) of their area, and an IoU of t
    is an overlap of 2 t / (1 + t). Along a direction (a, b) the shift s solves (1 - s a)(1 - s b) = 2 t / (1 + t).
    The direction is drawn from those on which the moved box stays inside: of 64 even ones, and the four towards the
    corners of the room there is, on one of which it stays inside if it does on any.

    Returns:
      None where the image has no room.
    """
    low, high = np.array(box[:2]), np.array(box[2:])
    size = high - low
    room = np.stack([low, 1 - high]) / size  # [before or after, axis], in units of the sides
    angles = list(2 * math.pi * (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS)
    angles += [math.atan2(sy * room[int(sy > 0), 0], sx * room[int(sx > 0), 1]) for sy in (-1, 1) for sx in (-1, 1)]
    overlap = 2 * wanted / (1 + wanted)
    fitting = []
    for angle in angles:
        way = np.array([math.sin(angle), math.cos(angle)])
        shift = way * _distance(abs(way[0]), abs(way[1]), overlap)
        moved = np.concatenate([low + shift * size, high + shift * size])
        if moved.min() >= -1e-9 and moved.max() <= 1 + 1e-9:
            fitting.append(moved)
    return clip(tuple(fitting[rng.integers(len(fitting))])) if fitting else None


def _distance(a: float, b: float, overlap: float) -> float:
    """The smaller root s of (1 - s a)(1 - s b) = overlap, in the form that does not divide by a b = 0."""
    missing = 1 - overlap
    return 2 * missing / (a + b + math.sqrt(max((a + b) ** 2 - 4 * a * b * missing, 0.0)))


def _around(box: Box, side: float) -> Box:
    """A box of the same centre whose sides are `side` times as long, perhaps outside the image."""
    low, high = np.array(box[:2]), np.array(box[2:])
    middle, half = (low + high) / 2, side * (high - low) / 2
    y0, x0, y1, x1 = (float(v) for v in (*(middle - half), *(middle + half)))
    return y0, x0, y1, x1


def _is_clipped(example: VQAExample, factor: float) -> bool:
    grown = [_around(region.box, math.sqrt(factor)) for region in example.regions]
    return any(min(box) < -1e-9 or max(box) > 1 + 1e-9 for box in grown)


def _contradicted(example: VQAExample, labels: Sequence[str], rng: np.random.Generator) -> Variant:
    """The right box, and "The marked structure is the spleen." before the question.

    The false name of a verify question that is to be denied is the one it asks for, that of a choice is another choice:
    so the false sentence always suggests another answer.
    """
    _require(len(example.regions) == 1, "has several right boxes")
    right = example.regions[0].label
    _require(right, "the right box has no label, so no name is known to be false")
    _require(example.language == "en", "the sentence is English, and the question is not")
    same_place = {r.label for r in example.distractors if policy.right_overlap(r.box, example) > _SAME_IOU}
    false = [name for name in labels if name not in same_place | {right}]
    if example.family in ("verify", "choose"):
        false = [name for name in false if implied_answer(example, name)]
    _require(false, "the data set has no other name that is certainly false")
    name = false[rng.integers(len(false))]
    question = f"The marked structure is the {name.lower()}. {example.question}"
    shown = _shown(example, "contradicted", _boxes(example, "right", "", rng))
    return replace(shown, question=question, implied=implied_answer(example, name))


def _label(box: Box, example: VQAExample) -> str:
    """The label of the annotated structure that overlaps the box most, "" where none does by half of IoU."""
    best = max((*example.regions, *example.distractors), key=lambda region: iou(box, region.box))
    return best.label if round(iou(box, best.box), 4) >= _SAME_IOU else ""


def _rounded(box: Box) -> Box:
    """To six digits, as the file has it: a thousandth of a pixel in an image of 1,000."""
    y0, x0, y1, x1 = (round(float(v), 6) for v in box)
    rounded = (y0, x0, y1, x1)
    _require(area(rounded) > 0, "the box would have no area")
    return rounded
