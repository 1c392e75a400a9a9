"""Prompts and answers: what a template may hold, and what of a language model's answer is taken."""

import json
import re

import pytest
from expected_errors import refused

from data_pipelines.core.errors import DataError
from data_pipelines.generation.captions import Caption, read_captions
from data_pipelines.generation.pairs import (
    TOPICS,
    GeneratedPair,
    MalformedError,
    extract_object,
    pair_id,
    parse_answer,
    question_record,
)
from data_pipelines.generation.templates import KINDS, load_templates, render
from data_pipelines.records import Turn, VQAExample

CAPTION = Caption("c1", "a.png", "a.png", "A $5 cyst of the {liver}, 50 % of it.", context="See Figure 1.")
QA = {"question": "What is seen?", "answer": "a cyst"}


def pairs(*entries):
    return json.dumps({"pairs": entries})


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '\n  {"a": 1}\n',
        'Sure! Here it is:\n```json\n{"a": 1}\n```\nAnything else?',
        '<think>Perhaps {"b": 2}? No.</think>{"a": 1}',
    ],
)
def test_one_object_is_taken_whatever_stands_around_it(text):
    assert extract_object(text) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("The liver.", "no JSON"),
        ('[{"question": "half', "broken JSON"),
        ('{"a": 1', "broken JSON"),
        ("{'a': 1}", "broken JSON"),
        ('{"a": NaN}', "broken JSON"),
        ('{"a": ' * 100_000, "broken JSON"),
        ('As {the} text says: {"a": 1}', "broken JSON"),
        ('{"a": 1} or rather {"a": 2}', "more than one JSON object"),
    ],
)
def test_an_answer_without_exactly_one_whole_object_is_malformed(text, reason):
    with pytest.raises(MalformedError, match=f"^{reason}$"):
        extract_object(text)


@pytest.mark.parametrize(
    ("kind", "entry", "reason"),
    [
        ("open", {"question": "What is seen?"}, "wrong keys"),
        ("open", {**QA, "note": "sure"}, "wrong keys"),
        ("open", "What is seen? A cyst.", "wrong keys"),
        ("open", {**QA, "answer": True}, "value is not text"),
        ("open", {**QA, "answer": ["a"]}, "value is not text"),
        ("open", {**QA, "answer": " \n"}, "empty text"),
        ("closed", {**QA, "answer": "probably"}, "closed answer is not yes or no"),
        ("closed", {**QA, "answer": "yes, no"}, "closed answer is not yes or no"),
        ("choice", {**QA, "wrong": ["x", "y"]}, "not three wrong options"),
        ("choice", {**QA, "wrong": "xyz"}, "not three wrong options"),
        ("choice", {**QA, "wrong": ["x", "y", "A cyst."]}, "two options are the same"),
        ("choice", QA, "wrong keys"),
        ("image", {**QA, "topic": "weather"}, "unknown topic"),
    ],
)
def test_a_malformed_pair_is_left_out_and_the_others_are_kept(kind, entry, reason):
    good = {
        "closed": {**QA, "answer": "No."},
        "choice": {**QA, "wrong": ["x", "y", "z"]},
        "image": {**QA, "topic": "finding"},
    }.get(kind, QA)
    parsed = parse_answer(kind, pairs(entry, good))
    assert parsed.malformed == [reason]
    assert [pair.turns[0].question for pair in parsed.pairs] == ["What is seen?"]


@pytest.mark.parametrize("text", ['{"pairs": {}}', '{"pairs": [], "note": ""}', '{"turns": []}'])
def test_an_answer_of_other_keys_is_malformed(text):
    with pytest.raises(MalformedError, match="wrong keys"):
        parse_answer("open", text)


def test_nothing_to_ask_is_an_answer():
    assert parse_answer("open", '{"pairs": []}').pairs == []
    assert parse_answer("conversation", '{"turns": []}').pairs == []


def test_a_conversation_is_one_pair_and_malformed_as_a_whole():
    (talk,) = parse_answer("conversation", json.dumps({"turns": [QA, {**QA, "answer": "Yes  indeed"}]})).pairs
    assert talk.turns == (Turn("What is seen?", "a cyst"), Turn("What is seen?", "Yes indeed"))
    for turns in ([QA], [QA, {"question": "What else?"}]):
        with pytest.raises(MalformedError):
            parse_answer("conversation", json.dumps({"turns": turns}))


def test_the_packaged_templates_fill_in_and_promise_what_the_parser_takes():
    for kind, template in load_templates(KINDS, None).items():
        system, user = render(template, CAPTION, count=3, language="en", seed=0)
        assert CAPTION.caption in user
        assert CAPTION.context in user
        assert not re.search(r"\$(?!5)", system + user)
        # The example in each prompt is an answer of the right form.
        example = system.splitlines()[-1].replace('["...", "...", "..."]', '["p", "q", "r"]').replace("...", "x y")
        assert parse_answer(kind, example).pairs
    listed = re.findall(r"^  (\w+):", load_templates(["image"], None)["image"].system.template, re.MULTILINE)
    assert tuple(listed) == TOPICS


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Write questions: $caption", ("file.malformed", "[system]")),
        ("[user]\n$caption\n[system]\nBe brief.", ("file.malformed", "[system]")),
        ("[system]\nBe brief.\n[user]\nWrite questions.", ("file.malformed", "$caption")),
        ("[system]\nBe brief.\n[user]\n$caption $colour", ("file.malformed", "$colour")),
        ("[system]\nBe brief.\n[user]\n$caption $answers", ("file.malformed", "$answers")),
        ("[system]\nThis costs 5 $.\n[user]\n$caption", ("file.malformed", "$$")),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_named(tmp_path, text, complaint):
    (tmp_path / "open.txt").write_text(text)
    with refused(DataError, *complaint, "open.txt") as caught:
        load_templates(["open"], str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_template_is_not_taken_from_the_package(tmp_path):
    with refused(DataError, "file.unreadable", "closed.txt"):
        load_templates(["closed"], str(tmp_path))


def test_ids_follow_the_text_and_nothing_else():
    pair = GeneratedPair("open", (Turn("What is seen?", "a cyst"),))
    assert pair_id(CAPTION, pair) == "c1/open/" + pair_id(CAPTION, pair)[-12:]
    assert pair_id(CAPTION, pair) == pair_id(CAPTION, GeneratedPair("open", (Turn("What is seen?", "a cyst"),)))
    assert pair_id(CAPTION, pair) != pair_id(CAPTION, GeneratedPair("open", (Turn("What is seen?", "a mass"),)))


def test_a_record_has_fields_of_a_vqa_example_and_its_provenance():
    pair = GeneratedPair("open", (Turn("What is seen?", "a cyst"),))
    record = question_record(CAPTION, pair, seed=0, split="train", language="en", generated={"model": "m"})
    assert set(record) - {"generated"} <= set(VQAExample.__dataclass_fields__)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"id": "1", "image": "a.png"}', ("data.missing-field", "2", "caption")),
        ('{"id": "0", "image": "a.png", "caption": "x"}', ("data.duplicate-id", "2", "id", "0", "1")),
        ('{"id": "1", "image": "a.png", "capt', ("file.malformed", "2", "JSON")),
        ("[]", ("file.malformed", "2")),
        ('{"id": "1", "image": "a.png", "caption": "\\ud800"}', ("data.invalid-value", "2")),
        (
            '{"id": "1", "image": "a.png", "caption": "x", "split": 1.5, "context": []}',
            ("data.invalid-value", "context"),
        ),
    ],
)
def test_a_malformed_caption_is_named_by_file_line_and_field(tmp_path, line, complaint):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"id": 0, "image": "a.png", "caption": "x"}\n' + line + "\n")
    with refused(DataError, *complaint, "captions.jsonl") as caught:
        read_captions(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_without_captions_is_an_error(tmp_path):
    (tmp_path / "captions.jsonl").write_text("\n")
    with refused(DataError, "data.missing"):
        read_captions(str(tmp_path / "captions.jsonl"))
