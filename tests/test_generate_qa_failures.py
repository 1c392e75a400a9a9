"""An endpoint that fails, is slow or refuses: what is tried again, and what ends the run."""

import functools
import re
import time

import pytest
from generated_questions import arguments, rows, summary, write_captions
from language_model_server import LanguageModel, Reply

from data_pipelines import generate_qa


@pytest.fixture
def captions(tmp_path):
    return functools.partial(write_captions, tmp_path / "captions.jsonl")


@pytest.mark.slow
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


@pytest.mark.slow
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
