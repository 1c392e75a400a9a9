"""VQA accuracy: agreement with ten annotators (Antol et al., 2015)."""

from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores
from rllava_jax.evaluation.vqa_normalisation import vqa_normalised

ANNOTATORS = 10


def _score(item: Response) -> Scores:
    """vqa_accuracy is what the published evaluator computes: the mean of min(matches / 3, 1) over every nine of ten
    answers; vqa_accuracy_formula what the paper's formula says: min(matches / 3, 1) over all of them."""
    normal = vqa_normalised(item.prediction)
    # "none" and "no answer" are words; an answer without any has no credit, also where an annotator left his empty.
    matches = [bool(normal) and vqa_normalised(answer) == normal for answer in item.references]
    matches *= ANNOTATORS // len(matches)  # the only one counts for all ten
    others = (sum(matches) - match for match in matches)
    return {
        "vqa_accuracy": sum(min(count / 3, 1.0) for count in others) / ANNOTATORS,
        "vqa_accuracy_formula": min(sum(matches) / 3, 1.0),
    }


VQA_ACCURACY = Protocol(
    name="vqa_accuracy",
    about="Agreement with ten annotators: full credit for an answer that three or more of them gave. A question with "
    "one reference counts as one on which all ten agree, so that the score is 1 or 0. A question with another number "
    "of answers is left out and counted.",
    source="Antol et al., VQA: Visual Question Answering, ICCV 2015; github.com/GT-Vision-Lab/VQA, "
    "PythonEvaluationTools/vqaEvaluation/vqaEval.py",
    faults=(
        "The evaluator averages over every nine of the ten annotators, the paper's formula does not: an answer that "
        "three gave has 0.9 by the one (vqa_accuracy) and 1 by the other (vqa_accuracy_formula).",
        "Normalisation removes marks that carry meaning: HER2+ equals HER2-, -5 equals 5, and none equals 0.",
        "Whether a mark becomes a blank or nothing depends on the rest of the answer: \"t1/t2\" is \"t1 t2\", and "
        "\"t1/t2 / flair\" is \"t1t2 flair\".",
        "The evaluator normalises the references only where annotators differ, so that \"x-ray\", given by all ten, "
        "matches no prediction. Here they always are; for VQA's own files, which come normalised, that is the same.",
        "With one reference it is exact match under another name, and says nothing about agreement.",
    ),
    score=_score,
    metrics={"": ("vqa_accuracy", "vqa_accuracy_formula")},
    # Neither formula reaches 1 with two or three annotators, and several accepted answers are not several annotators.
    counts=lambda item: len(item.references) in (1, ANNOTATORS),
)  # fmt: skip
