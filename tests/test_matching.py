"""Which answer belongs to which run of a question."""

from __future__ import annotations

import json

import pytest
from scored_files import write

from rllava_jax.evaluation import matching, references
from rllava_jax.evaluation.answer_files import read_answers
from rllava_jax.evaluation.protocols import multiple_choice
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


CHOICES = (["MRI", "CT", "PET"], ["B", "A", "D", "C"], ["liver", "spleen"])


@pytest.mark.parametrize(
    ("given", "right", "noted"),
    [
        (["B", "D", "A"], [1, 1, 1], multiple_choice.AS_LETTERS),  # of B; A; D; C the letter D is the option C
        (["CT", "C", "liver"], [1, 1, 1], multiple_choice.AS_TEXTS),
        (["CT", "D", "liver"], [1, 0, 1], multiple_choice.AS_TEXTS),
        (["B", "C", "A"], [1, 0, 1], multiple_choice.AS_LETTERS),
        (["B: CT", "D", "(a) liver"], [1, 1, 1], multiple_choice.AS_LETTERS),
        (["B", "D", "liver"], [1, 0, 1], multiple_choice.AS_TEXTS),  # as many letters as texts
        (["no idea", "D", ""], [0, 0, 0], multiple_choice.AS_TEXTS),
        (["B", "D: C", "A"], [1, 1, 1], None),
        (["C", "B", "B"], [0, 0, 0], multiple_choice.AS_LETTERS),
    ],
)
def test_a_model_that_answers_letters_is_read_by_letters_where_options_are_letters_too(tmp_path, given, right, noted):
    questions = [
        {"id": n, "answer": answer, "choices": choices}
        for n, (answer, choices) in enumerate(zip(("CT", "C", "liver"), CHOICES, strict=True))
    ]
    write(tmp_path / "questions.jsonl", questions)
    file = read_answers(
        write(tmp_path / "answers.jsonl", [{"id": n, "answer": [text] * 5} for n, text in enumerate(given)]), lists=True
    )
    rule = PROTOCOLS.get("multiple_choice", setting="--protocol")
    items = matching.match(references.from_file(tmp_path / "questions.jsonl"), file, rule, file.findings)
    assert [answered.scores["consistent_accuracy"] for answered in scored(items, rule)] == right
    told = {what: len(names) for what, names in file.findings.items() if "letter" in what}
    assert told == ({noted: 5} if noted else {})
