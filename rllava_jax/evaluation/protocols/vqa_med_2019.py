"""ImageCLEF VQA-Med 2019: its organisers' accuracy and BLEU.

The overview paper describes both measures. The organisers published no evaluator for 2019, but one for 2021
(github.com/abachaa/VQA-Med-2021, EvaluationCode/VQA-Med-2021--VQA--Evaluator.py), by the same authors and after the
same description. What follows is its arithmetic on the 2019 test set's references.
"""

import string
import warnings
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile
from typing import Any

from data_pipelines.core.optional_packages import optional_package
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores
from rllava_jax.evaluation.vqa_normalisation import vqa_normalised

# NLTK's English stop words as they were in 2019 (nltk.corpus.stopwords needs a download). Those with an apostrophe are
# left out: punctuation is removed first, so they never match, and "dont" is no stop word.
_STOP_WORD_LIST = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves what which who whom this that these those am is are was were be been being
have has had having do does did doing a an the and but if or because as until while of at by for with about against
between into through during before after above below to from up down in out on off over under again further then once
here there when where why how all any both each few more most other some such no nor not only own same so than too
very s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn
needn shan shouldn wasn weren won wouldn
"""
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def strict_accuracy(references: Sequence[str], prediction: str) -> float:
    """1 where the prediction equals one of the references under the VQA evaluator's normalisation, else 0."""
    normal = vqa_normalised(prediction)
    return float(bool(normal) and any(vqa_normalised(reference) == normal for reference in references))


def bleu(references: Sequence[str], prediction: str, *, backoff: bool = True) -> float:
    """The organisers' BLEU of one answer: the best over the references, each by itself.

    Args:
      backoff: as NLTK's `method0` was up to version 3.2, which leaves out the orders from the first without a match
        on; a right answer of one word has 1. From 3.3 on (github.com/nltk/nltk/pull/1844) such an order is as good as 0
        and makes the whole score 0.

    Raises:
      ConfigError: the package nltk, which rouge-score brings, is not installed.
    """
    if not _split(prediction):
        return 0.0
    return max(_one_bleu(reference, prediction, backoff) for reference in references)


def _one_bleu(reference: str, prediction: str, backoff: bool) -> float:
    wanted, given = _words(reference), _words(prediction)
    if not wanted and not given:
        return 1.0
    translate = _nltk("translate.bleu_score")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no 4-grams in two words
        smoothing = _matched_orders if backoff else translate.SmoothingFunction().method0
        return float(translate.sentence_bleu([wanted], given, smoothing_function=smoothing))


def _matched_orders(precisions: Sequence[Fraction], **_: object) -> list[Fraction]:
    return list(takewhile(lambda precision: precision.numerator, precisions))


def _words(text: str) -> list[str]:
    return [_stemmer().stem(word) for word in _split(text) if word not in _STOP_WORDS]


def _split(text: str) -> list[str]:
    return _tokenizer().tokenize(text.lower().translate(_NO_PUNCTUATION))


def _nltk(module: str) -> Any:
    return optional_package(f"nltk.{module}", "the protocol vqa_med_2019", extra="evaluation")


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    return _nltk("stem.snowball").SnowballStemmer("english")


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    # `word_tokenize` would cut into sentences first, for which it needs a download; without full stops there is one.
    return _nltk("tokenize.destructive").NLTKWordTokenizer()


def _score(item: Response) -> Scores:
    references = item.references
    return {
        "accuracy": strict_accuracy(references, item.prediction),
        "bleu": bleu(references, item.prediction),
        "bleu_unsmoothed": bleu(references, item.prediction, backoff=False),
    }


VQA_MED_2019 = Protocol(
    name="vqa_med_2019",
    about="Strict accuracy and BLEU of ImageCLEF VQA-Med 2019, overall and by category. Alternatives that the test set "
    "marks by # all count, with and without what stands in brackets.",
    source="Ben Abacha et al., VQA-Med: Overview of the Medical Visual Question Answering Task at ImageCLEF 2019, "
    "CEUR-WS 2380 paper 272; github.com/abachaa/VQA-Med-2021, VQA-Med-2021--VQA--Evaluator.py",
    faults=(
        "No evaluator was published for 2019; this is that of 2021, of the same authors and description.",
        "BLEU depends on NLTK's version. Up to 3.2 it passes over n-gram orders without a match (bleu), from 3.3 on "
        "such an order makes the score 0 (bleu_unsmoothed), also that of a right answer of fewer than four words, "
        "which most are.",
        "Backing off has it that \"left right\" for \"right left\" scores 1: of the words all match, of the pairs "
        "none.",
        "No and not are stop words: where the reference is no, every answer of stop words alone has a BLEU of 1.",
        "Accuracy has the faults of vqa_accuracy's normalisation: marks that carry meaning are removed.",
        "The test images are MedPix's, as those of VQA-RAD and MedPix 2.0 are.",
        "The original refuses an empty answer; here it scores 0.",
    ),
    score=_score,
    metrics={"": ("accuracy", "bleu", "bleu_unsmoothed")},
    dataset="vqa_med_2019",
    expected=500,
)  # fmt: skip
