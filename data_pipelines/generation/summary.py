"""What a run did: `summary.json`, and the same in a few lines of text."""

import argparse
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_pipelines.generation.client import Traffic
from data_pipelines.generation.selection import Tally
from data_pipelines.generation.templates import Kind, PromptTemplate

_SETTINGS = (
    "captions", "model", "seed", "temperature", "max_tokens", "json_mode", "pairs", "turns", "language", "split",
    "limit", "pathologies", "pathology_scope", "caption_words", "question_words", "answer_words", "duplicate_scope",
    "duplicate_threshold", "skip_filter", "review", "only_accepted",
)  # fmt: skip


def summarise(
    options: argparse.Namespace,
    templates: Mapping[Kind, PromptTemplate],
    captions: int,
    left_out: Counter[str],
    answered_before: int,
    traffic: Traffic,
    tally: Tally,
) -> dict[str, Any]:
    """The summary as it is stored; counts by reason are in order of their names.

    Args:
      captions: read.
      left_out: of these, by reason.
      answered_before: requests whose answer an earlier start had stored.
    """
    return {
        "settings": {name: getattr(options, name) for name in _SETTINGS},
        "templates": {kind: {"name": t.name, "sha256": t.sha256} for kind, t in templates.items()},
        "captions": {"read": captions, "left_out": _sorted(left_out), "used": captions - left_out.total()},
        "requests": {
            "needed": tally.answers + tally.unanswered,
            "answered": tally.answers,
            "unanswered": tally.unanswered,
            "answered_before": answered_before,
            "answered_now": tally.answers - answered_before,
            "failed": len(traffic.failures),
            "tries": traffic.tries,
            "replies_by_status": {str(code): count for code, count in sorted(traffic.statuses.items())},
            **({"not_taken": traffic.not_taken} if traffic.not_taken else {}),
        },
        "answers": {
            "malformed": _sorted(tally.malformed_answers),
            "nothing_to_ask": tally.nothing_to_ask,
            "malformed_pairs": _sorted(tally.malformed_pairs),
        },
        "questions": {name: _sorted(getattr(tally, name)) for name in ("found", "rejected", "kept", "closed")},
        "review": {"accepted": tally.accepted, "unknown_ids": len(tally.unknown_verdicts)},
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """The counts, a line each."""
    captions, requests = summary["captions"], summary["requests"]
    answers, questions = summary["answers"], summary["questions"]
    lines = [
        ("captions", f"{captions['used']} of {captions['read']}{_counts(captions['left_out'])}"),
        (
            "requests",
            f"{requests['answered']} of {requests['needed']} answered, {requests['answered_now']} of them now; "
            f"{requests['failed']} failed, {requests['tries']} tries",
        ),
        ("answers", f"{_total(answers['malformed'], ' malformed')}; {answers['nothing_to_ask']} with nothing to ask"),
        ("pairs", _total(answers["malformed_pairs"], " malformed")),
        *((name, _total(questions[name])) for name in ("found", "rejected", "kept")),
    ]
    if questions["closed"]:
        lines.append(("closed", _counts(questions["closed"]).removeprefix(": ")))
    return "\n".join(f"{name:<9} {text}" for name, text in lines)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _total(counts: Mapping[str, int], what: str = "") -> str:
    return f"{sum(counts.values())}{what}{_counts(counts)}"


def _counts(counts: Mapping[str, int]) -> str:
    return (": " if counts else "") + ", ".join(f"{name} {count}" for name, count in counts.items())
