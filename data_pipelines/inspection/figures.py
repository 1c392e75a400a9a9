"""The numbers of a split: questions, images, boxes, answers and lengths. One row a number, with stable names."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.records import AnnotatedImage, SourceSplit, VQAExample
from data_pipelines.regions import boxes
from data_pipelines.regions.named_structures import link_regions

_TOP = 10
_QUANTILES = {"p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95}
# What a question and an image are counted by, besides all together.
_QUESTION_GROUPS = ("answer_type", "content_type", "family", "task", "modality", "language")
_IMAGE_GROUPS = ("modality", "body_part")


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
      name: what is counted or measured, e.g. "questions".
      group: of what, e.g. "all", "answer_type=closed" or "p50".
    """

    data_set: str
    split: str
    name: str
    group: str
    value: float


def split_figures(data_set: str, split: str, content: SourceSplit) -> list[Figure]:
    """All numbers of one split that need no pixels. Shares are of 1, areas of the image's, lengths in words
    (separated by blanks) and characters; names of labels and answers are compared without case."""
    rows = _counts("questions", content.examples, _QUESTION_GROUPS)
    rows += _counts("images", content.images, _IMAGE_GROUPS)
    questioned = {example.image_id for example in content.examples}
    rows.append(("images_without_questions", "all", len([i for i in content.images if i.image_id not in questioned])))
    rows += [("left_out", reason, len(names)) for reason, names in content.left_out.items()]
    rows += _boxes(content)
    for group in ("all", "closed", "open"):
        chosen = [example for example in content.examples if group in ("all", example.answer_type)]
        rows += _answers(group, [example.answer.casefold() for example in chosen])
    rows += _lengths("question", [example.question for example in content.examples])
    rows += _lengths("answer", [example.answer for example in content.examples])
    return [Figure(data_set, split, *row) for row in rows]


def _counts(
    name: str, items: Sequence[VQAExample] | Sequence[AnnotatedImage], groups: Iterable[str]
) -> list[tuple[str, str, float]]:
    rows: list[tuple[str, str, float]] = [(name, "all", len(items))]
    for group in groups:
        counted = Counter(getattr(item, group) for item in items)
        if set(counted) - {""}:  # the data set says it of some
            rows += [(name, f"{group}={value or '(none)'}", count) for value, count in counted.most_common()]
    return rows


def _boxes(content: SourceSplit) -> list[tuple[str, str, float]]:
    with_boxes = {image.image_id for image in content.images if image.regions}
    areas = [boxes.area(region.box) for image in content.images for region in image.regions]
    of_images = sum(image.image_id in with_boxes for image in content.images)
    on_them = sum(example.image_id in with_boxes for example in content.examples)
    # Prepared questions bring their regions; published ones get those whose labels they name.
    linked, _ = link_regions(
        [example for example in content.examples if not example.regions],
        content.images,
        rule="question",
        max_regions=max(1, len(areas)),
    )
    naming = sum(bool(example.regions) for example in (*content.examples, *linked))
    rows: list[tuple[str, str, float]] = [("boxes", "all", len(areas))]
    for name, part, whole in (
        ("images_with_boxes", of_images, len(content.images)),
        ("questions_on_images_with_boxes", on_them, len(content.examples)),
        ("questions_with_their_own_boxes", naming, len(content.examples)),
    ):
        rows += [(name, "all", part), (f"share_of_{name}", "all", _share(part, whole))]
    labels = Counter(region.label for image in content.images for region in image.regions)
    rows.append(("labels", "all", len(labels)))
    rows += [("boxes", f"label={label or '(none)'}", count) for label, count in labels.most_common()]
    if areas:
        rows += [("box_area", group, float(np.percentile(areas, q))) for group, q in _QUANTILES.items()]
    return rows


def _answers(group: str, answers: Sequence[str]) -> list[tuple[str, str, float]]:
    if not answers:
        return []
    top = Counter(answers).most_common(_TOP)
    return [
        ("distinct_answers", group, len(set(answers))),
        ("share_of_most_frequent_answer", group, _share(top[0][1], len(answers))),
        *(("answer_count", f"{group}={answer}", count) for answer, count in top),
    ]


def _lengths(name: str, texts: Sequence[str]) -> list[tuple[str, str, float]]:
    if not texts:
        return []
    rows: list[tuple[str, str, float]] = []
    for unit, lengths in (("words", [len(text.split()) for text in texts]), ("characters", [len(t) for t in texts])):
        measured = {"mean": np.mean(lengths), "p50": np.median(lengths), "p95": np.percentile(lengths, 95)}
        rows += [(f"{name}_{unit}", group, float(value)) for group, value in measured.items()]
        rows.append((f"{name}_{unit}", "max", max(lengths)))
    return rows


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
