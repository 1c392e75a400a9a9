"""AUC, F1 and accuracy against scikit-learn's documented values, SciPy, and hand-computed cases."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from data_pipelines.core.errors import DataError
from rllava_jax.evaluation.classification import (
    binary_auc,
    binary_f1,
    class_accuracy,
    class_auc,
    class_f1,
    macro,
)
from rllava_jax.evaluation.confidence.calibration import ones
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.classification import CLASSIFICATION
from rllava_jax.evaluation.protocols.findings import FINDINGS, probability_of_yes


def item(answer, prediction, *, name="q", content_type="", confidence=None, **fields):
    return Response(
        id=name, dataset="d", split="test", image_id=name, question="?", answer=answer, content_type=content_type,
        predictions=(prediction,), confidence=confidence, fields=fields,
    )  # fmt: skip


def test_the_auc_of_scikit_learns_documentation():
    positive, score = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    assert binary_auc(ones(4), score, positive) == pytest.approx(0.75)


def test_the_f1_of_scikit_learns_documentation():
    wanted, predicted = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])
    (per_class,) = class_f1(ones(6), predicted, wanted, 3)
    assert per_class == pytest.approx([0.8, 0, 0])
    assert macro(per_class[None]) == pytest.approx(0.8 / 3)


def test_the_balanced_accuracy_of_scikit_learns_documentation():
    wanted, predicted = np.array([0, 1, 0, 0, 1, 0]), np.array([0, 1, 0, 0, 0, 1])
    assert macro(class_accuracy(ones(6), predicted, wanted, 2)) == pytest.approx(0.625)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_the_auc_is_scipys_rank_statistic(drawn):
    score, positive = np.array([s for s, _ in drawn], float), np.array([p for _, p in drawn])
    assume(positive.any() and not positive.all())
    expected = mannwhitneyu(score[positive], score[~positive]).statistic / (positive.sum() * (~positive).sum())
    assert binary_auc(ones(len(score)), score, positive) == pytest.approx(expected)


def test_an_auc_of_one_kind_alone_is_undefined_and_leaves_the_mean():
    wanted = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 0.3], [0.3, 0.7, 0.3], [0.4, 0.6, 0.3]])
    found = class_auc(ones(4), scores, wanted)
    np.testing.assert_array_equal(found, [[1, 1, np.nan]])
    assert macro(found) == 1
    assert np.isnan(macro(np.full((1, 2), np.nan)))


def test_an_f1_of_nothing_is_0():
    none = np.zeros(3, bool)
    assert binary_f1(ones(3), none, none) == 0


def test_a_resample_is_scored_as_if_it_were_written_out():
    wanted, predicted = np.array([0, 1, 1, 2]), np.array([0, 1, 2, -1])
    weights = np.array([[2.0, 0, 1, 3]])
    rows = [0, 0, 2, 3, 3, 3]
    for statistic in (class_f1, class_accuracy):
        np.testing.assert_array_equal(
            statistic(weights, predicted, wanted, 3), statistic(ones(6), predicted[rows], wanted[rows], 3)
        )


# One of several classes.


def test_classification_by_hand():
    items = [item("CT", "ct"), item("CT", "MRI"), item("mri", "the MRI"), item("X-ray", "ultrasound")]
    assert [CLASSIFICATION.score(item)["accuracy"] for item in items] == [1, 0, 1, 0]
    # ct: 1 hit, 0 false alarms, 1 missed: 2/3. mri: 1 hit, 1 false alarm: 2/3. x ray: 0.
    assert CLASSIFICATION.corpus["f1_macro"](items)(ones(4)) == pytest.approx(4 / 9)
    assert CLASSIFICATION.corpus["balanced_accuracy"](items)(ones(4)) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert np.isnan(CLASSIFICATION.corpus["auc_macro"](items)(ones(4)))
    assert CLASSIFICATION.subsets(items[3]) == ("all", "class=x ray")


def test_the_auc_of_classes_takes_their_scores():
    items = [
        item("CT", "ct", scores={"CT": 0.9, "MRI": 0.1}),
        item("CT", "mri", scores={"CT": 0.2, "MRI": 0.8}),
        item("MRI", "mri", scores={"CT": 0.4, "MRI": 0.6}),
    ]
    # Of the pairs of a CT and the MRI, one of two is in order, for either class.
    assert CLASSIFICATION.corpus["auc_macro"](items)(ones(3)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"CT": 0.5}, "scores is of 'ct', and lacks the class 'mri'; write a number for each of the 2 classes"),
        ({}, "scores is of nothing, and lacks the class 'ct'"),
        ({"CT": 0.5, "MRI": "high"}, r"scores\['mri'\] is 'high'"),
        ({"CT": 0.5, "MRI": float("nan")}, r"scores\['mri'\] is nan"),
        ({"CT": 0.5, "MRI": True}, r"scores\['mri'\] is True"),
        ([0.5, 0.5], r"scores is \[0.5, 0.5\], expected an object"),
    ],
)
def test_scores_that_are_none_are_named(scores, message):
    items = [item("CT", "ct", name="a", scores={"CT": 1, "MRI": 0}), item("MRI", "mri", name="b", scores=scores)]
    with pytest.raises(DataError, match=f"prediction 'b': {message}"):
        CLASSIFICATION.corpus["auc_macro"](items)


def test_scores_of_some_predictions_alone_are_refused():
    with pytest.raises(DataError, match="'b': lacks scores, which others have"):
        CLASSIFICATION.corpus["auc_macro"]([item("CT", "ct", scores={"CT": 1}), item("CT", "ct", name="b")])


# Findings.


def test_findings_by_hand():
    def finding(name, answer, prediction, probability):
        return item(answer, prediction, content_type=name, probability_yes=probability)

    edema = [finding("edema", a, p, q) for a, p, q in (("yes", "yes", 0.9), ("no", "yes", 0.6), ("no", "no", 0.1))]
    mass = [finding("mass", a, p, q) for a, p, q in (("Yes", "no", 0.2), ("no", "no.", 0.3))]
    auc, f1 = FINDINGS.corpus["auc"], FINDINGS.corpus["f1"]
    assert auc(edema)(ones(3)) == pytest.approx(1)
    assert f1(edema)(ones(3)) == pytest.approx(2 / 3)
    assert auc(mass)(ones(2)) == pytest.approx(0)
    assert f1(mass)(ones(2)) == pytest.approx(0)
    assert auc(edema + mass)(ones(5)) == pytest.approx(1 / 2)
    assert f1(mass + edema)(ones(5)) == pytest.approx(1 / 3)
    assert [FINDINGS.score(item)["accuracy"] for item in edema + mass] == [1, 0, 1, 0, 1]
    assert FINDINGS.subsets(mass[0]) == ("all", "content_type=mass")


def test_without_a_probability_the_confidence_of_yes_or_no_is_taken():
    assert probability_of_yes(item("yes", "Yes.", confidence=0.8)) == 0.8
    assert probability_of_yes(item("yes", "no", confidence=0.8)) == pytest.approx(0.2)
    assert probability_of_yes(item("yes", "maybe", confidence=0.8)) is None
    assert probability_of_yes(item("yes", "no", confidence=0.8, probability_yes=0.6)) == 0.6


@pytest.mark.parametrize("given_value", ["0.5", True, 1.5, -0.1, float("nan")])
def test_a_probability_that_is_none_is_named(given_value):
    with pytest.raises(DataError, match=r"'q': probability_yes is .*, expected a number from 0 to 1"):
        probability_of_yes(item("yes", "yes", probability_yes=given_value))


def test_what_has_no_probability_counts_as_wrong_for_the_auc():
    right = item("yes", "yes", content_type="mass", probability_yes=0.9)
    negative = item("no", "no", content_type="mass", probability_yes=0.1)
    for lost in (item("yes", "", content_type="mass"), item("no", "perhaps", content_type="mass", confidence=1.0)):
        # Of two pairs of a positive and a negative, the lost one's is out of order.
        assert FINDINGS.corpus["auc"]([right, negative, lost])(ones(3)) == pytest.approx(0.5)


def test_a_question_without_an_answer_is_ranked_worst_in_every_class():
    items = [item("ct", "ct", scores={"ct": 1, "mri": 0}), item("mri", "mri", scores={"ct": 0, "mri": 1})]
    lost = dataclasses.replace(item("ct", ""), predictions=())
    assert CLASSIFICATION.corpus["auc_macro"](items)(ones(2)) == pytest.approx(1)
    assert CLASSIFICATION.corpus["auc_macro"]([*items, lost])(ones(3)) == pytest.approx(0.5)


def test_without_any_probability_findings_have_no_auc():
    items = [item("yes", "yes", content_type="edema"), item("no", "no", content_type="edema")]
    assert np.isnan(FINDINGS.corpus["auc"](items)(ones(2)))


def test_questions_that_are_not_yes_or_no_or_name_no_finding_are_no_findings():
    assert FINDINGS.counts(item("Yes", "", content_type="edema"))
    assert not FINDINGS.counts(item("Yes", ""))
    assert not FINDINGS.counts(item("liver", "", content_type="organ"))
