"""Questions rebuilt from boxes, in R-LLaVA's four families (arXiv 2410.20327).

identify  what is the marked structure?          open; one a box
localise  detect liver                           PaliGemma's own task; labels with a single box on their image
verify    is the marked structure the liver?     closed; a box is asked once with its own and once with another label
choose    which of these is marked: A, B, C, D?  closed; one a box

A draw depends on the seed, the image and the number of the box alone, so neither the order nor the other families of
a run matter. Other labels come from the images given, hence from one split.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.core.seeding import rng_for
from data_pipelines.records import AnnotatedImage, Family, Region, VQAExample, question_about
from data_pipelines.regions.boxes import box_to_loc_tokens, iou

IDENTIFY_WORDINGS = (
    "What is the marked structure?",
    "Which structure is marked?",
    "What does the marked region show?",
    "Name the structure in the marked region.",
)
CHOICES = 4

# An oedema and its tumour may have nearly the same box: neither is then a wrong name for the other.
_AMBIGUOUS_IOU = 0.5


def region_questions(images: Iterable[AnnotatedImage], *, families: Sequence[Family], seed: int) -> list[VQAExample]:
    """The questions of the named families (others, such as "vqa", are passed over), ordered by image, then box.

    A box without a label is asked nothing. A box is left out of verify and choose where the split has no other
    label (choose: fewer than three) that is certainly wrong for it, so verify is exactly half yes, half no.
    """
    images = list(images)
    pools = _label_pools(images)
    examples = []
    for image in images:
        for index, region in enumerate(image.regions):
            if not region.label:
                continue
            if "identify" in families:
                examples.append(_identify(image, index, rng_for(seed, "identify", image.image_id, index)))
            if "localise" in families and sum(r.label == region.label for r in image.regions) == 1:
                examples.append(_localise(image, index))
            wrong = _wrong_labels(pools, image, region, rng_for(seed, "wrong labels", image.image_id, index))
            if "verify" in families and wrong:
                examples.extend(_verify(image, index, wrong[0]))
            if "choose" in families and len(wrong) >= CHOICES - 1:
                rng = rng_for(seed, "choose", image.image_id, index)
                examples.append(_choose(image, index, wrong[: CHOICES - 1], rng))
    return examples


def _keys(image: AnnotatedImage) -> tuple[tuple[str, ...], ...]:
    """How near other images are, nearest first: of the same modality and body part, the same modality, any."""
    return (image.modality, image.body_part), (image.modality,), ()


def _label_pools(images: Sequence[AnnotatedImage]) -> dict[tuple[str, ...], list[str]]:
    """Every label of the split, by `_keys` of the images that have it."""
    pools: dict[tuple[str, ...], set[str]] = {}
    for image in images:
        for key in _keys(image):
            pools.setdefault(key, set()).update(region.label for region in image.regions if region.label)
    return {key: sorted(labels) for key, labels in pools.items()}


def _wrong_labels(
    pools: dict[tuple[str, ...], list[str]], image: AnnotatedImage, region: Region, rng: np.random.Generator
) -> list[str]:
    """Labels that are certainly wrong for `region`, hardest first: of the same image, then of like images."""
    ruled_out = {r.label for r in image.regions if iou(r.box, region.box) > _AMBIGUOUS_IOU} | {region.label}
    wrong: list[str] = []
    for tier in (sorted({r.label for r in image.regions if r.label}), *(pools[key] for key in _keys(image))):
        fresh = [label for label in tier if label not in ruled_out]
        wrong += [fresh[i] for i in rng.permutation(len(fresh))]
        ruled_out |= set(fresh)
    return wrong


def _identify(image: AnnotatedImage, index: int, rng: np.random.Generator) -> VQAExample:
    wording = IDENTIFY_WORDINGS[rng.integers(len(IDENTIFY_WORDINGS))]
    return _marked(image, index, "identify", question=wording, answer=image.regions[index].label)


def _localise(image: AnnotatedImage, index: int) -> VQAExample:
    region = image.regions[index]
    name = region.label.lower()
    answer = f"{box_to_loc_tokens(region.box)} {name}"
    return _about(image, index, "localise", question=name, answer=answer, task="detect")


def _verify(image: AnnotatedImage, index: int, wrong_label: str) -> Iterator[VQAExample]:
    for answer, label in (("Yes", image.regions[index].label), ("No", wrong_label)):
        question = f"Is the marked structure the {label.lower()}?"
        yield _marked(image, index, "verify", f"/{answer.lower()}", question=question, answer=answer)


def _choose(image: AnnotatedImage, index: int, wrong: Sequence[str], rng: np.random.Generator) -> VQAExample:
    labels = [image.regions[index].label, *wrong]
    choices = tuple(labels[i] for i in rng.permutation(len(labels)))
    question = f"Which of these is marked: {', '.join(choices[:-1])} or {choices[-1]}?"
    return _marked(image, index, "choose", question=question, answer=labels[0], choices=choices)


def _marked(image: AnnotatedImage, index: int, family: Family, suffix: str = "", **fields: Any) -> VQAExample:
    """A question about one box, which is its region; boxes of other labels are its distractors."""
    region = image.regions[index]
    others = tuple(other for other in image.regions if other.label != region.label)
    marked = {"regions": (region,), "distractors": others, "provenance": image.provenance}
    answer_type = "open" if family == "identify" else "closed"
    return _about(image, index, family, suffix, answer_type=answer_type, **marked, **fields)


def _about(image: AnnotatedImage, index: int, family: Family, suffix: str = "", **fields: Any) -> VQAExample:
    return question_about(image, f"{family}/{image.image_id}/{index}{suffix}", family=family, **fields)
