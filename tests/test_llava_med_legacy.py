"""LLaVA-Med's scripts, faults and all: cases worked by hand from their rules."""

from __future__ import annotations

import pytest

from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.llava_med_legacy import LLAVA_MED_LEGACY, score_closed, score_open
from rllava_jax.evaluation.scoring import rows, scored
from rllava_jax.evaluation.vqa_normalisation import vqa_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The left lung.", "left lung"),
        ("None", "0"),
        ("x-ray", "x ray"),
        ("left -sided", "left sided"),
        ("a-b - c", "ab c"),  # one dash beside a blank, and all dashes vanish instead of becoming blanks
        ("1,000 (ml)", "1000 ml"),
        ("1,000/ml", "1000ml"),  # a comma between digits, and every sign vanishes
        ("3.5 cm.", "3.5 cm"),
        (".5", ".5"),
        ("zero or ten", "0 or 10"),
        ("it isnt", "it isn't"),
        ("somebody'd", "somebodyd"),
        ("couldnt've", "couldn't've"),
        ("." * 34, ".."),  # a flag taken for a count
        ("", ""),
    ],
)
def test_words_are_normalised_as_the_scripts_do(text, words):
    assert vqa_words(text.lower()) == words


def test_repeated_words_count_every_time():
    # 3 found ("lung"), 1 surplus ("liver"), 1 missed ("heart"); of 4 words 1 is a distinct word of the reference.
    scores = score_open("lung heart", "lung lung lung liver")
    assert scores == pytest.approx(
        {"legacy_recall": 3 / 4, "legacy_precision": 3 / 4, "legacy_f1": 3 / 4, "legacy_exact_match": 1 / 4}
    )


def test_a_perfect_answer_of_repeated_words_is_no_exact_match_to_the_scripts():
    assert score_open("side by side", "side by side")["legacy_exact_match"] == 2 / 3


def test_nothing_shared_or_nothing_said_is_zero():
    zero = dict.fromkeys(("legacy_recall", "legacy_precision", "legacy_f1", "legacy_exact_match"), 0)
    assert score_open("lung", "") == score_open("", "lung") == score_open("lung", "heart") == score_open("", "") == zero


@pytest.mark.parametrize(
    ("answer", "prediction", "counted", "dropping"),
    [
        ("yes", "Yes.", 1, 1),
        ("yes", "yes no", 1, 1),
        ("no", "yes no", 1, 1),
        ("no", "abnormal", 1, 1),
        ("no", "I do not know", 1, 1),
        ("yes", "no", 0, None),  # wrong, and gone from the second script's count
        ("yes", "abnormal", 0, None),
        ("yes", "right", 0, 0),
        ("MRI", "MRI", 0, 0),  # right, but without yes or no
        ("abnormal", "abnormal", 1, 1),
        ("no", "none", 0, 0),  # "none" has become "0"
        ("", "yes", 1, 1),
        ("yes", "", 0, 0),
    ],
)
def test_both_readings_of_a_closed_question(answer, prediction, counted, dropping):
    scores = score_closed(answer, prediction)
    assert scores["legacy_closed"] == counted
    assert scores.get("legacy_closed_dropped") == dropping


def item(number: int, answer: str, predictions: tuple[str, ...], answer_type: str = "closed") -> Response:
    return Response(
        id=str(number), dataset="d", split="test", image_id=f"i{number}", question="?",
        answer=answer, answer_type=answer_type, predictions=predictions,
    )  # fmt: skip


def test_a_wrong_yes_or_no_leaves_the_second_denominator_alone():
    items = [item(0, "yes", ("yes",)), item(1, "no", ("yes",)), item(2, "CT", ("CT",)), item(3, "no", ())]
    found = rows(scored(items, LLAVA_MED_LEGACY), LLAVA_MED_LEGACY, bootstrap=0, seed=0)
    values = {row["metric"]: (row["value"], row["n"]) for row in found if row["subset"] == "answer_type=closed"}
    assert values == {"legacy_closed": (1 / 4, 4), "legacy_closed_dropped": (pytest.approx(1 / 3), 3)}


def test_repeated_normalising_is_part_of_the_open_scores():
    # Once: "1,2" → "12"; the scripts normalise twice, which leaves it.
    assert score_open("1,2 mm", "12 mm")["legacy_f1"] == 1
