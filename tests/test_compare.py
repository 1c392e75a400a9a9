"""Two runs side by side: the same questions only, and what is left out is said."""

from __future__ import annotations

import dataclasses
import json

import pytest
from report_examples import asked

from rllava_jax.compare import main
from rllava_jax.evaluation.comparison import compare_sides, read_side
from rllava_jax.evaluation.results import write_results
from rllava_jax.evaluation.scoring import score
from rllava_jax.report.comparison_report import differing


def run(folder, right, *, step: str = "10", numbers=range(8)):
    """A workdir whose model answers the named questions rightly with the right region."""
    predictions = [p for i in numbers for p in asked(i, right=i in right)]
    write_results(folder / "eval" / step, score(predictions, bootstrap=0, seed=0), predictions)
    return folder


@pytest.fixture
def two(tmp_path):
    return run(tmp_path / "a", {0, 1, 2, 3, 4, 5}), run(tmp_path / "b", {4, 5, 6})


def test_the_difference_is_taken_over_the_same_questions(two):
    first, second = (read_side(str(folder)) for folder in two)
    found = compare_sides(first, second, bootstrap=0, seed=0).rows
    (row,) = [
        r for r in found if (r["subset"], r["condition"], r["metric"]) == ("family=identify", "right", "accuracy")
    ]
    # a has 6 of 8, b 3 of 8; four only a (0 to 3), one only b (6): p = 2 (1 + 5) / 2^5.
    assert (row["first"], row["second"], row["difference"], row["n"]) == (0.75, 0.375, 0.375, 8)
    assert (row["first_only"], row["second_only"]) == (4, 1)
    assert row["mcnemar_p"] == pytest.approx(0.375)


def test_questions_that_one_lacks_are_left_out_counted_and_named(tmp_path, two, capsys):
    other = run(tmp_path / "c", {0, 1}, numbers=range(6))
    assert main([str(two[0]), str(other), "--out", str(tmp_path / "x.html"), "--bootstrap", "0"]) == 0
    said = capsys.readouterr().err
    assert "left out: 8 answers that only a, 10 has, e.g. slake/identify/6 (right)" in said
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert {row["n"] for row in found} == {6}
    assert "<td>32</td><td>8</td>" in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_an_id_that_names_another_question_is_not_compared(two):
    first, second = (read_side(str(folder)) for folder in two)
    other = [
        dataclasses.replace(p, question="Is this a lung?") if p.id.endswith("/3") else p for p in second.predictions
    ]
    found = compare_sides(first, dataclasses.replace(second, predictions=other), bootstrap=0, seed=0)
    assert found.changed == [f"slake/identify/3 ({condition})" for condition in ("blank", "none", "right", "wrong")]
    assert {row["n"] for row in found.rows} == {7}


def test_the_questions_on_which_they_differ_are_those_that_one_had_right(two):
    first, second = (read_side(str(folder)) for folder in two)
    assert {pair.first.first.id for pair in differing(first, second)} == {
        f"slake/identify/{i}" for i in (0, 1, 2, 3, 6)
    }


def test_a_workdir_stands_for_its_last_evaluation_of_the_test_split(two):
    run(two[0], set(), step="20")
    run(two[0], set(), step="9")
    run(two[0], set(), step="30-validation")
    run(two[0], set(), step="30-calibration")
    assert read_side(str(two[0])).folder.name == "20"
    assert read_side(str(two[0] / "eval" / "9")).folder.name == "9"


def test_the_page_names_both_and_says_why_it_has_no_images(tmp_path, two, capsys):
    out = tmp_path / "compare.html"
    arguments = [*map(str, two), "--out", str(out), "--names", "with <regions>", "plain", "--bootstrap", "20"]
    assert main(arguments) == 0
    page = out.read_text(encoding="utf-8")
    assert "with &lt;regions&gt; against plain" in page
    assert "Without images: neither folder lies in the workdir of a run" in page
    assert "the page shows no images" in capsys.readouterr().err
    assert page.count('<article class="card"') == 5


def test_trust_curves_of_both_are_drawn_from_their_rows(tmp_path, two):
    for folder in two:
        path = folder / "eval" / "10" / "metrics.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        common = {"dataset": "slake", "split": "test", "subset": "all", "n": 8, "ci_low": None, "ci_high": None}
        for condition, iou in (("trust:right", 1.0), ("trust:shifted:0.50", 0.5)):
            found += [
                {**common, "condition": condition, "metric": m, "value": v}
                for m, v in (("accuracy", 0.5), ("iou", iou))
            ]
        path.write_text(json.dumps(found), encoding="utf-8")
    assert main([*map(str, two), "--out", str(tmp_path / "x.html"), "--bootstrap", "0"]) == 0
    assert "A, shifted" in (tmp_path / "x.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "{b}"), "nowhere: no such folder"),
        (("{a}/eval", "{b}"), "holds no predictions.jsonl or answers.jsonl"),
        (("{a}", "{a}"), "both runs would be called 'a, 10'"),
        (("{a}", "{b}", "--out", "page.txt"), "--out page.txt"),
        (("{a}", "{b}", "--data-of", "{a}"), "has no config.json"),
        (("{a}", "{b}", "--gallery=-1"), "--gallery: '-1'"),
        (("{a}", "{b}", "--seed=-1"), "--seed: '-1'"),
    ],
)
def test_a_mistake_is_named_in_one_line(two, capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main([a.format(a=two[0], b=two[1]) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


def test_a_question_that_stands_twice_in_a_file_is_refused(tmp_path, two, capsys):
    path = two[1] / "eval" / "10" / "predictions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0]]), encoding="utf-8")
    assert main([*map(str, two), "--out", str(tmp_path / "x.html")]) == 2
    assert "predictions.jsonl: prediction 'slake/identify/0': answered twice under condition" in capsys.readouterr().err


def test_runs_without_a_question_in_common_are_refused(tmp_path, two, capsys):
    other = run(tmp_path / "d", set(), numbers=range(100, 104))
    assert main([str(two[0]), str(other), "--out", str(tmp_path / "x.html")]) == 2
    assert "no question in common" in capsys.readouterr().err
