"""Overlap of open answers and captions with their references: BLEU and ROUGE."""

from collections.abc import Callable, Sequence
from functools import partial

from rllava_jax.evaluation.intervals import Statistic
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores
from rllava_jax.evaluation.text_metrics import ORDERS, corpus_bleu_statistic, rouge, sentence_bleu


def _score(item: Response) -> Scores:
    bleus = {f"sentence_bleu{order}": sentence_bleu(item.references, item.prediction, order) for order in ORDERS}
    return {**bleus, **rouge(item.references, item.prediction)}


def _corpus_bleu(order: int, items: Sequence[Response]) -> Statistic:
    references = [item.references for item in items]
    return corpus_bleu_statistic(references, [item.prediction for item in items], order)


_CORPUS: dict[str, Callable[[Sequence[Response]], Statistic]] = {f"bleu{o}": partial(_corpus_bleu, o) for o in ORDERS}

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
        "ROUGE's tokens are a to z and 0 to 9: a Chinese answer has none and scores 0, µ and β are no letters, and "
        "HER2+ is HER2-.",
    ),
    score=_score,
    metrics={"": ("rougeL", "rouge1", "rouge2", *_CORPUS, *(f"sentence_bleu{order}" for order in ORDERS))},
    counts=lambda item: item.answer_type == "open" and item.family in ("vqa", "caption"),
    corpus=_CORPUS,
)  # fmt: skip
