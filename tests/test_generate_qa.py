"""The whole command against a real HTTP server: what is asked, what is written, and what a second start does."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from language_model_server import LanguageModel, Reply

from data_pipelines import generate_qa
from data_pipelines.generation.templates import KINDS

ORGANS = ("liver", "left kidney", "spleen", "right lung", "pancreas", "brain stem")
FINDINGS = ("cyst", "mass", "calcification")
ROOT = Path(__file__).parents[1]


def caption_of(number):
    finding, organ = FINDINGS[number % len(FINDINGS)], ORGANS[number % len(ORGANS)]
    return f"Axial computed tomography of patient group {number} shows a {finding} in the {organ}."


@pytest.fixture
def captions(tmp_path):
    def write(count=3, **changes):
        path = tmp_path / "captions.jsonl"
        rows = ({"id": f"c{n}", "image": f"images/{n}.png", "caption": caption_of(n), **changes} for n in range(count))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def arguments(captions, out, server=None, *more, kinds="open"):
    endpoint = () if server is None else ("--endpoint", server.url)
    return ["--captions", str(captions), "--out", str(out), "--model", "m", "--kinds", kinds, *endpoint, *more]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(out):
    return json.loads((out / "summary.json").read_text())


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


def test_passing_failures_are_tried_again(captions, tmp_path):
    failures = {
        0: Reply(status=429, headers={"retry-after-ms": "20"}),
        1: Reply(status=500, headers={"retry-after-ms": "20"}),
        2: Reply(reset=True),
        3: Reply("{}", cut_body=True),
        4: Reply(delay=2.0),
    }

    def behave(call):
        number = int(re.search(r"group (\d)", call.caption).group(1))
        return failures[number] if call.tries == 1 else None

    out = tmp_path / "out"
    with LanguageModel(behave) as server:
        status = generate_qa.main(arguments(captions(5), out, server, "--timeout", "0.5", "--concurrency", "5"))
    assert status == 0
    assert sorted(call.tries for call in server.calls) == [1] * 5 + [2] * 5
    requests = summary(out)["requests"]
    assert (requests["answered_now"], requests["failed"], requests["tries"]) == (5, 0, 10)
    assert requests["replies_by_status"] == {"200": 6, "429": 1, "500": 1}


def test_retry_after_is_waited_for(captions, tmp_path):
    def behave(call):
        return Reply(status=429, headers={"Retry-After": "1"}) if call.tries == 1 else None

    with LanguageModel(behave) as server:
        assert generate_qa.main(arguments(captions(1), tmp_path / "out", server)) == 0
    assert server.calls[1].time - server.calls[0].time >= 1.0


def test_a_request_that_goes_on_failing_is_listed_and_tried_again_by_the_next_start(captions, tmp_path, capsys):
    broken = [True]

    def behave(call):
        if broken[0] and "group 1 " in call.caption:
            return Reply(status=503, headers={"retry-after-ms": "10"}, raw=b"overloaded")
        return None

    out = tmp_path / "out"
    with LanguageModel(behave) as server:
        command = arguments(captions(3), out, server, "--retries", "2")
        assert generate_qa.main(command) == 1
        assert sum("group 1 " in call.caption for call in server.calls) == 3
        (failure,) = rows(out / "failed.jsonl")
        assert (failure["caption_id"], failure["kind"]) == ("c1", "open")
        assert "overloaded" in failure["reason"]
        assert summary(out)["requests"]["unanswered"] == 1
        assert "1 failed" in capsys.readouterr().out
        assert generate_qa.main(arguments(captions(3), out)) == 0
        assert len(rows(out / "failed.jsonl")) == 1

        broken[0], asked = False, len(server.calls)
        assert generate_qa.main(command) == 0
        assert len(server.calls) == asked + 1
    assert rows(out / "failed.jsonl") == []
    assert {row["generated"]["caption_id"] for row in rows(out / "questions.jsonl")} == {"c0", "c1", "c2"}


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [(b'{"choices": [{"mess', ""), (b'{"error": null}', "not a chat completion"), (b"<html>", ""), (b"[]", "")],
)
def test_a_reply_that_is_no_completion_fails_that_request_alone(captions, tmp_path, raw, complaint):
    def behave(call):
        return Reply(raw=raw) if "group 0 " in call.caption else None

    with LanguageModel(behave) as server:
        assert generate_qa.main(arguments(captions(2), tmp_path / "out", server)) == 1
    (failure,) = rows(tmp_path / "out" / "failed.jsonl")
    assert failure["caption_id"] == "c0"
    assert complaint in failure["reason"]
    assert failure["reason"]


def test_an_endpoint_that_fails_again_and_again_ends_the_run(captions, tmp_path, capsys):
    with LanguageModel(lambda call: Reply(status=400, raw=b'{"error": {"message": "no such option"}}')) as server:
        command = arguments(captions(20), tmp_path / "out", server, "--stop-after-failures", "3", "--concurrency", "1")
        assert generate_qa.main(command) == 2
        assert len(server.calls) == 3
    assert "3 requests failed in a row" in capsys.readouterr().err
    assert len(rows(tmp_path / "out" / "failed.jsonl")) == 3


def test_nobody_listening_is_an_error_that_names_the_endpoint(captions, tmp_path, capsys):
    with LanguageModel() as server:
        pass
    command = arguments(captions(2), tmp_path / "out", server, "--retries", "0", "--stop-after-failures", "2")
    assert generate_qa.main(command) == 2
    assert server.url in (message := capsys.readouterr().err)
    assert "error: " in message


@pytest.mark.parametrize(
    ("status", "complaint"), [(401, "SECRET_OF_TEST"), (403, "SECRET_OF_TEST"), (404, "no model 'm'")]
)
def test_a_refusal_that_concerns_every_request_ends_the_run_at_once(
    captions, tmp_path, capsys, monkeypatch, status, complaint
):
    monkeypatch.setenv("SECRET_OF_TEST", "key-1234567890")
    with LanguageModel(lambda call: Reply(status=status, raw=b'{"error": {"message": "go away"}}')) as server:
        command = arguments(captions(20), tmp_path / "out", server, "--api-key-env", "SECRET_OF_TEST")
        assert generate_qa.main([*command, "--concurrency", "1"]) == 2
    assert len(server.calls) == 1
    message = capsys.readouterr().err
    assert complaint in message
    assert "go away" in message


def test_the_rate_holds_for_retries_too(captions, tmp_path):
    def behave(call):
        return Reply(status=500, headers={"retry-after-ms": "1"}) if call.tries == 1 else None

    with LanguageModel(behave) as server:
        command = arguments(captions(4), tmp_path / "out", server, "--requests-per-minute", "600", "--concurrency", "4")
        assert generate_qa.main(command) == 0
    times = sorted(call.time for call in server.calls)
    assert len(times) == 8
    assert times[-1] - times[0] >= 7 * 0.1 - 0.05


def test_no_more_requests_at_once_than_allowed(captions, tmp_path):
    under_way, most = [0], [0]

    def behave(call):
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        under_way[0] -= 1

    with LanguageModel(behave) as server:
        generate_qa.main(arguments(captions(8), tmp_path / "out", server, "--concurrency", "2"))
    assert most[0] == 2


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
    packaged = (ROOT / "data_pipelines/qa_templates/open.txt").read_text()
    (folder / "open.txt").write_text(packaged.replace("a phrase", "two words"))
    with LanguageModel() as server:
        for more in ([], [], ["--seed", "1"], ["--model", "n"], ["--templates", str(folder)]):
            generate_qa.main(arguments(captions(1), out, server, *more))
    assert len(server.calls) == 4
    first, last = rows(out / "answers.jsonl")[0], rows(out / "answers.jsonl")[-1]
    assert first["template"] == last["template"] == "open.txt"
    assert first["template_sha256"] != last["template_sha256"]


def run_command(*command, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", "data_pipelines.generate_qa", *command],
        cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_run_goes_on_to_the_same_result_and_asks_nothing_twice(captions, tmp_path):
    path, whole, killed = captions(8), tmp_path / "whole", tmp_path / "killed"
    kinds = "open,choice"
    stall = [False]

    def behave(call):
        # Answers come in another order than asked, and none after the tenth until the kill.
        time.sleep(0.02 * (len(call.caption) % 3))
        if stall[0] and len(server.calls) > 10:
            time.sleep(3)

    with LanguageModel(behave) as server:
        assert generate_qa.main(arguments(path, whole, server, kinds=kinds)) == 0
        server.calls.clear()
        stall[0] = True
        process = run_command(*arguments(path, killed, server, kinds=kinds))
        deadline = time.monotonic() + 60
        while len(server.calls) < 12:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = len(rows(killed / "answers.jsonl"))
        assert 0 < stored < 16
        # As if the kill had come in the middle of a line.
        with open(killed / "answers.jsonl", "a") as file:
            file.write('{"key": "cut sho')
        stall[0] = False
        server.calls.clear()
        process = run_command(*arguments(path, killed, server, kinds=kinds))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert len(server.calls) == 16 - stored
    assert "cut short" in err
    assert f"16 of 16 answered, {16 - stored} of them now" in out
    assert (killed / "questions.jsonl").read_bytes() == (whole / "questions.jsonl").read_bytes()
    assert (killed / "rejected.jsonl").read_bytes() == (whole / "rejected.jsonl").read_bytes()
    ids = [row["id"] for row in rows(killed / "questions.jsonl")]
    assert len(ids) == len(set(ids)) > 0


def test_an_interrupted_run_stops_at_once_and_says_that_it_can_go_on(captions, tmp_path):
    with LanguageModel(lambda call: Reply(delay=30)) as server:
        process = run_command(*arguments(captions(8), tmp_path / "out", server))
        deadline = time.monotonic() + 60
        while not server.calls and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "goes on from here" in err
    assert "Traceback" not in err


def test_the_api_key_is_sent_and_nowhere_else(captions, tmp_path):
    key = "key-0123456789-of-a-test"

    def behave(call):
        # A careless server: repeats the key in errors and in answers.
        said = call.headers["authorization"]
        if "group 0 " in call.caption:
            return Reply(status=400, raw=json.dumps({"error": {"message": f"bad request with {said}"}}).encode())
        return Reply(json.dumps({"pairs": [{"question": "Which key was used here?", "answer": said}]}))

    with LanguageModel(behave) as server:
        command = arguments(captions(2), tmp_path / "out", server, "--api-key-env", "KEY_OF_TEST")
        process = run_command(*command, KEY_OF_TEST=key, OPENAI_LOG="debug")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert {call.headers["authorization"] for call in server.calls} == {f"Bearer {key}"}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 5
    for text in (out, err, *(path.read_text() for path in files)):
        assert key not in text
    assert "bad request with Bearer [API key]" in (tmp_path / "out" / "failed.jsonl").read_text()


def test_no_key_is_sent_unasked(captions, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-another-service")
    with LanguageModel(lambda call: Reply(status=401, raw=b"{}")) as server:
        assert generate_qa.main(arguments(captions(1), tmp_path / "out", server)) == 2
    assert "another-service" not in str(server.calls[0].headers)
    assert "name that with --api-key-env" in capsys.readouterr().err


def test_no_id_is_written_twice_even_with_the_duplicate_filter_off(captions, tmp_path):
    answer = json.dumps({"pairs": [{"question": "What is seen here?", "answer": "cyst"}] * 2})
    with LanguageModel(lambda call: Reply(answer)) as server:
        generate_qa.main(arguments(captions(1), tmp_path / "out", server, "--skip-filter", "duplicate"))
    assert len(rows(tmp_path / "out" / "questions.jsonl")) == 1
    assert summary(tmp_path / "out")["questions"]["rejected"] == {"duplicate_exact": 1}


def test_two_runs_do_not_write_one_folder(captions, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with open(out / "answers.jsonl", "ab") as held, LanguageModel() as server:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert generate_qa.main(arguments(captions(1), out, server)) == 2
    assert "another run is writing it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--kinds", "open,essay"], "no kind 'essay'"),
        (["--endpoint", "localhost:11434"], "is no address"),
        (["--endpoint", "http://me:secret-word@localhost/v1"], "holds a name or password"),
        (["--concurrency", "0"], "--concurrency 0: write 1 or more"),
        (["--timeout", "nan"], "--timeout nan"),
        (["--requests-per-minute", "0"], "--requests-per-minute 0"),
        (["--temperature", "3"], "--temperature 3"),
        (["--question-words", "9", "3"], "--question-words 9 3"),
        (["--language", "klingon"], "is not a known code"),
        (["--only-accepted"], "name the file with --review"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "no such environment variable"),
        (["--pathologies", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--templates", "nowhere"], "nowhere/open.txt: cannot be read"),
        (["--review", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--captions", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--out", "gs://bucket/folder"], "is not a local folder"),
    ],
)
def test_what_cannot_be_meant_is_named_before_anything_is_asked(captions, tmp_path, capsys, more, complaint):
    with LanguageModel() as server:
        assert generate_qa.main([*arguments(captions(1), tmp_path / "out", server), *more]) == 2
    assert not server.calls
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert complaint in message
    assert message.count("\n") == 1
    assert "secret-word" not in message


def test_a_key_of_several_words_is_refused_without_showing_it(captions, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KEY_OF_TEST", "first\nsecond")
    with LanguageModel() as server:
        assert generate_qa.main(arguments(captions(1), tmp_path / "out", server, "--api-key-env", "KEY_OF_TEST")) == 2
    message = capsys.readouterr().err
    assert "KEY_OF_TEST" in message
    assert "second" not in message
