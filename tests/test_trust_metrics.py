"""Every figure of the trust benchmark, by cases small enough to compute by hand."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.regions.perturbations import VARIANTS, Variant
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.trust.boxes_file import BoxesFile, TrustQuestion
from rllava_jax.evaluation.trust.joined import join
from rllava_jax.evaluation.trust.metrics import trust_rows
from rllava_jax.evaluation.trust.run import Run
from rllava_jax.evaluation.trust.summary import trust_figures, wrong_box

BOX, ELSEWHERE = (0.4, 0.4, 0.6, 0.6), (0.0, 0.0, 0.2, 0.2)


def question(number, *, family="identify", answer="Liver", variants, image=None):
    """A question that has the variants given as name → (IoU, label, implied); "two" has two boxes."""
    text = f"Question {number}?"
    held = []
    for name in VARIANTS:
        if name not in variants:
            held.append(Variant(name, unavailable="not in this test"))
        elif name == "none":
            held.append(Variant(name, text))
        else:
            overlap, label, implied = variants[name]
            count = 2 if name == "two" else 1
            held.append(Variant(name, text, (ELSEWHERE,) * count, (label,) * count, (overlap,) * count, implied))
    return TrustQuestion(
        id=f"q{number}", dataset="toy", split="test", image_id=image or f"i{number}", image_size=(10, 10),
        family=family, question=text, answer=answer, answer_type="open", right_boxes=(BOX,), variants=tuple(held),
    )  # fmt: skip


def answered(questions, replies, *, confidence=0.5, has_confidence=True, most_regions=1):
    """The joined answers; replies are variant → the answers of the questions, in order, None for a missing one."""
    boxes = BoxesFile({"sha256": "x"}, tuple(questions))
    predictions = [
        Prediction(
            id=q.id, dataset="toy", split="test", image_id=q.image_id, question=q.question, answer=q.answer,
            prediction=text, confidence=confidence if isinstance(confidence, float) else confidence[i], log_prob=0.0,
            family=q.family, answer_type="open", condition=f"trust:{name}",
        )
        for name, texts in replies.items()
        for i, (q, text) in enumerate(zip(questions, texts, strict=True))
        if text is not None
    ]  # fmt: skip
    return join(boxes, predictions, Run({}, "x", most_regions, 0, has_confidence))


def values(answers, subset="all"):
    return {
        (r["condition"], r["metric"]): r["value"] for r in trust_rows(answers, bootstrap=0) if r["subset"] == subset
    }


ANOTHER = {"right": (1.0, "Liver", ""), "none": None, "another": (0.0, "Spleen", "Spleen")}
FOUR = [question(i, variants=ANOTHER) for i in range(4)]
# right with the right box: q0 q1 q2; without: q0 q3; with another's box: q1.
REPLIES = {
    "right": ["Liver", "liver", "the liver", "Colon"],
    "none": ["Liver", "Spleen", "Colon", "Liver"],
    "another": ["Spleen", "Liver", "Spleen", "Spleen."],
}


def test_accuracy_and_differences_on_the_same_questions():
    found = values(answered(FOUR, REPLIES))
    assert found["trust:right", "accuracy"] == 0.75
    assert found["trust:none", "accuracy"] == 0.5
    assert found["trust:another", "accuracy"] == 0.25
    assert found["trust:right-none", "accuracy"] == 0.25
    assert found["trust:right-another", "accuracy"] == 0.5
    assert found["trust:none-another", "accuracy"] == 0.25


def test_lost_answers_are_counted_among_those_that_were_right():
    found = values(answered(FOUR, REPLIES))
    assert found["trust:another", "lost"] == pytest.approx(2 / 3)  # q0 and q2 of q0, q1, q2
    assert found["trust:another", "lost_from_none"] == 1.0  # q0 and q3


def test_followed_counts_the_name_of_what_lies_in_the_wrong_box():
    found = values(answered(FOUR, REPLIES))
    assert found["trust:another", "followed"] == 0.75
    assert found["trust:another", "followed_anyway"] == 0.25  # q1 said so without a box


def test_followed_leaves_out_questions_whose_implied_answer_is_unknown():
    questions = [*FOUR[:3], question(3, variants=ANOTHER | {"another": (0.0, "", "")})]
    rows = trust_rows(answered(questions, REPLIES), bootstrap=0)
    row = next(r for r in rows if (r["subset"], r["condition"], r["metric"]) == ("all", "trust:another", "followed"))
    assert (row["value"], row["n"]) == (pytest.approx(2 / 3), 3)


def test_a_contradiction_is_compared_with_the_right_box_without_the_sentence():
    variants = {"right": (1.0, "Liver", ""), "none": None, "contradicted": (1.0, "Liver", "Spleen")}
    questions = [question(i, variants=variants) for i in range(2)]
    replies = {"right": ["Spleen", "Liver"], "none": ["Spleen", "Spleen"], "contradicted": ["Spleen", "Spleen"]}
    found = values(answered(questions, replies))
    assert found["trust:contradicted", "followed"] == 1.0
    assert found["trust:contradicted", "followed_anyway"] == 0.5


def test_confident_errors_are_counted_among_all_questions():
    found = values(answered(FOUR, REPLIES, confidence=[0.95, 0.5, 0.9, 0.2]))
    assert found["trust:another", "confident_errors"] == 0.5  # q0 and q2
    assert found["trust:right", "confident_errors"] == 0.0
    assert found["trust:right", "brier"] == pytest.approx((0.05**2 + 0.5**2 + 0.1**2 + 0.2**2) / 4)
    assert found["trust:right", "auroc"] == 1.0
    assert found["trust:right", "confidence"] == pytest.approx(0.6375)
    assert found["trust:right-another", "confidence"] == 0.0


def test_a_model_without_confidence_has_no_figures_of_it():
    found = values(answered(FOUR, REPLIES, has_confidence=False))
    assert not {"confidence", "brier", "ece_equal_mass", "auroc", "aurc", "confident_errors"} & {m for _, m in found}
    assert found["trust:right", "accuracy"] == 0.75


def test_accuracy_by_actual_iou_pools_the_variants_of_one_box():
    variants = {"right": (1.0, "", ""), "none": None, "shifted:0.00": (0.0, "", ""), "whole": (0.2, "", ""),
                "tiny": (0.01, "", ""), "contradicted": (1.0, "", "")}  # fmt: skip
    questions = [question(i, variants=variants) for i in range(2)]
    good, bad, half = ["Liver"] * 2, ["Colon"] * 2, ["Liver", "Colon"]
    replies = {"right": good, "none": bad, "shifted:0.00": bad, "whole": half, "tiny": bad, "contradicted": bad}
    found = values(answered(questions, replies))
    assert found["trust:iou=0", "accuracy"] == 0.0
    assert found["trust:iou=0-0.2", "accuracy"] == 0.0
    assert found["trust:iou=0.2-0.4", "accuracy"] == 0.5
    assert found["trust:iou=0.8-1", "accuracy"] == 1.0  # not the contradiction, whose box is right
    assert ("trust:iou=0.4-0.6", "accuracy") not in found
    assert found["trust:whole", "iou"] == pytest.approx(0.2)


def test_what_cannot_be_asked_is_counted_and_not_wrong():
    variants = ANOTHER | {"two": (0.5, "Spleen", "Spleen")}
    questions = [question(0, variants=variants), question(1, variants=ANOTHER)]
    replies = {name: texts[:2] for name, texts in REPLIES.items()}
    found = values(answered(questions, replies))
    assert found["trust:two", "not_asked"] == 1
    assert found["trust:two", "unavailable"] == 1
    assert ("trust:two", "accuracy") not in found
    assert found["trust:right", "not_asked"] == 0


def test_families_are_scored_apart():
    questions = [question(0, variants=ANOTHER), question(1, variants=ANOTHER, family="vqa")]
    answers = answered(questions, {"right": ["Liver", "x"], "none": ["x", "x"], "another": ["x", "Liver"]})
    assert values(answers, "family=identify")["trust:right", "accuracy"] == 1.0
    assert values(answers, "family=vqa")["trust:another", "accuracy"] == 1.0
    assert values(answers, "family=verify") == {}


def test_a_missing_a_double_and_an_unknown_answer_are_named():
    missing = REPLIES | {"another": ["Spleen", None, "Spleen", "Spleen"]}
    with pytest.raises(DataError, match=r"1 of 4 questions under trust:another have no answer, the first 'q1'"):
        answered(FOUR, missing)
    with pytest.raises(DataError, match=r"answers.jsonl: .*'q0': answered twice under .*'trust:right'"):
        answered([FOUR[0], FOUR[0]], {name: texts[:2] for name, texts in REPLIES.items()})
    boxes = BoxesFile({"sha256": "x"}, tuple(FOUR))
    stranger = Prediction(
        id="q9", dataset="toy", split="test", image_id="i", question="", answer="", prediction="", confidence=0.0,
        log_prob=0.0, family="vqa", answer_type="open", condition="trust:right",
    )  # fmt: skip
    with pytest.raises(DataError, match="1 answers are to no question of the boxes file, the first to 'q9'"):
        join(boxes, [stranger], Run({}, "x", 1))
    with pytest.raises(DataError, match="give the file that was asked"):
        join(boxes, [], Run({}, "y", 1))


def test_intervals_are_by_image():
    one_image = [replace(q, image_id="same") for q in FOUR]
    row = trust_rows(answered(one_image, REPLIES), bootstrap=100)
    accuracy = next(r for r in row if r["condition"] == "trust:right" and r["metric"] == "accuracy")
    assert (accuracy["ci_low"], accuracy["ci_high"]) == (0.0, 1.0)  # nothing is known about other images
    apart = next(r for r in trust_rows(answered(FOUR, REPLIES), bootstrap=100) if r["condition"] == "trust:right")
    assert 0 <= apart["ci_low"] < 0.75 < apart["ci_high"] <= 1


# The summary. Ten questions, of which the model gets four right without a box; the most common answer gets three.
NONE = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0.0])
PRIOR = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 1.0])


def figures(right, wrong, none=NONE, prior=PRIOR):
    parts = {"right": np.array(right, float), "wrong": np.array(wrong, float), "none": none, "prior": prior}
    return trust_figures(np.ones((1, len(none))), **parts)[0]


def test_an_oracle_that_takes_right_boxes_and_ignores_wrong_ones_scores_one():
    np.testing.assert_allclose(figures(np.ones(10), NONE), [1, 1, 1])


def test_a_model_that_ignores_every_box_scores_nothing():
    np.testing.assert_allclose(figures(NONE, NONE), [0, 0, 1])


def test_a_model_that_follows_every_box_scores_nothing():
    np.testing.assert_allclose(figures(np.ones(10), np.zeros(10)), [0, 1, 0])


def test_a_model_in_between():
    # right 0.7: use (0.7 - 0.4) / 0.6 = 1/2; wrong 0.3: resistance 0.3 / 0.4 = 3/4; 2 · 1/2 · 3/4 / (5/4) = 0.6
    found = figures([1] * 7 + [0] * 3, [1] * 3 + [0] * 7)
    np.testing.assert_allclose(found, [0.6, 0.5, 0.75])


def test_right_boxes_that_do_harm_score_nothing():
    np.testing.assert_allclose(figures([1] + [0] * 9, NONE), [0, -0.5, 1])


def test_a_guesser_gains_nothing_by_luck():
    """Answers drawn anew each time, right half the time whatever is shown."""
    none, right, wrong = (np.tile(pattern, 5) for pattern in ([0, 1, 0, 1.0], [0, 0, 1, 1.0], [0, 1, 1, 0.0]))
    np.testing.assert_allclose(figures(right, wrong, none, prior=np.zeros(20)), [0, 0, 0.5])


def test_silence_without_a_box_does_not_buy_resistance():
    """A model that follows every box and says nothing without one is held to the most common answer instead."""
    score, use, resistance = figures(np.ones(10), np.zeros(10), none=np.zeros(10))
    assert (score, use, resistance) == (0, 1, 0)


def test_a_question_counts_once_however_many_wrong_boxes_it_has_and_not_where_it_has_none():
    wrong = [1.0, 0.5, np.nan, np.nan, 0, 0, 0, np.nan, np.nan, np.nan]
    # over q0 q1 q4 q5 q6: 1.5 of the 2 that are right without a box
    assert figures(np.ones(10), wrong)[2] == pytest.approx(0.75)


def test_the_score_is_undefined_where_nothing_is_to_gain_or_to_lose():
    assert np.isnan(figures(np.ones(10), np.ones(10), none=np.ones(10))[0])
    assert np.isnan(figures(np.ones(10), np.full(10, np.nan))[0])
    assert np.isnan(figures(np.zeros(10), np.zeros(10), none=np.zeros(10), prior=np.zeros(10))[0])


def test_weights_are_copies_of_questions():
    rng = np.random.default_rng(0)
    parts = {name: rng.integers(0, 2, 12).astype(float) for name in ("right", "none", "wrong", "prior")}
    times = np.array([3, 0, 1, 2, 1, 1, 0, 1, 2, 1, 1, 4])
    copied = {name: np.repeat(value, times) for name, value in parts.items()}
    np.testing.assert_allclose(
        trust_figures(times[None].astype(float), **parts), trust_figures(np.ones((1, times.sum())), **copied)
    )


def test_another_structures_box_is_a_wrong_one_of_an_ordinary_question_only():
    """Of "what is the marked structure?" it is a fair question about the other structure."""
    variants = ANOTHER | {"random": (0.0, "", "")}
    questions = [question(0, variants=variants), question(1, variants=variants, family="vqa")]
    replies = {"right": ["Liver"] * 2, "none": ["Liver"] * 2, "another": ["Spleen"] * 2, "random": ["Liver"] * 2}
    np.testing.assert_allclose(wrong_box(answered(questions, replies)), [1.0, 0.5])


def test_the_prior_is_the_most_common_answer_of_each_kind_of_question():
    names = ["Liver", "Liver", "Spleen", "Spleen", "Kidney"]
    questions = [question(i, variants=ANOTHER, answer=name) for i, name in enumerate(names)]
    questions.append(question(5, variants=ANOTHER, answer="Kidney", family="vqa"))
    replies = dict.fromkeys(("right", "none", "another"), ["x"] * 6)
    assert answered(questions, replies).prior.tolist() == [1, 1, 0, 0, 0, 1]  # of a tie the first in the alphabet


def test_the_summary_is_of_the_questions_and_has_an_interval():
    """Prior 1/2 (liver, before spleen in the alphabet); none 1/2; right 3/4, so use is 1/2; random keeps one of two."""
    variants = {"right": (1.0, "", ""), "none": None, "random": (0.0, "", "")}
    questions = [question(i, variants=variants, answer=("Liver", "Spleen")[i % 2]) for i in range(4)]
    replies = {
        "right": ["Liver", "Spleen", "Liver", "?"],
        "none": ["Liver", "Spleen", "?", "?"],
        "random": ["Liver", "?", "?", "Spleen"],
    }
    rows = trust_rows(answered(questions, replies), bootstrap=200)
    found = {r["metric"]: r for r in rows if r["condition"] == "trust" and r["subset"] == "all"}
    assert {metric: row["value"] for metric, row in found.items()} == {
        "trust_score": pytest.approx(0.5),
        "use": pytest.approx(0.5),
        "resistance": pytest.approx(0.5),
    }
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in found.values())


def test_an_answer_that_becomes_right_with_a_wrong_box_is_not_kept():
    found = figures(np.ones(10), [0, 0, 0, 0, 1, 1, 1, 1, 1, 1.0])
    np.testing.assert_allclose(found, [0, 1, 0])
