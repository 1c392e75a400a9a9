"""Which regions an example is shown: the right ones, none, or wrong ones on purpose.

R-LLaVA trains with a region in one third of the examples and none in two thirds, so that one model does with and
without. Wrong regions, its author's open wish, teach the model to distrust a hint and measure whether it does.

The five ways to be wrong, for every region of the example:
  shifted   the same box, moved by more than its own height or width, inside the image;
  scaled    the same centre, sides 3 to 4 times longer (cut at the image's edge) or shorter;
  another   another structure's annotated box, of a label that none of the right regions has;
  mirrored  reflected left to right about the image's middle;
  random    anywhere, of similar area and shape.
A wrong box overlaps every right one by an IoU of at most 0.2 (mirrored: under 0.5; scaled: it lies where the right
one lies). A kind that an example cannot have (a box too large to shift, no other structure, one on the midline) falls
to the next of the configured kinds, starting again at the first, and at last to "random", which always exists.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.core.seeding import rng_for
from data_pipelines.records import Box, Region, VQAExample
from data_pipelines.regions.boxes import area, clip, iou
from data_pipelines.settings import PolicyConfig, WrongKind

WRONG_IOU = 0.2
MIRRORED_IOU = 0.5

# Draws of a random box; the second half are smaller, since a box like one that fills the image must overlap it.
_DRAWS = 32


@dataclass(frozen=True)
class Shown:
    """What the model is shown with a question.

    Attributes:
      kind: "right", "none", or "wrong:" and the kind, e.g. "wrong:shifted".
    """

    regions: tuple[Region, ...]
    kind: str


NOTHING = Shown((), "none")


def choose_regions(example: VQAExample, policy: PolicyConfig, rng: np.random.Generator) -> Shown:
    """Draws what a training example is shown. Localise examples and those without a region are shown none."""
    if example.family == "localise" or not example.regions:
        return NOTHING
    if rng.random() >= policy.shown_by_family.get(example.family, policy.shown):
        return NOTHING
    if rng.random() >= policy.wrong or not policy.wrong_kinds:
        return Shown(example.regions, "right")
    return wrong_regions(example, policy.wrong_kinds, rng)


def regions_under(example: VQAExample, condition: str, wrong_kinds: Sequence[WrongKind]) -> Shown:
    """What an example is shown in evaluation under a condition; the same for the same example in every run.

    "wrong" shows a wrong region, "none" and "question_only" show none, all others the right one; what becomes of the
    picture is not decided here (`loading/controls.py`).
    """
    if condition in ("none", "question_only") or example.family == "localise" or not example.regions:
        return NOTHING
    if condition == "wrong":
        return wrong_regions(example, wrong_kinds, rng_for("wrong region", example.id))
    return Shown(example.regions, "right")


def wrong_regions(example: VQAExample, kinds: Sequence[WrongKind], rng: np.random.Generator) -> Shown:
    """As many wrong regions as the example has right ones, of one kind drawn uniformly from `kinds`."""
    first = int(rng.integers(len(kinds))) if kinds else 0
    for kind in (*kinds[first:], *kinds[:first]):
        if regions := _wrong(example, kind, rng):
            return Shown(regions, f"wrong:{kind}")
    return Shown(_wrong(example, "random", rng), "wrong:random")


def _wrong(example: VQAExample, kind: WrongKind, rng: np.random.Generator) -> tuple[Region, ...]:
    """Wrong regions of one kind; none where the example cannot have it."""
    match kind:
        case "shifted":
            return _moved(example, lambda box: _shift(box, rng), WRONG_IOU)
        case "scaled":
            return _moved(example, lambda box: _scale(box, rng), 1.0)
        case "another":
            return another_structure(example, rng)
        case "mirrored":
            return mirrored(example)
        case "random":
            return tuple(Region(random_elsewhere(region.box, example, rng)) for region in example.regions)


def _shift(box: Box, rng: np.random.Generator) -> Box | None:
    """The box moved along one axis by 1.05 to 3 times its side, and along the other by at most its side."""
    low, size = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
    room = np.stack([low, 1 - low - size], axis=1)
    ways = [(axis, toward) for axis in (0, 1) for toward in (0, 1) if room[axis, toward] >= 1.05 * size[axis]]
    if not ways:
        return None
    axis, toward = ways[rng.integers(len(ways))]
    distance = rng.uniform(1.05 * size[axis], min(3 * size[axis], room[axis, toward]))
    low[axis] += distance if toward else -distance
    other = 1 - axis
    low[other] += rng.uniform(-min(size[other], room[other, 0]), min(size[other], room[other, 1]))
    return _box(low, low + size)


def _scale(box: Box, rng: np.random.Generator) -> Box:
    """Larger or smaller at equal odds; always smaller where the image leaves no room to grow threefold in area."""
    factor = rng.uniform(3, 4)
    low, high = np.array(box[:2]), np.array(box[2:])
    middle, half = (low + high) / 2, (high - low) / 2
    larger = _box(middle - factor * half, middle + factor * half)
    if rng.random() < 0.5 and area(larger) >= 3 * area(box):
        return larger
    return _box(middle - half / factor, middle + half / factor)


def another_structure(example: VQAExample, rng: np.random.Generator) -> tuple[Region, ...]:
    """Annotated regions of other labels, as many as the right ones; none where there are too few that lie apart."""
    right_labels = {region.label for region in example.regions}
    named = [region for region in example.distractors if region.label not in right_labels]
    others = [region for region in named if right_overlap(region.box, example) <= WRONG_IOU]
    if len(others) < len(example.regions):
        return ()
    drawn = rng.permutation(len(others))[: len(example.regions)]
    return tuple(others[i] for i in drawn)


def mirrored(example: VQAExample) -> tuple[Region, ...]:
    """The right regions reflected left to right; none where one of them still lies on a right one."""
    return _moved(example, lambda box: (box[0], 1 - box[3], box[2], 1 - box[1]), np.nextafter(MIRRORED_IOU, 0))


def random_elsewhere(right: Box, example: VQAExample, rng: np.random.Generator) -> Box:
    """The first draw that overlaps no right box much, else the one that overlaps least."""
    drawn: list[tuple[float, Box]] = []
    for draw in range(_DRAWS):
        box = _random_box(area(right), rng, smaller=draw >= _DRAWS // 2)
        drawn.append((right_overlap(box, example), box))
        if drawn[-1][0] <= WRONG_IOU:
            break
    return min(drawn)[1]


def _random_box(right_area: float, rng: np.random.Generator, *, smaller: bool) -> Box:
    share = np.exp(rng.uniform(np.log(0.02), np.log(0.25)) if smaller else rng.uniform(-np.log(2), np.log(2)))
    aspect = np.exp(rng.uniform(-np.log(2), np.log(2)))
    size = np.minimum(np.sqrt(right_area * share * np.array([aspect, 1 / aspect])), 1.0)
    low = rng.uniform(0, 1 - size)
    return _box(low, low + size)


def _moved(example: VQAExample, move: Callable[[Box], Box | None], most_overlap: float) -> tuple[Region, ...]:
    """Every right box moved; none where one of them cannot be, or still lies on a right one (on *any*: the mirrored
    left kidney is the right kidney)."""
    boxes = [move(region.box) for region in example.regions]
    if any(box is None or right_overlap(box, example) > most_overlap for box in boxes):
        return ()
    return tuple(Region(box) for box in boxes if box is not None)


def right_overlap(box: Box, example: VQAExample) -> float:
    """IoU of a box with the right box that it overlaps most."""
    return max(iou(box, region.box) for region in example.regions)


def _box(low: np.ndarray, high: np.ndarray) -> Box:
    return clip((low[0], low[1], high[0], high[1]))
