"""Which answer belongs to which run of a question."""

from __future__ import annotations

import json

import pytest

from rllava_jax.evaluation import matching, references
from rllava_jax.evaluation.answer_files import read_answers
from rllava_jax.evaluation.protocols.registry import PROTOCOLS
from rllava_jax.evaluation.scoring import scored

FEWER = "questions with fewer than 5 runs"


@pytest.mark.parametrize(
    ("given", "accuracy", "found"),
    [
        ([(0, "A")] * 5, 0.2, {matching.REPEATED_RUN: 1, FEWER: 1}),
        ([(0, "A"), (0, "B"), (1, "A")], 0.2, {matching.CONFLICTING_RUN: 1, FEWER: 1}),
        ([(run, "A") for run in (0, 1, 2, 3, 5, -1, "4", 4.0, True, None)], 0.8, {matching.BAD_RUN: 6, FEWER: 1}),
        ([(5, "A")], 0, {matching.BAD_RUN: 1, FEWER: 1}),
        ([(run, "A") for run in range(4, -1, -1)], 1, {}),
        ([(None, text) for text in "AAAAB"], 0.8, {}),
    ],
)
def test_runs_are_told_apart_by_their_numbers(tmp_path, given, accuracy, found):
    question = {"id": "a", "answer": "liver", "choices": ["liver", "spleen"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question))
    lines = [{"id": "a", "answer": text} | ({} if run is None else {"run": run}) for run, text in given]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = references.from_file(tmp_path / "questions.jsonl")
    file, rule = (
        read_answers(tmp_path / "answers.jsonl", lists=True),
        PROTOCOLS.get("multiple_choice", setting="--protocol"),
    )
    (answered,) = scored(matching.match(asked, file, rule, file.findings), rule)
    assert answered.scores["mean_accuracy"] == pytest.approx(accuracy)
    assert {what: len(names) for what, names in file.findings.items()} == found
