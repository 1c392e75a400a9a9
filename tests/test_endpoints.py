"""Endpoints that are not quite the usual one, for both that ask them: generate_qa and the judge of answers."""

import json

import pytest
from generated_questions import arguments, rows, summary, write_captions
from language_model_server import LanguageModel, Reply, good_answer
from scored_files import write

from data_pipelines import generate_qa
from rllava_jax import evaluate


def _reply(call, text=None):
    return text or ("verdict: correct" if call.kind == "judge" else good_answer(call))


def _completion(content):
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


def _refusal(message, **fields):
    return Reply(status=400, raw=json.dumps({"error": {"message": message, **fields}}).encode())


def _openai(call):
    if "max_tokens" in call.body:
        words = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return _refusal(words, code="unsupported_parameter", param="max_tokens")
    if "temperature" in call.body:
        words = (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
        )
        return _refusal(words, code="unsupported_value", param="temperature")
    return Reply(_reply(call))


def _forbids(*names):
    """FastAPI's refusal of fields that it does not know."""

    def behave(call):
        if unknown := [name for name in names if name in call.body]:
            detail = [{"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in unknown]
            return Reply(status=422, raw=json.dumps({"detail": detail}).encode())
        return Reply(_reply(call))

    return behave


def _parts(call):
    text = _reply(call)
    half = len(text) // 2
    return Reply(
        raw=_completion(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "verdict: incorrect"}]},
                {"type": "text", "text": text[:half]},
                {"type": "text", "text": text[half:]},
            ]
        )
    )


_ENDPOINTS = {
    "as OpenAI's reasoning models": (_openai, {"temperature"}, "max_completion_tokens"),
    "without a seed": (_forbids("seed"), {"seed"}, "max_tokens"),
    "with neither": (_forbids("seed", "temperature"), {"seed", "temperature"}, "max_tokens"),
    "content in parts": (_parts, set(), "max_tokens"),
    "content in strings": (lambda call: Reply(raw=_completion([_reply(call)])), set(), "max_tokens"),
}


@pytest.fixture(autouse=True)
def _proxies(monkeypatch):
    """In the environment, as on many clusters: they know nothing of this machine's loopback, where the servers are."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def _judged(folder, server):
    questions = [{"id": i, "question": "What is shown?", "answer": "a cyst"} for i in range(6)]
    answers = write(folder / "answers.jsonl", [{"id": i, "answer": f"cyst {i}"} for i in range(6)])
    command = ["--predictions", answers, "--references", write(folder / "questions.jsonl", questions)]
    command += ["--judge-model", "m", "--judge-endpoint", server.url, "--judge-cache", folder / "judge.jsonl"]
    command += ["--judge-retries", "0", "--bootstrap", "0", "--out", folder / "scores"]
    assert evaluate.main([str(word) for word in command]) == 0
    return json.loads((folder / "scores" / "about.json").read_text())["judge"]


@pytest.mark.parametrize("name", _ENDPOINTS)
def test_an_endpoint_is_asked_in_its_own_way(tmp_path, name):
    behave, not_taken, limit = _ENDPOINTS[name]
    with LanguageModel(behave) as server:
        command = arguments(write_captions(tmp_path / "captions.jsonl", 4), tmp_path / "out", server, "--retries", "0")
        assert generate_qa.main(command) == 0
        sent = server.calls[-1].body.keys()
        assert limit in sent
        assert not not_taken & sent
        about = _judged(tmp_path, server)
    assert summary(tmp_path / "out")["requests"]["failed"] == 0
    assert set(summary(tmp_path / "out")["requests"].get("not_taken", ())) == not_taken
    assert len(rows(tmp_path / "out" / "questions.jsonl")) >= 4
    assert about["judged"] == about["agreement_with_exact_match"]["judge_alone"] == 6
    assert about["temperature"] == (None if "temperature" in not_taken else 0.0)
    with LanguageModel(behave) as server:  # what was not taken is known of cached verdicts as well
        assert _judged(tmp_path, server) == about | {"asked_now": 0, "from_cache": 6}
        assert not server.calls


def test_a_refusal_of_something_else_is_no_reason_to_ask_otherwise(tmp_path, capsys):
    words = "max_tokens is too large: 1024. This model allows at most 512 completion tokens"
    with LanguageModel(lambda call: _refusal(words, param="max_tokens")) as server:
        command = arguments(write_captions(tmp_path / "captions.jsonl", 2), tmp_path / "out", server, "--retries", "0")
        assert generate_qa.main(command) == 1
        assert len(server.calls) == 2
    assert "too large" in rows(tmp_path / "out" / "failed.jsonl")[0]["reason"]
