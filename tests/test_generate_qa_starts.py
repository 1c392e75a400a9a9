"""Killed, interrupted and second starts; keys; and what is refused before anything is asked."""

import fcntl
import functools
import json
import signal
import time

import pytest
from generated_questions import arguments, rows, run_command, write_captions
from language_model_server import LanguageModel, Reply

from data_pipelines import generate_qa


@pytest.fixture
def captions(tmp_path):
    return functools.partial(write_captions, tmp_path / "captions.jsonl")


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_interrupted_run_stops_at_once_and_says_that_it_can_go_on(captions, tmp_path):
    with LanguageModel(lambda call: Reply(delay=30)) as server:
        process = run_command(*arguments(captions(8), tmp_path / "out", server))
        deadline = time.monotonic() + 60
        while not server.calls and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "run the same command again to resume" in err
    assert "Traceback" not in err


@pytest.mark.slow
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
        (["--endpoint", "localhost:11434"], "--endpoint localhost:11434"),
        (["--endpoint", "http://me:secret-word@localhost/v1"], "--endpoint"),
        (["--concurrency", "0"], "--concurrency: '0'"),
        (["--timeout", "nan"], "--timeout: 'nan'"),
        (["--requests-per-minute", "0"], "--requests-per-minute: '0'"),
        (["--temperature", "3"], "--temperature: '3'"),
        (["--question-words", "9", "3"], "--question-words 9 3"),
        (["--language", "klingon"], "is not a known code"),
        (["--only-accepted"], "--only-accepted: goes with --review"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "--api-key-env NO_SUCH_VARIABLE"),
        (["--pathologies", "nowhere.txt"], "nowhere.txt"),
        (["--templates", "nowhere"], "nowhere/open.txt"),
        (["--review", "nowhere.csv"], "nowhere.csv"),
        (["--captions", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--out", "gs://bucket/folder"], "--out gs://bucket/folder"),
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
