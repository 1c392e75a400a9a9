"""Boxes written as loc tokens against the annotated ones."""

from data_pipelines.regions.boxes import boxes_from_text
from rllava_jax.evaluation.answers import LOCALISE_IOU, localisation_iou
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores


def _score(item: Response) -> Scores:
    overlap = localisation_iou(item)
    return {
        "accuracy@0.5": float(overlap >= LOCALISE_IOU),
        "iou": overlap,
        "wrote_a_box": float(bool(boxes_from_text(item.prediction))),
    }


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
    score=_score,
    metrics={"": ("accuracy@0.5", "iou", "wrote_a_box")},
    counts=lambda item: bool(boxes_from_text(item.answer)),
)
