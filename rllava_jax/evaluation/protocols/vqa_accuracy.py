"""VQA accuracy: agreement with ten annotators (Antol et al., 2015)."""

from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores, each
from rllava_jax.evaluation.vqa_normalisation import vqa_normalised

ANNOTATORS = 10


def leave_one_out_accuracy(prediction: str, answers: tuple[str, ...]) -> float:
    """What the published evaluator computes: the mean of min(matches / 3, 1) over every nine of ten answers."""
    normal = vqa_normalised(prediction)
    matches = [vqa_normalised(answer) == normal for answer in answers]
    others = (sum(matches) - match for match in matches)
    return sum(min(count / 3, 1.0) for count in others) / len(answers)


def formula_accuracy(prediction: str, answers: tuple[str, ...]) -> float:
    """What the paper's formula says: min(matches / 3, 1) over all answers."""
    normal = vqa_normalised(prediction)
    return min(sum(vqa_normalised(answer) == normal for answer in answers) / 3, 1.0)


def annotators_answers(item: Response) -> tuple[str, ...]:
    """The answers of ten annotators: `answer` and the nine of `accepted`, or the only one ten times."""
    answers = (item.answer, *item.accepted)
    return answers * ANNOTATORS if len(answers) == 1 else answers


def _score(item: Response) -> Scores:
    answers = annotators_answers(item)
    # "none" and "no answer" are words; an answer without any has no credit, also where an annotator left his empty.
    if not vqa_normalised(item.prediction):
        return {"vqa_accuracy": 0.0, "vqa_accuracy_formula": 0.0}
    return {
        "vqa_accuracy": leave_one_out_accuracy(item.prediction, answers),
        "vqa_accuracy_formula": formula_accuracy(item.prediction, answers),
    }


def _counts(item: Response) -> bool:
    # Neither formula reaches 1 with two or three annotators, and several accepted answers are not several annotators.
    return len(annotators_answers(item)) == ANNOTATORS


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
    score=each(_score),
    metrics={"": ("vqa_accuracy", "vqa_accuracy_formula")},
    counts=_counts,
)  # fmt: skip
