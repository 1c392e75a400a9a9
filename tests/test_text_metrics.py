"""BLEU and ROUGE against the values that their authors and libraries publish, and hand-computed ones."""

import sys

import numpy as np
import pytest
from expected_errors import refused
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.core.errors import ConfigError
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.text_overlap import (
    ORDERS,
    TEXT_OVERLAP,
    corpus_bleu_statistic,
    rouge,
    sentence_bleu,
)

# The example of sacrebleu's own README, for which it prints BLEU = 48.53.
READ_ME = (
    [
        ("The dog bit the man.", "The dog had bit the man."),
        ("It was not unexpected.", "No one was surprised."),
        ("The man bit him first.", "The man had bitten the dog."),
    ],
    ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."],
)

words = st.lists(st.sampled_from(["left", "right", "lung", "no", "the", "mass", "肺", "."]), max_size=6).map(" ".join)


def corpus_bleu(references, predictions, order=4):
    """BLEU of all answers together, each once."""
    return corpus_bleu_statistic(references, predictions, order)(np.ones((1, len(predictions))))[0]


def test_the_corpus_of_sacrebleus_read_me_has_its_published_score():
    assert corpus_bleu(*READ_ME) == pytest.approx(0.4853, abs=5e-5)


def test_a_repeated_word_counts_as_often_as_a_reference_has_it():
    # Papineni et al. 2002, example 2: modified unigram precision 2/7.
    references = ("The cat is on the mat", "There is a cat on the mat")
    assert sentence_bleu(references, "the the the the the the the", 1) == pytest.approx(2 / 7)


def test_a_short_answer_pays_the_brevity_penalty():
    # Both words match; the reference has four: exp(1 - 4/2).
    assert sentence_bleu(["mass in left lung"], "left lung", 1) == pytest.approx(np.exp(-1))
    # Three of four words and one of three pairs: sqrt(3/4 · 1/3).
    assert sentence_bleu(["a b c d"], "a b x d", 2) == pytest.approx(0.5)


def test_an_order_without_a_match_is_smoothed_exponentially():
    # Orders of "a b x d" against "a b c d": 3/4, 1/3, 1/2 of 1/2, and 1/4 of 1/1.
    assert sentence_bleu(["a b c d"], "a b x d", 4) == pytest.approx((3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25)


@pytest.mark.parametrize("order", ORDERS)
def test_a_right_answer_of_one_word_is_wholly_right_as_a_sentence_in_every_order(order):
    assert sentence_bleu(["Liver"], "liver", order) == 1


def test_a_corpus_of_single_words_has_no_bleu_of_pairs():
    assert corpus_bleu([["liver"], ["lung"]], ["liver", "lung"], 1) == 1
    assert corpus_bleu([["liver"], ["lung"]], ["liver", "lung"], 2) == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("reference", "prediction"), [("liver", ""), ("", "liver"), ("", ""), ("liver", " \n"), ("liver", "?")]
)
def test_an_answer_or_a_reference_without_a_word_scores_0(reference, prediction, order):
    assert sentence_bleu([reference], prediction, order) == 0
    assert corpus_bleu([[reference]], [prediction], order) == 0
    assert set(rouge([reference], prediction).values()) == {0.0}


def test_no_answers_have_a_corpus_bleu_of_0():
    assert corpus_bleu([], []) == 0


def test_rouge_has_the_values_of_its_paper():
    # Lin 2004, section 3.1: to S1 "police killed the gunman", "police kill the gunman" is nearer than "the gunman kill
    # police" by ROUGE-L (3/4 and 2/4) and not by ROUGE-2 (1 of 3 pairs each).
    first, second = (
        rouge(["police killed the gunman"], p) for p in ("police kill the gunman", "the gunman kill police")
    )
    assert first["rougeL"] == pytest.approx(3 / 4)
    assert second["rougeL"] == pytest.approx(2 / 4)
    assert first["rouge2"] == second["rouge2"] == pytest.approx(1 / 3)


def test_rouge_is_the_harmonic_mean_of_precision_and_recall():
    # One word of one is right, and one of three wanted: 2 · 1 · 1/3 / (1 + 1/3).
    assert rouge(["left upper lobe"], "lobe")["rouge1"] == pytest.approx(0.5)


def test_of_several_references_the_best_counts():
    assert rouge(["spleen", "the liver"], "the liver") == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert sentence_bleu(["spleen", "the liver"], "the liver") == 1


def test_rouge_sees_nothing_in_chinese_as_its_protocol_says():
    assert rouge(["肝脏"], "肝脏")["rougeL"] == 0
    assert any("Chinese" in fault for fault in TEXT_OVERLAP.faults)
    assert TEXT_OVERLAP.languages == ("en",)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.sampled_from(ORDERS))
def test_a_resample_of_the_corpus_scores_as_if_it_were_written_out(pairs, order):
    references, predictions = [[r] for r, _ in pairs], [p for _, p in pairs]
    times = np.random.default_rng(len(pairs)).integers(0, 3, len(pairs))
    written_out = [at for at, count in enumerate(times) for _ in range(count)]
    weighted = corpus_bleu_statistic(references, predictions, order)(times[None].astype(float))[0]
    assert weighted == corpus_bleu(
        [references[at] for at in written_out], [predictions[at] for at in written_out], order
    )


@given(words, words)
def test_scores_lie_between_0_and_1_whatever_the_case(reference, prediction):
    for order in ORDERS:
        score = sentence_bleu([reference], prediction, order)
        assert 0 <= score <= 1
        assert score == sentence_bleu([reference.upper()], prediction.title(), order)
    for name, score in rouge([reference], prediction).items():
        assert 0 <= score <= 1
        assert score == rouge([reference.upper()], prediction.title())[name]


@given(st.permutations(list(zip(*READ_ME, strict=True))))
def test_the_order_of_the_rows_does_not_matter(rows):
    assert corpus_bleu([r for r, _ in rows], [p for _, p in rows]) == corpus_bleu(*READ_ME)


def test_the_protocol_scores_the_corpus_and_every_answer():
    def item(name, answer, prediction, **more):
        return Response(id=name, dataset="d", split="test", image_id=name, question="?", answer=answer,
                    predictions=(prediction,), **more)  # fmt: skip

    items = [item("a", "liver", "the liver", accepted=("the liver",)), item("b", "left lung", "")]
    first, second = map(TEXT_OVERLAP.score, items)
    assert first["rougeL"] == first["sentence_bleu4"] == 1
    assert set(second.values()) == {0.0}
    # Two words of two right, of a corpus whose references have two and two words: exp(1 - 4/2).
    (bleu1,) = TEXT_OVERLAP.corpus["bleu1"](items)(np.ones((1, 2)))
    assert bleu1 == pytest.approx(np.exp(-1))
    assert {*first, *TEXT_OVERLAP.corpus} == set(TEXT_OVERLAP.metrics_of("all"))
    assert not TEXT_OVERLAP.counts(item("c", "yes", "yes", answer_type="closed"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with refused(ConfigError, "package.missing", "sacrebleu", "pip install -e '.[evaluation]'"):
        corpus_bleu([["a"]], ["a"], 4)
