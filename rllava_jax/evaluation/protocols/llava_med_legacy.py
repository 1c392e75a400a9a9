"""How LLaVA-Med's published scripts score, faults and all, so that published tables can be reproduced.

Two scripts of github.com/microsoft/LLaVA-Med disagree about a closed question whose answer holds "yes" or "no" (as do
"abnormal" and "unknown") but not the reference:

`legacy_closed`          `llava/eval/run_eval.py` as later corrected: it is wrong. Every closed question counts.
`legacy_closed_dropped`  `llava/eval/run_eval_pvqa.py`, and run_eval.py at commit ad758b6: it leaves the count.

Open questions score alike in both (`llava/eval/eval_metrics/`). Not reproduced: NLTK's sentence BLEU, and the "open
accuracy" over a file of candidate answers that was not published.
"""

from collections import Counter

from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores
from rllava_jax.evaluation.vqa_normalisation import vqa_words


def score_open(answer: str, prediction: str) -> Scores:
    """Token scores of an open question: repeated words of the prediction count every time, and `legacy_exact_match` is
    the share of the prediction's words that are distinct words of the reference."""
    wanted, given = _word_counts(answer), _word_counts(prediction)
    found = sum(times for word, times in given.items() if word in wanted)
    missed = sum(times for word, times in wanted.items() if word not in given)
    exact = sum(word in given for word in wanted) / given.total() if given else 0.0
    precision = found / given.total() if found else 0.0
    recall = found / (found + missed) if found else 0.0
    return {
        "legacy_recall": recall,
        "legacy_precision": precision,
        "legacy_f1": 2 * precision * recall / (precision + recall) if found else 0.0,
        "legacy_exact_match": exact,
    }


def score_closed(answer: str, prediction: str) -> Scores:
    """Both scripts' reading of a closed question; `legacy_closed_dropped` is absent where it leaves the count."""
    wanted, given = vqa_words(answer.lower()), vqa_words(prediction.lower())
    says_either = "yes" in given or "no" in given
    right = says_either and wanted in given
    if says_either and not right:
        return {"legacy_closed": 0.0}
    return {"legacy_closed": float(right), "legacy_closed_dropped": float(right)}


def _word_counts(text: str) -> Counter[str]:
    return Counter(vqa_words(vqa_words(text.lower())).split())


def _score(item: Response) -> Scores:
    by_type = score_closed if item.answer_type == "closed" else score_open
    return by_type(item.answer, item.prediction)


LLAVA_MED_LEGACY = Protocol(
    name="llava_med_legacy",
    about="LLaVA-Med's open recall and closed accuracy by both of its scripts, to reproduce published tables.",
    source="github.com/microsoft/LLaVA-Med: llava/eval/run_eval.py, run_eval_pvqa.py and eval_metrics/; the numbers of "
    "Li et al., NeurIPS 2023, arXiv 2306.00890",
    faults=(
        "An answer is right where it holds the reference anywhere: 'yes no' is right on every yes/no question (92.28 % "
        "of the closed questions of VQA-RAD), and 'abnormal' says no.",
        "A closed answer without 'yes' or 'no' in it is wrong: a perfect model scores 93.38 % on VQA-RAD, where 21 of "
        "272 closed questions ask for something else.",
        "legacy_closed_dropped: a wrong yes/no leaves the count, so that 'yes no' to everything scores 100 %.",
        "Repeated words count every time: 'lung lung lung liver' against 'lung heart' has a recall of 0.75.",
        "legacy_exact_match is no exact match but a share of the prediction's words; 'none' and 'zero' are the same.",
        "The script prints the number of closed questions as that of the open ones, and the other way round.",
        "One answer a question: further accepted answers are not read.",
    ),
    score=_score,
    metrics={
        "answer_type=closed": ("legacy_closed", "legacy_closed_dropped"),
        "answer_type=open": ("legacy_recall", "legacy_precision", "legacy_f1", "legacy_exact_match"),
    },
    counts=lambda item: item.family == "vqa",
    subsets=lambda item: ("all", f"answer_type={item.answer_type}"),
)
