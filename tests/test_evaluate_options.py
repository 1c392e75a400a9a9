"""`python -m rllava_jax.evaluate`: every option given is used or refused, in one line."""

from __future__ import annotations

import json

import pytest
from expected_errors import assert_refused
from report_examples import asked

from rllava_jax.evaluate import main
from rllava_jax.evaluation.results import write_results
from rllava_jax.evaluation.scoring import score


def refused(capsys, *arguments: object) -> str:
    """The one line that a command ends with."""
    assert main([str(argument) for argument in arguments]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("the page shows no images")]
    assert said.startswith("error: ")
    return said


@pytest.fixture
def two(tmp_path):
    """Two workdirs of one name; the model of the first is right more often."""
    found = []
    for group, right in (("plain", {0, 1, 2}), ("regions", {2})):
        predictions = [p for i in range(4) for p in asked(i, right=i in right)]
        found.append(tmp_path / group / "run")
        write_results(found[-1] / "eval" / "10", score(predictions, bootstrap=0, seed=0), predictions)
    return found


def test_two_runs_of_one_name_are_compared_into_a_folder(two, tmp_path):
    out = tmp_path / "compared"
    assert main(["--compare", *map(str, two), "--out", str(out), "--bootstrap", "0"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["compare.html", "compare.json"]
    assert "plain/run, 10 against regions/run, 10" in (out / "compare.html").read_text()
    found = json.loads((out / "compare.json").read_text())
    assert any(row["difference"] == 0.5 and row["n"] == 4 for row in found)


def test_a_comparison_without_a_usable_folder_is_refused(two, tmp_path, capsys):
    assert "--out" in refused(capsys, "--compare", *two)
    (tmp_path / "file").write_text("")
    assert "file/compare.html: cannot be written" in refused(capsys, "--compare", *two, "--out", tmp_path / "file")
    assert "both runs would be called" in refused(capsys, "--compare", two[0], two[0], "--out", tmp_path / "x")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--protocol", "strict"),
        ("--judge-seed", "0"),
        ("--judge-cache", "c"),
        ("--allow-missing", "0"),
        ("--temperature", "0.5"),
    ],
)
def test_a_comparison_refuses_what_it_does_not_read(capsys, option, value):
    said = refused(capsys, "--compare", "a", "b", "--out", "c", option, value)
    assert_refused(said, "option.conflict", option, "goes with --")


@pytest.mark.parametrize("option", ["--max-examples", "--batch-size", "--sampled-runs", "--max-new-tokens", "--step"])
def test_what_a_file_of_predictions_does_not_read_is_refused(capsys, option):
    said = refused(capsys, "--predictions", "p", option, "3" if option != "--max-examples" else "0")
    assert_refused(said, "option.conflict", option, "--checkpoint")


def test_a_checkpoint_is_asked_without_a_judge(capsys):
    said = refused(capsys, "--checkpoint", "c", "--out", "o", "--judge-retries", "0")
    assert_refused(said, "option.conflict", "--judge-retries", "--judge-model")
    said = refused(capsys, "--checkpoint", "c", "--out", "o", "--judge-model", "m")
    assert_refused(said, "option.conflict", "--judge-model", "--predictions")


def test_a_temperature_is_of_sampled_runs(capsys):
    said = refused(capsys, "--predictions", "p", "--temperature", "3")
    assert_refused(said, "option.conflict", "--temperature", "--sampled-runs")


@pytest.mark.parametrize("references", [(), ("--references", "q.jsonl")])
@pytest.mark.parametrize("option", ["--split", "--languages", "--families"])
def test_questions_of_no_data_set_are_not_chosen_among(capsys, references, option):
    said = refused(capsys, "--predictions", "p", *references, option, "vqa")
    assert f"{option}: chooses questions of --data, which is not given" in said


def test_missing_answers_are_allowed_only_where_their_number_is_known(capsys):
    said = refused(capsys, "--predictions", "p", "--references", "q.jsonl", "--allow-missing", "1")
    assert "--allow-missing: --protocol strict expects no number" in said


def test_a_runs_own_scores_are_not_taken_for_those_of_classes(two, tmp_path, capsys):
    own = two[0] / "eval" / "10" / "predictions.jsonl"
    command = ("--predictions", own, "--protocol", "classification", "--bootstrap", "0")
    said = refused(capsys, *command)
    assert "scores is of 'accuracy'" in said
    assert "take the field scores out of all lines" in said
    bare = [{k: v for k, v in json.loads(line).items() if k != "scores"} for line in own.read_text().splitlines()]
    own.write_text("".join(json.dumps(line) + "\n" for line in bare))
    assert main([str(argument) for argument in command]) == 0
