"""The review file: written once, judged by a person, honoured by every later run."""

import csv
import json

import pytest
from expected_errors import refused
from language_model_server import LanguageModel

from data_pipelines import generate_qa
from data_pipelines.core.errors import UserError
from data_pipelines.generation.review import read_verdicts


@pytest.fixture
def generated(tmp_path):
    """Runs the command, once with a server and then from the stored answers; returns the questions kept."""
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        '{"id": "c1", "image": "a.png", "caption": "Axial computed tomography shows a cyst in the liver."}\n'
        '{"id": "c2", "image": "b.png", "caption": "Axial computed tomography shows a mass in the spleen."}\n'
    )
    command = ["--captions", str(captions), "--out", str(tmp_path / "out"), "--model", "m"]
    command += ["--kinds", "open,conversation"]
    with LanguageModel() as server:
        assert generate_qa.main([*command, "--endpoint", server.url]) == 0

    def run(*more, status=0):
        assert generate_qa.main([*command, *more]) == status
        return [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]

    return run


def judge(path, verdicts):
    """Fills in the verdicts of the first rows, as a person would in a spreadsheet."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, verdict in zip(rows, verdicts, strict=False):
        row["verdict"], row["comment"] = verdict, "so said; with a\nline break"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("name", ["review.csv", "review.jsonl"])
def test_all_kept_questions_are_written_for_review_with_an_empty_verdict(generated, tmp_path, name):
    path = tmp_path / name
    questions = generated("--write-review", str(path))
    text = path.read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(text.splitlines(keepends=True))) if name.endswith("csv") else None
    rows = rows or [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == [question["id"] for question in questions]
    assert {row["verdict"] for row in rows} == {""}
    assert rows[0]["caption"].startswith("Axial computed tomography shows a cyst")
    talk = next(row for row in rows if "/conversation/" in row["id"])
    assert talk["question"].splitlines()[1:] == ["– computed tomography", "What abnormality is seen within the liver?"]
    assert read_verdicts(str(path)) == {}


def test_the_rejected_are_left_out_and_with_only_accepted_the_unjudged_too(generated, tmp_path):
    path = tmp_path / "review.csv"
    before = generated("--write-review", str(path))
    judge(path, ["reject", " Accept ", ""])
    kept = generated("--review", str(path))
    assert kept == before[1:]
    assert generated("--review", str(path), "--only-accepted") == [before[1]]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["questions"]["rejected"] == {"review: not accepted": len(before) - 2, "review: rejected": 1}
    assert summary["review"] == {"accepted": 1, "unknown_ids": 0}
    assert generated() == before


def test_what_is_judged_already_is_not_written_for_review_again(generated, tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.jsonl"
    before = generated("--write-review", str(first))
    judge(first, ["accept", "reject"])
    generated("--review", str(first), "--write-review", str(second))
    rows = [json.loads(line) for line in second.read_text().splitlines()]
    assert [row["id"] for row in rows] == [question["id"] for question in before[2:]]


def test_a_review_file_is_never_written_over(generated, tmp_path, capsys):
    path = tmp_path / "review.csv"
    path.write_text("my verdicts")
    generated("--write-review", str(path), status=2)
    assert path.read_text() == "my verdicts"
    assert "exists and may hold verdicts" in capsys.readouterr().err


def test_verdicts_on_questions_of_another_run_are_warned_of(generated, tmp_path, capsys):
    path = tmp_path / "review.csv"
    path.write_text("id,verdict\nelse/open/1,reject\n")
    assert generated("--review", str(path))
    assert "1 of its ids are of no question of this run, the first else/open/1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("r.csv", "id,verdict\na,maybe\n", ("data.invalid-value", "2", "verdict", "maybe")),
        ("r.csv", "id,verdict\na,accept\na,reject\n", ("data.conflict", "3")),
        ("r.csv", "name,verdict\na,accept\n", ("data.missing-field", "id")),
        ("r.csv", "id,verdict\n,accept\n", ("data.missing-field", "2")),
        ("r.jsonl", '{"id": "a", "verdict": 1}\n', ("data.invalid-value", "1", "verdict")),
        ("r.xlsx", "", ("option.invalid-value", "csv", "jsonl")),
    ],
)
def test_a_review_file_that_cannot_be_understood_is_named_by_row(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with refused(UserError, *complaint) as caught:
        read_verdicts(str(tmp_path / name))
    assert "\n" not in str(caught.value)
