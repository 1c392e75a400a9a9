"""The whole command against a real HTTP server: what is asked, and what is written."""

import functools
import json
import re

import pytest
from generated_questions import ROOT, arguments, caption_of, rows, summary, write_captions
from language_model_server import LanguageModel, Reply

from data_pipelines import generate_qa
from data_pipelines.generation.templates import KINDS


@pytest.fixture
def captions(tmp_path):
    return functools.partial(write_captions, tmp_path / "captions.jsonl")


@pytest.mark.slow
def test_every_kind_is_written_in_the_fields_of_vqa_examples(captions, tmp_path):
    out = tmp_path / "out"
    with LanguageModel() as server:
        status = generate_qa.main(arguments(captions(1), out, server, "--split", "fit", kinds=",".join(KINDS)))
    assert status == 0
    by_kind = {row["generated"]["kind"]: row for row in reversed(rows(out / "questions.jsonl"))}
    # The questions of `image` and `literature` were asked by `open` already: duplicates on one image.
    assert set(by_kind) == {"open", "closed", "choice", "conversation"}
    opened = by_kind["open"]
    assert (opened["question"], opened["answer"]) == ("What abnormality is seen within the liver?", "cyst")
    assert (opened["image"], opened["image_id"], opened["split"]) == ("images/0.png", "images/0.png", "fit")
    assert (opened["answer_type"], opened["choices"], opened["turns"]) == ("open", [], [])
    assert (by_kind["closed"]["answer"], by_kind["closed"]["answer_type"]) == ("yes", "closed")
    talk = by_kind["conversation"]
    assert talk["turns"] == [{"question": "How was this picture made?", "answer": "computed tomography"}]
    assert talk["question"] == opened["question"]


def test_a_choice_has_four_options_in_an_order_drawn_by_the_seed(captions, tmp_path):
    places = {}
    with LanguageModel() as server:
        for seed in ("0", "1"):
            out = tmp_path / seed
            assert generate_qa.main(arguments(captions(12), out, server, "--seed", seed, kinds="choice")) == 0
            choices = rows(out / "questions.jsonl")
            for row in choices:
                assert len(set(row["choices"])) == 4
                assert row["question"].endswith(f"Choose from: {'; '.join(row['choices'])}.")
            places[seed] = [row["choices"].index(row["answer"]) for row in choices]
    assert len(set(places["0"])) > 1
    assert places["0"] != places["1"]


def test_closed_questions_ask_for_as_many_yes_as_no(captions, tmp_path):
    with LanguageModel() as server:
        generate_qa.main(arguments(captions(20), tmp_path / "out", server, "--pairs", "3", kinds="closed"))
    asked = [re.search("in this order: (.*)", call.body["messages"][1]["content"]).group(1) for call in server.calls]
    assert set(asked) == {"yes, no, yes.", "no, yes, no."}
    assert summary(tmp_path / "out")["questions"]["closed"] == {"no": 20, "yes": 20}


def test_a_pair_tells_where_it_comes_from(captions, tmp_path):
    out = tmp_path / "out"
    with LanguageModel() as server:
        generate_qa.main(arguments(captions(1), out, server, "--seed", "7", "--temperature", "0.5"))
    row, answer = rows(out / "questions.jsonl")[0], rows(out / "answers.jsonl")[0]
    generated = row["generated"]
    assert generated["request"] == answer["key"]
    assert generated["prompt_sha256"] == answer["prompt_sha256"]
    assert {generated[k] for k in ("model", "seed", "temperature", "template", "caption_id")} == {
        "m", 7, 0.5, "open.txt", "c0",
    }  # fmt: skip
    assert caption_of(0) in answer["user"]
    sent = server.calls[0].body
    assert (sent["seed"], sent["temperature"], sent["model"]) == (7, 0.5, "m")
    assert [message["content"] for message in sent["messages"]] == [answer["system"], answer["user"]]


def test_malformed_answers_are_rejected_and_counted_by_reason(captions, tmp_path):
    answers = [
        '{"pairs": [{"question": "What is',
        "I see a liver.",
        '{"questions": []}',
        'Here you are:\n```json\n{"pairs": []}\n```\nGood luck.',
        '{"pairs": [{"question": "What is seen here?", "answer": "cyst"}, {"question": "Why so?"}]}',
    ]

    def behave(call):
        number = int(re.search(r"group (\d)", call.caption).group(1))
        return Reply(answers[number], finish_reason="length" if number == 0 else "stop")

    out = tmp_path / "out"
    with LanguageModel(behave) as server:
        assert generate_qa.main(arguments(captions(5), out, server)) == 0
    assert summary(out)["answers"] == {
        "malformed": {"cut off at --max-tokens": 1, "no JSON": 1, "wrong keys": 1},
        "nothing_to_ask": 1,
        "malformed_pairs": {"wrong keys": 1},
    }
    assert [row["generated"]["caption_id"] for row in rows(out / "questions.jsonl")] == ["c4"]
    assert [row["caption_id"] for row in rows(out / "rejected.jsonl")] == ["c0", "c1", "c2", "c4"]


def test_what_is_found_is_kept_or_rejected_for_one_reason(captions, tmp_path):
    with LanguageModel() as server:
        generate_qa.main(arguments(captions(6), tmp_path / "out", server, kinds=",".join(KINDS)))
    questions = summary(tmp_path / "out")["questions"]
    assert sum(questions["found"].values()) == sum(questions["kept"].values()) + sum(questions["rejected"].values())
    assert questions["rejected"]["duplicate_exact"] > 0


def test_filters_may_change_without_asking_again_or_an_endpoint(captions, tmp_path, capsys):
    out = tmp_path / "out"
    path = captions(6)
    with LanguageModel() as server:
        generate_qa.main(arguments(path, out, server))
    (tmp_path / "terms.txt").write_text("# wanted\nCyst\n")
    assert generate_qa.main(arguments(path, out, None, "--pathologies", str(tmp_path / "terms.txt"))) == 0
    assert {row["generated"]["caption_id"] for row in rows(out / "questions.jsonl")} == {"c0", "c3"}
    assert summary(out)["captions"] == {"read": 6, "left_out": {"pathology": 4}, "used": 2}
    assert generate_qa.main(arguments(path, tmp_path / "new", None)) == 2
    assert "holds no answers" in capsys.readouterr().err


def test_captions_that_are_left_out_are_never_sent(captions, tmp_path):
    path = captions(2)
    french = "Radiographie du thorax montrant un épanchement pleural du côté droit chez un adulte."
    with open(path, "a") as file:
        file.write(json.dumps({"id": "short", "image": "s.png", "caption": "A scan."}) + "\n")
        file.write(json.dumps({"id": "french", "image": "f.png", "caption": french}) + "\n")
    with LanguageModel() as server:
        generate_qa.main(arguments(path, tmp_path / "out", server))
    assert len(server.calls) == 2
    assert summary(tmp_path / "out")["captions"]["left_out"] == {"language": 1, "too_short": 1}


def test_another_model_seed_template_or_caption_asks_anew(captions, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "templates"
    folder.mkdir()
    packaged = (ROOT / "data_pipelines/generation/qa_templates/open.txt").read_text()
    (folder / "open.txt").write_text(packaged.replace("a phrase", "two words"))
    with LanguageModel() as server:
        for more in ([], [], ["--seed", "1"], ["--model", "n"], ["--templates", str(folder)]):
            generate_qa.main(arguments(captions(1), out, server, *more))
    assert len(server.calls) == 4
    first, last = rows(out / "answers.jsonl")[0], rows(out / "answers.jsonl")[-1]
    assert first["template"] == last["template"] == "open.txt"
    assert first["template_sha256"] != last["template_sha256"]


def test_no_id_is_written_twice_even_with_the_duplicate_filter_off(captions, tmp_path):
    answer = json.dumps({"pairs": [{"question": "What is seen here?", "answer": "cyst"}] * 2})
    with LanguageModel(lambda call: Reply(answer)) as server:
        generate_qa.main(arguments(captions(1), tmp_path / "out", server, "--skip-filter", "duplicate"))
    assert len(rows(tmp_path / "out" / "questions.jsonl")) == 1
    assert summary(tmp_path / "out")["questions"]["rejected"] == {"duplicate_exact": 1}
