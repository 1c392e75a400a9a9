"""Overlap of open answers and captions with their references: BLEU by sacrebleu and ROUGE by rouge-score, 0..1.

Settings, which a reported number needs:

BLEU-n (Papineni et al., 2002)   n-gram orders 1 to n, lower case, tokenizer 13a (mteval-v13a's), smoothing "exp"
                                 (Chen & Cherry 2014, method 3: the k-th order without a match has 1 / 2^k of one).
  of a sentence                  over the orders that the sentence is long enough for ("effective order"), so that a
                                 right answer of one word has 1 in all four.
  of a corpus                    n-grams are counted over all answers together; without effective order, as published
                                 scores are: a corpus none of whose answers has n words has a BLEU-n of 0.
ROUGE-1, -2, -L (Lin, 2004)      F1, no stemming; tokens are runs of a–z and 0–9 in lower case: a Chinese answer
                                 has none, and a score of 0 whatever it says.

Of several references BLEU takes every n-gram of any and the length nearest, ROUGE the best one. An answer without
a word has 0, and so has a reference without one.

Axes: S resamples, N answers, K statistics.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.core.optional_packages import optional_package
from rllava_jax.evaluation.intervals import Resampled, Statistic, Weights
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores

ORDERS = (1, 2, 3, 4)
ROUGES = ("rouge1", "rouge2", "rougeL")


def sentence_bleu(references: Sequence[str], prediction: str, order: int = 4) -> float:
    """BLEU-`order` of one answer, with effective order.

    Raises:
      ConfigError: the package sacrebleu is not installed.
    """
    return _share(_bleu(order).sentence_score(prediction, list(references)))


def corpus_bleu_statistic(references: Sequence[Sequence[str]], predictions: Sequence[str], order: int = 4) -> Statistic:
    """BLEU-`order` of the corpus as a function of how often each answer is in it, for the bootstrap.

    BLEU is a function of sums over the answers, so that a resample's BLEU needs no second count of n-grams.

    Raises:
      ConfigError: the package sacrebleu is not installed.
    """
    bleu = _bleu(order)
    scores = [bleu.sentence_score(p, list(r)) for r, p in zip(references, predictions, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], float)
    counts = counts.reshape(len(predictions), 2 * order + 2)  # also where there are none

    def statistic(weights: Weights) -> Resampled:
        sums: Float[np.ndarray, "S K"] = weights @ counts
        return np.array([_from_sums([round(value) for value in row.tolist()], order) for row in sums])

    return statistic


def rouge(references: Sequence[str], prediction: str) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L of one answer; of several references the best, each score for itself.

    Raises:
      ConfigError: the package rouge-score is not installed.
    """
    found = _rouge_scorer().score_multi(list(references), prediction)
    return {name: float(found[name].fmeasure) for name in ROUGES}


def _from_sums(sums: list[int], order: int) -> float:
    correct, total, (system, reference) = sums[:order], sums[order : 2 * order], sums[2 * order :]
    score = optional_package("sacrebleu.metrics", "BLEU", extra="evaluation").BLEU.compute_bleu(
        correct, total, system, reference, smooth_method="exp", max_ngram_order=order
    )
    return _share(score)


def _share(score: Any) -> float:
    # sacrebleu gives 100.00000000000004 for what is all right.
    return min(float(score.score) / 100, 1.0)


@lru_cache(maxsize=len(ORDERS))
def _bleu(order: int) -> Any:
    bleu = optional_package("sacrebleu.metrics", "BLEU", extra="evaluation").BLEU
    return bleu(lowercase=True, tokenize="13a", smooth_method="exp", max_ngram_order=order, effective_order=True)


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    rouge = optional_package("rouge_score.rouge_scorer", "ROUGE", extra="evaluation")
    return rouge.RougeScorer(list(ROUGES), use_stemmer=False)


def _score(item: Response) -> Scores:
    bleus = {f"sentence_bleu{order}": sentence_bleu(item.references, item.prediction, order) for order in ORDERS}
    return {**bleus, **rouge(item.references, item.prediction)}


def _corpus_bleu(order: int, items: Sequence[Response], everyone: Sequence[Response] = ()) -> Statistic:
    return corpus_bleu_statistic([item.references for item in items], [item.prediction for item in items], order)


_CORPUS: dict[str, Callable[..., Statistic]] = {f"bleu{o}": partial(_corpus_bleu, o) for o in ORDERS}

TEXT_OVERLAP = Protocol(
    name="text_overlap",
    about="BLEU-1 to 4, of the corpus (bleu4) and the mean of single answers (sentence_bleu4), and F1 of ROUGE-1, 2 "
    "and L, of open answers and captions.",
    source="BLEU: Papineni et al., ACL 2002, by sacrebleu (Post, WMT 2018; tokenizer 13a, lower case, smoothing exp). "
    "ROUGE: Lin, 2004, by rouge-score (no stemming)",
    faults=(
        "Overlap is not truth: \"no fracture\" and \"fracture\" share most of their words, and \"left lung\" has half "
        "of \"right lung\".",
        "Corpus BLEU-n is 0 where no answer has n words, and sentence BLEU takes only the orders that an answer is "
        "long enough for: neither may be compared with the other, or with a BLEU whose settings are not given.",
        "Where no answer has n words, a wrong answer of n words lifts corpus BLEU-n from 0 to what smoothing gives.",
        "ROUGE's tokens are a to z and 0 to 9: a Chinese answer has none and scores 0, µ and β are no letters, and "
        "HER2+ is HER2-.",
    ),
    score=_score,
    metrics={"": ("rougeL", "rouge1", "rouge2", *_CORPUS, *(f"sentence_bleu{order}" for order in ORDERS))},
    counts=lambda item: item.answer_type == "open" and item.family in ("vqa", "caption"),
    corpus=_CORPUS,
)  # fmt: skip
