"""The scores, on cases computed by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.regions.boxes import box_to_loc_tokens
from rllava_jax.evaluation.answers import exact_match, normalise_answer, token_f1, token_precision, token_recall
from rllava_jax.evaluation.metrics import METRICS, Metric, Row, metrics_of, scores_of
from rllava_jax.evaluation.predictions import Prediction, from_json, read_predictions, to_json
from rllava_jax.evaluation.protocols.strict import OF_A_RUN
from rllava_jax.evaluation.results import markdown_table, write_results
from rllava_jax.evaluation.scoring import score
from rllava_jax.report.tables import index_of, score_table
from rllava_jax.scaling_laws.points import loss_of

BOX = (0.1, 0.2, 0.5, 0.6)


def predicted(answer: str = "yes", prediction: str = "yes", **changes) -> Prediction:
    fields = {
        "id": "q0",
        "dataset": "slake",
        "split": "test",
        "image_id": "i0",
        "question": "Is there a liver?",
        "answer": answer,
        "prediction": prediction,
        "confidence": 0.5,
        "log_prob": -0.69,
        "family": "vqa",
        "answer_type": "closed",
        "condition": "right",
    }
    return from_json({**fields, **changes})


def value(found: list[Row], subset: str, condition: str, metric: str) -> tuple[float, int]:
    (row,) = [r for r in found if (r["subset"], r["condition"], r["metric"]) == (subset, condition, metric)]
    return row["value"], row["n"]


def has(found: list[Row], subset: str, condition: str) -> bool:
    return any((r["subset"], r["condition"]) == (subset, condition) for r in found)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Yes", "yes"),
        (" yes. ", "Yes"),
        ("The liver", "liver"),
        ("X-ray", "x ray"),
        ("Crohn's disease", "crohns disease"),
        ("Two", "2"),
        ("Liver, Heart", "liver heart"),
        ("ＣＴ", "ct"),
        ("", "."),
    ],
)
def test_answers_that_differ_in_form_only_are_equal(a, b):
    assert exact_match(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("no", "abnormal"),
        ("yes", "yes no"),
        ("no", "yes no"),
        ("no", "not"),
        ("right lung", "left lung"),
        ("HER2+", "HER2-"),
        ("HER2", "HER2-"),
        ("-5", "5"),
        ("3.5", "35"),
        ("<5 mm", ">5 mm"),
        ("yes", ""),
        ("", "yes"),
    ],
)
def test_answers_that_differ_in_meaning_are_not_equal(a, b):
    assert not exact_match(a, b)


def test_a_lone_article_is_an_answer():
    assert normalise_answer("A") == "a"


@pytest.mark.parametrize("text", ["The  X-Ray, of (two) kidneys.", "T2–weighted", "-5 HU", "No.5", "HER2-", ""])
def test_normalising_twice_changes_nothing(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once


def test_repeated_words_are_credited_as_often_as_both_have_them():
    assert token_recall("lung lung lung liver", "lung heart") == 1 / 4  # not 3/4
    assert token_recall("lung heart", "lung lung lung liver") == 1 / 2
    assert token_f1("lung heart", "lung lung lung liver") == pytest.approx(2 * 1 / (2 + 4))


def test_recall_and_f1_of_a_partly_right_answer():
    assert token_recall("left lower lobe", "the left lobe of lung") == pytest.approx(2 / 3)
    assert token_precision("left lower lobe", "the left lobe of lung") == pytest.approx(2 / 4)
    assert token_f1("left lower lobe", "the left lobe of lung") == pytest.approx(2 * 2 / (3 + 4))


def test_empty_answers_are_scored_and_do_not_crash():
    assert token_recall("", "") == token_f1("", "") == 1
    assert token_recall("", "liver") == token_f1("", "liver") == 0
    assert token_recall("liver", "") == token_f1("liver", "") == 0


def test_precision_counts_repeated_words_and_empty_answers_as_recall_does():
    assert token_precision("lung heart", "lung lung lung liver") == 1 / 4
    assert token_precision("", "") == 1
    assert token_precision("liver", "") == token_precision("", "liver") == 0


def test_an_accepted_answer_is_as_good_as_the_answer():
    assert scores_of(predicted("yes", "indeed", accepted=("true", "Indeed."))) == {"accuracy": 1}
    # F1 of "left lung": with "left lower lobe" 2/5, with "lung of the left side" 4/7; recall 1/3 and 2/5.
    best = scores_of(predicted("left lower lobe", "left lung", answer_type="open", accepted=("lung of the left side",)))
    expected = {"accuracy": 0, "exact_match": 0, "recall": 2 / 5, "precision": 1, "f1": 4 / 7}
    assert best == pytest.approx(expected)


def test_chinese_answers_are_compared_by_character():
    assert token_recall("左肺上叶", "左肺") == 1 / 2


def test_closed_accuracy_divides_by_all_closed_questions():
    answers = [("yes", "yes"), ("no", "abnormal"), ("no", "yes no"), ("CT", "ct"), ("left", "right")]
    found = score([predicted(a, p, id=str(i)) for i, (a, p) in enumerate(answers)], bootstrap=0, seed=0)
    assert value(found, "answer_type=closed", "right", "accuracy") == (2 / 5, 5)
    assert value(found, "answer_type=yes_no", "right", "accuracy") == (1 / 3, 3)


def test_a_perfect_model_scores_one_and_yes_no_to_everything_scores_zero():
    references = ["yes", "No", "CT ", "Left lung", "3", ""]
    perfect = score([predicted(a, a, id=str(i)) for i, a in enumerate(references)], bootstrap=0, seed=0)
    hedged = score([predicted(a, "yes no", id=str(i)) for i, a in enumerate(references)], bootstrap=0, seed=0)
    assert value(perfect, "answer_type=closed", "right", "accuracy") == (1, 6)
    assert value(hedged, "answer_type=closed", "right", "accuracy") == (0, 6)


def test_open_questions_report_exact_match_recall_and_f1():
    pairs = [("left lung", "left lung"), ("left lung", "lung"), ("liver", "heart")]
    found = score(
        [predicted(a, p, id=str(i), answer_type="open") for i, (a, p) in enumerate(pairs)], bootstrap=0, seed=0
    )
    assert value(found, "answer_type=open", "right", "exact_match") == (pytest.approx(1 / 3), 3)
    assert value(found, "answer_type=open", "right", "recall") == (pytest.approx(1.5 / 3), 3)
    assert value(found, "answer_type=open", "right", "f1") == (pytest.approx((1 + 2 / 3) / 3), 3)


def test_localise_is_scored_by_the_first_box():
    reference = box_to_loc_tokens((0.0, 0.0, 0.5, 1.0)) + " liver"
    half = box_to_loc_tokens((0.0, 0.0, 0.25, 1.0))
    exact = box_to_loc_tokens((0.0, 0.0, 0.5, 1.0))

    def scored(prediction: str) -> dict[str, float]:
        return scores_of(predicted(reference, prediction, family="localise", answer_type="open"))

    assert scored(exact + " heart") == {"accuracy": 1, "accuracy@0.5": 1, "iou": 1}
    assert scored(half + exact)["iou"] == pytest.approx(0.5, abs=2e-3)
    assert scored("<loc0001><loc0002> liver") == {"accuracy": 0, "accuracy@0.5": 0, "iou": 0}
    with pytest.raises(DataError, match="four loc tokens"):
        scores_of(predicted("liver", exact, family="localise"))


def test_content_types_hold_ordinary_questions_only():
    found = score(
        [
            predicted(id="a", content_type="Organ", modality="CT"),
            predicted(id="b", content_type="Organ", modality="CT", prediction="no"),
            predicted(id="c", family="identify", answer_type="open", modality="CT"),
        ],
        bootstrap=0,
        seed=0,
    )
    assert value(found, "content_type=Organ", "right", "accuracy") == (1 / 2, 2)
    assert value(found, "modality=CT", "right", "accuracy") == (1 / 2, 2)
    assert value(found, "answer_type=closed", "right", "accuracy")[1] == 2
    assert not has(found, "answer_type=open", "right")
    assert value(found, "family=identify", "right", "accuracy") == (1, 1)
    assert value(found, "all", "right", "accuracy") == (pytest.approx(2 / 3), 3)


def conditions(id: str, *, right: bool, none: bool, wrong: bool, kind: str = "shifted", **changes) -> list[Prediction]:
    """One question with a region under three conditions, answered rightly or not."""
    given = {"id": id, "right_boxes": (BOX,), **changes}
    return [
        predicted("yes", "yes" if right else "no", condition="right", shown_kind="right", boxes=(BOX,), **given),
        predicted("yes", "yes" if none else "no", condition="none", **given),
        predicted(
            "yes", "yes" if wrong else "no", condition="wrong", shown_kind=f"wrong:{kind}", boxes=(BOX,), **given
        ),
    ]


def test_conditions_are_compared_on_the_questions_that_have_a_region():
    with_region = conditions("a", right=True, none=False, wrong=False) + conditions(
        "b", right=True, none=True, wrong=False
    )
    without = [predicted("yes", "no", id="c", condition=c) for c in ("right", "none", "wrong")]
    found = score(with_region + without, bootstrap=0, seed=0)
    assert value(found, "family=vqa", "right", "accuracy") == (pytest.approx(2 / 3), 3)
    assert value(found, "has_region=yes", "right", "accuracy") == (1, 2)
    assert value(found, "has_region=yes", "right-none", "accuracy") == (1 / 2, 2)
    assert value(found, "has_region=yes", "none-wrong", "accuracy") == (1 / 2, 2)
    # Its rows are over three questions, a difference would be over two.
    assert not has(found, "family=vqa", "right-none")


def test_differences_pair_the_same_question_whatever_the_order():
    a = conditions("a", right=True, none=False, wrong=False, family="identify")
    b = conditions("b", right=True, none=True, wrong=True, family="identify")
    asked_once = predicted(id="c", family="identify", right_boxes=(BOX,))
    found = score([*reversed(b), *a, asked_once], bootstrap=0, seed=0)
    assert value(found, "family=identify", "right", "accuracy") == (1, 3)
    assert value(found, "family=identify", "right-none", "accuracy") == (1 / 2, 2)


def test_blank_is_compared_over_all_questions():
    found = score([predicted(id="a"), predicted("yes", "no", id="a", condition="blank")], bootstrap=0, seed=0)
    assert value(found, "family=vqa", "right-blank", "accuracy") == (1, 1)
    assert value(found, "answer_type=closed", "right-blank", "accuracy") == (1, 1)


def test_wrong_kinds_have_rows_of_their_own():
    found = score(
        conditions("a", right=True, none=True, wrong=True, kind="shifted", family="identify")
        + conditions("b", right=True, none=True, wrong=False, kind="random", family="identify"),
        bootstrap=0,
        seed=0,
    )
    assert value(found, "family=identify", "wrong:shifted", "accuracy") == (1, 1)
    assert value(found, "family=identify", "wrong:random", "accuracy") == (0, 1)
    assert value(found, "family=identify", "wrong", "accuracy") == (1 / 2, 2)


def test_datasets_are_never_pooled():
    found = score([predicted(), predicted("yes", "no", dataset="vqa_rad")], bootstrap=0, seed=0)
    closed = {
        r["dataset"]: r["value"] for r in found if (r["subset"], r["metric"]) == ("answer_type=closed", "accuracy")
    }
    assert closed == {"slake": 1, "vqa_rad": 0}


def test_the_order_of_predictions_changes_no_row():
    several = [p for i in range(9) for p in conditions(str(i), right=True, none=i % 2 == 0, wrong=i % 3 == 0)]
    several = [Prediction(**{**to_json(p), "image_id": f"i{int(p.id) // 2}"}) for p in several]
    forward, backward = (score(ps, bootstrap=50, seed=1) for ps in (several, several[::-1]))
    assert [r["value"] for r in forward] == pytest.approx([r["value"] for r in backward])
    assert [r["ci_low"] for r in forward] == pytest.approx([r["ci_low"] for r in backward], nan_ok=True)


def test_auroc_has_no_row_where_every_answer_is_right():
    found = score([predicted(id="a"), predicted(id="b", image_id="i1")], bootstrap=20, seed=0)
    assert {r["metric"] for r in found if r["subset"] == "all"} == {"accuracy", "confidence", "brier", "ece"}


def test_a_question_answered_twice_is_an_error():
    with pytest.raises(DataError, match="'q0': answered twice under condition 'right'"):
        score([predicted(), predicted()], bootstrap=0, seed=0)


@pytest.mark.parametrize(
    ("subset", "beside"),
    [
        ("answer_type=open", {"exact_match", "recall", "precision", "f1"}),
        ("content_type=Organ", {"accuracy"}),
        ("", {"accuracy"}),
    ],
)
def test_a_metric_is_added_in_one_place(monkeypatch, subset, beside):
    monkeypatch.setitem(METRICS, "letters", Metric("lower", lambda p: len(p.prediction) / 100, subset))
    # As protocols/strict.py builds its own when it is imported.
    subsets = dict.fromkeys(metric.subset for metric in METRICS.values())
    protocol = dataclasses.replace(OF_A_RUN, metrics={s: metrics_of(s) for s in subsets})
    asked = predicted("left lung", "lung", answer_type="open", content_type="Organ")
    found = score([asked], protocol, bootstrap=0, seed=0)
    held = {row["subset"] for row in found if row["metric"] == "letters"}
    assert held == ({subset} if subset else {row["subset"] for row in found})
    shown = subset or "all"
    assert value(found, shown, "right", "letters") == (0.04, 1)
    assert beside <= {row["metric"] for row in found if row["subset"] == shown}
    assert scores_of(asked)["letters"] == 0.04
    assert loss_of("letters", 0.04) == 0.04  # scaling laws read its direction
    table = score_table("", index_of(found, "slake", "test"), [shown])
    assert any("letters" in " ".join(line[0].small) for line in table.lines)


def test_no_predictions_are_an_error():
    with pytest.raises(DataError, match="no predictions"):
        score([], bootstrap=0, seed=0)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("answer_type", "CLOSED "),
        ("answer", 3),
        ("family", "describe"),
        ("condition", "elsewhere"),
        ("confidence", 1.5),
    ],
)
def test_a_field_that_would_leave_a_denominator_is_an_error(field, bad):
    with pytest.raises(DataError, match=f"'q0': {field} is "):
        predicted(**{field: bad})


def test_predictions_survive_their_file(tmp_path):
    asked = [*conditions("a", right=True, none=False, wrong=False), predicted(id="ü", choices=("left", "right"))]
    found = score(asked, bootstrap=10, seed=0)
    write_results(tmp_path / "eval", found, asked)
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == found
    assert read_predictions(tmp_path / "eval" / "predictions.jsonl") == asked
    first = json.loads((tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()[0])
    assert first["scores"] == {"accuracy": 1}
    assert sorted(p.name for p in (tmp_path / "eval").iterdir()) == ["metrics.json", "predictions.jsonl"]


def test_a_number_that_json_cannot_hold_is_refused(tmp_path):
    (row, *_) = score([predicted()], bootstrap=0, seed=0)
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path, [{**row, "value": float("-inf")}], [])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), 0.01, "x", None, True])
def test_a_log_prob_that_is_no_logarithm_of_a_probability_is_refused(bad):
    with pytest.raises(DataError, match="'q0': log_prob is "):
        predicted(log_prob=bad)
    assert predicted(log_prob=5e-4).log_prob == 5e-4  # rounding


def test_a_failed_write_leaves_the_older_results(tmp_path, monkeypatch):
    def disk_full(file):
        raise OSError("no space left on device")

    write_results(tmp_path, [], [predicted()])
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_results(tmp_path, score([predicted()], bootstrap=0, seed=0), [predicted(), predicted(id="b")])
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_a_broken_predictions_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(to_json(predicted())) + "\n{\n")
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 2"):
        read_predictions(path)
    with pytest.raises(DataError, match=r"unknown fields \['colour'\], missing fields \['id'\]"):
        from_json({**{k: v for k, v in to_json(predicted()).items() if k != "id"}, "colour": "red"})


def test_the_condition_is_also_read_under_its_older_name():
    fields = to_json(predicted(condition="none"))
    assert from_json({("region" if name == "condition" else name): value for name, value in fields.items()}) == (
        predicted(condition="none")
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "is list, expected an object"),
        ("5", "is int, expected an object"),
        ({"confidence": None}, "'q0': confidence is None"),
        ({"confidence": "0.5"}, "'q0': confidence is '0.5'"),
        ({"log_prob": float("nan")}, "'q0': log_prob is None"),
        ({"log_prob": -(10**400)}, "has a number of 402 digits"),
        ({"boxes": None}, "'q0': boxes is None"),
        ({"right_boxes": [[0, 0, 1]]}, r"'q0': right_boxes is \[\[0, 0, 1\]\]"),
        ({"choices": "left"}, "'q0': choices is 'left'"),
        ({"condition": ["right"]}, r"'q0': condition is \['right'\]"),
        ({"family": "localise"}, "'q0': answer is 'yes', expected four loc tokens"),
        ({"prediction": "\ud83d"}, "'q0': prediction is .* a string that UTF-8 can hold"),
        (b"\xff", "is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_prediction_is_named_with_its_file(tmp_path, line, said):
    path = tmp_path / "predictions.jsonl"
    if isinstance(line, dict):
        line = json.dumps({**to_json(predicted()), **line})
    first = json.dumps(to_json(predicted())).encode()
    path.write_bytes(first + b"\n\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(DataError, match=rf"predictions\.jsonl, line 3: .*{said}"):
        read_predictions(path)


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "predictions.jsonl"
    line = json.dumps(to_json(predicted())).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n \r\n\n" + line)
    assert read_predictions(path) == [predicted(), predicted()]


def test_markdown_puts_conditions_across_and_names_differing_counts():
    asked = [predicted(id="a"), predicted("yes", "no", id="b"), predicted(id="a", condition="none")]
    table = markdown_table([r for r in score(asked, bootstrap=0, seed=0) if r["metric"] == "accuracy"])
    lines = table.splitlines()
    assert lines[0] == "| questions | metric | n | right | none |"
    assert "| answer_type=closed | accuracy | – | 50.0, n 2 | 100.0, n 1 |" in lines


def test_bars_and_line_ends_in_names_leave_a_markdown_table_whole():
    found = score([predicted(content_type="a|b")], bootstrap=0, seed=0)
    (row,) = [{**r, "condition": "x|\ny"} for r in found if r["subset"] == "content_type=a|b"]
    head, _, line = markdown_table([row], conditions=[row["condition"]]).splitlines()
    assert head == r"| questions | metric | n | x\| y |"
    assert line.startswith(r"| content_type=a\|b | accuracy | 1 |")
