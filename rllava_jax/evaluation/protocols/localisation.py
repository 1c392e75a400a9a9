"""Boxes written as loc tokens against the annotated ones."""

from data_pipelines.regions.boxes import boxes_from_text, iou
from rllava_jax.evaluation.answers import LOCALISE_IOU
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores, each


def first_box_iou(answer: str, prediction: str) -> float:
    """IoU of the first box in the prediction with the first in the reference; 0 where either has no complete box.

    The first and not the best: a model must not gain by writing many.
    """
    wanted, given = boxes_from_text(answer), boxes_from_text(prediction)
    return float(iou(wanted[0], given[0])) if wanted and given else 0.0


def _score(item: Response) -> Scores:
    overlap = first_box_iou(item.answer, item.prediction)
    return {
        "accuracy@0.5": float(overlap >= LOCALISE_IOU),
        "iou": overlap,
        "wrote_a_box": float(bool(boxes_from_text(item.prediction))),
    }


def _counts(item: Response) -> bool:
    return bool(boxes_from_text(item.answer))


LOCALISATION = Protocol(
    name="localisation",
    about="Box IoU, and the share of boxes with an IoU of at least 0.5, for questions whose reference is a box. An "
    "answer is four loc tokens, <locYYYY><locXXXX><locYYYY><locXXXX> of top, left, bottom, right in 1/1023 of "
    "the image, as PaliGemma writes them; what stands around them is not read.",
    source="this project; the format is PaliGemma's (google-research/big_vision). An IoU of 0.5 as in PASCAL VOC",
    faults=(
        "Loc tokens are 1/1023 of the image apart: of a box of 10 of them a side, an error of one costs a fifth of its "
        "IoU.",
        "Only the first box counts, in reference and prediction: a question with two right boxes asks for the first.",
    ),
    score=each(_score),
    metrics={"": ("accuracy@0.5", "iou", "wrote_a_box")},
    counts=_counts,
)
