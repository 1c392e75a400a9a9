"""A language model as judge of answers, behind an OpenAI-compatible endpoint.

Its verdicts are cached on disk with the prompts that led to them, so that a second run asks nothing. What has no
verdict (the reply has none, or the request failed) is left out of the judge's denominator, counted, and said; it is
never taken for right or wrong. How far the judge agrees with exact match is part of its result.
"""

import argparse
import asyncio
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.core.errors import InvalidOption, MissingOption, UnwritableFile
from data_pipelines.generation.answers import AnswerStore, ChatRequest, Completion
from data_pipelines.generation.client import Endpoint, EndpointError, Traffic, ask
from data_pipelines.generation.options import endpoint_of
from data_pipelines.generation.templates import PromptTemplate, read_template
from rllava_jax.evaluation.answers import exact_match, normalise_answer
from rllava_jax.evaluation.predictions import Response, key_of
from rllava_jax.evaluation.protocols.protocol import Protocol, Scores

METRIC = "judge"
MALFORMED = "the reply has no verdict"
NOT_ASKED = "not in the cache, and no endpoint to ask"
FAILED = "the request failed"

_VERDICT = re.compile(r"(?:verdict\s*:\s*)?(correct|incorrect)", re.IGNORECASE)
_MARKUP = str.maketrans("", "", "*_`\"'.")


@dataclass(frozen=True, kw_only=True)
class JudgeRequest(ChatRequest):
    """One answer to judge; `key` covers model, template, question, reference and prediction."""

    question: str
    reference: str
    prediction: str


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Whom to ask and how.

    Attributes:
      endpoint: None asks nobody: only cached verdicts count.
      cache: a JSON Lines file, made where it does not exist.
      max_tokens: of a reply, its reasons included.
    """

    model: str
    template: PromptTemplate
    endpoint: Endpoint | None
    cache: Path
    seed: int
    max_tokens: int


@dataclass(frozen=True)
class Verdicts:
    """What the judge made of the answers.

    Attributes:
      correct: of each item that has a verdict, by `predictions.key_of`. Without an answer it is incorrect, unasked.
      not_judged: how many items have none, by reason.
      from_cache, asked: verdicts and replies of before and of now. Equal prompts are asked once.
      failures: of single requests, the reasons; the same command tries them again.
      not_taken: parameters that the endpoint of these verdicts does not take, e.g. temperature.
    """

    correct: Mapping[tuple[str, ...], bool]
    not_judged: Mapping[str, int]
    from_cache: int
    asked: int
    failures: Sequence[str] = ()
    not_taken: Sequence[str] = ()


@dataclass(frozen=True)
class Agreement:
    """Judge and exact match on the judged items: the two by two table.

    Attributes:
      both_correct, judge_alone, exact_alone, neither: items that both, one, or none of them count as right.
    """

    both_correct: int
    judge_alone: int
    exact_alone: int
    neither: int

    @property
    def n(self) -> int:
        """Judged items."""
        return self.both_correct + self.judge_alone + self.exact_alone + self.neither

    @property
    def accuracy(self) -> float | None:
        """Share on which they agree; None without items."""
        return (self.both_correct + self.neither) / self.n if self.n else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960), agreement beyond chance; None without items, or where chance would always agree."""
        if not self.n:
            return None
        judge = self.both_correct + self.judge_alone
        exact = self.both_correct + self.exact_alone
        by_chance = judge * exact + (self.n - judge) * (self.n - exact)
        agreed = (self.both_correct + self.neither) * self.n
        return (agreed - by_chance) / (self.n**2 - by_chance) if by_chance < self.n**2 else None


def judge_of(options: argparse.Namespace) -> Judge | None:
    """The judge that the options ask for (`evaluate_options`, their defaults filled in); None without --judge-model.

    Raises:
      ConfigError: options that do not fit together, or an address or key that is none.
      DataError: a faulty template.
    """
    if options.judge_model is None:
        return None
    if options.judge_cache is None:
        raise MissingOption("--judge-model: needs --judge-cache FILE, where its verdicts are kept")
    if "://" in options.judge_cache:
        raise InvalidOption(f"--judge-cache {options.judge_cache}: is not a local file; name one and copy it")
    endpoint = endpoint_of(
        options,
        "judge_",
        requests_per_minute=None,
        stop_after_failures=max(5, options.judge_concurrency),
        extra="evaluation",
    )
    return Judge(
        model=options.judge_model,
        template=load_template(options.judge_template),
        endpoint=endpoint,
        cache=Path(options.judge_cache),
        seed=options.judge_seed,
        max_tokens=options.judge_max_tokens,
    )


def load_template(path: str | None = None) -> PromptTemplate:
    """A template from a file, or the package's own.

    Raises:
      DataError: it cannot be read, has not the parts [system] and [user], or lacks $reference or $prediction.
    """
    own = resources.files("rllava_jax.evaluation") / "judge_templates" / "medical_answer.txt"
    return read_template(
        Path(path) if path else own,
        "rllava_jax/evaluation/judge_templates/medical_answer.txt",
        allowed=("question", "reference", "prediction"),
        needed=("reference", "prediction"),
    )


def verdict_of(reply: Completion) -> bool | None:
    """Whether a reply says correct; None where its last line is no verdict, or where it was cut for length."""
    lines = [line for line in reply.text.splitlines() if line.strip()]
    if not lines or reply.finish_reason == "length":
        return None
    found = _VERDICT.fullmatch(lines[-1].translate(_MARKUP).strip())
    return found[1].lower() == "correct" if found else None


def request_of(judge: Judge, item: Response) -> JudgeRequest:
    """The prompt about an item's (first) answer. Texts are put in as JSON strings, so that none can pose as another."""
    texts = {
        "question": item.question,
        "reference": " | ".join(dict.fromkeys(item.references)),
        "prediction": item.prediction,
    }
    quoted = {name: json.dumps(text, ensure_ascii=False) for name, text in texts.items()}
    return JudgeRequest(
        model=judge.model,
        seed=judge.seed,
        temperature=0.0,
        max_tokens=judge.max_tokens,
        json_mode=False,
        template=judge.template.name,
        template_sha256=judge.template.sha256,
        system=judge.template.system.substitute(quoted),
        user=judge.template.user.substitute(quoted),
        **texts,
    )


def judge_items(judge: Judge, items: Sequence[Response]) -> Verdicts:
    """Judges every item that has an answer, asking only for what the cache lacks.

    Raises:
      EndpointError: the endpoint cannot be reached or refuses; every verdict so far is in the cache.
      DataError: the cache is damaged or held by another process, or the package openai is not installed.
    """
    requests = {key_of(item): request_of(judge, item) for item in items if normalise_answer(item.prediction)}
    failures: dict[str, str] = {}
    with _open(judge.cache) as store:
        missing = {request.key: request for request in requests.values() if request.key not in store}
        if judge.endpoint is not None and missing:
            traffic = Traffic()
            with tqdm(total=len(missing), desc="judging", unit="answer", disable=None) as bar:
                asyncio.run(ask(iter(missing.values()), judge.endpoint, store, traffic, bar))
            failures = {request.key: reason for request, reason in traffic.failures}
            if failures and not any(request.key in store for request in requests.values()):
                raise EndpointError(
                    f"{judge.endpoint.url}: answered none of {len(failures)} requests, the last by: "
                    f"{list(failures.values())[-1]}; fix the endpoint and run the same command again",
                    code="endpoint.failed",
                )
        correct: dict[tuple[str, ...], bool] = {}
        not_judged: Counter[str] = Counter()
        for item in items:
            request = requests.get(key_of(item))
            if request is None:
                correct[key_of(item)] = False
            elif request.key not in store:
                not_judged[FAILED if request.key in failures else NOT_ASKED] += 1
            elif (verdict := verdict_of(store.get(request.key))) is None:
                not_judged[MALFORMED] += 1
            else:
                correct[key_of(item)] = verdict
        asked = sum(key in store for key in missing)
        needed = {request.key for request in requests.values()}
        replies = (store.get(key) for key in needed if key in store)
        not_taken = sorted({name for reply in replies for name in reply.not_taken})
    return Verdicts(correct, not_judged, len(needed) - len(missing), asked, tuple(failures.values()), not_taken)


def _open(cache: Path) -> AnswerStore:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        return AnswerStore(str(cache))
    except OSError as error:
        raise UnwritableFile(f"{cache}: cannot be opened ({error.strerror}); name a file that can be written") from None


def with_judge(protocol: Protocol, verdicts: Verdicts) -> Protocol:
    """The protocol with a further metric, `judge`, in every subset; n counts the judged answers alone."""

    def score(item: Response) -> Scores:
        verdict = verdicts.correct.get(key_of(item))
        return {**protocol.score(item), **({} if verdict is None else {METRIC: float(verdict)})}

    metrics = {subset: (*names, METRIC) for subset, names in protocol.metrics.items()}
    return dataclasses.replace(protocol, score=score, metrics=metrics)


def agreement(items: Iterable[Response], verdicts: Verdicts) -> Agreement:
    """The judge's verdicts against normalised equality with any of the references."""
    table: Counter[tuple[bool, bool]] = Counter()
    for item in items:
        verdict = verdicts.correct.get(key_of(item))
        if verdict is not None:
            exact = any(exact_match(answer, item.prediction) for answer in item.references)
            table[verdict, exact] += 1
    return Agreement(table[True, True], table[True, False], table[False, True], table[False, False])


def summary(judge: Judge, items: Sequence[Response], verdicts: Verdicts) -> dict[str, Any]:
    """All that a reported judge's score needs beside it, as plain JSON."""
    found = agreement(items, verdicts)
    return {
        "model": judge.model,
        "template": judge.template.name,
        "template_sha256": judge.template.sha256,
        "temperature": None if "temperature" in verdicts.not_taken else 0.0,  # None: the model's own
        "seed": None if "seed" in verdicts.not_taken else judge.seed,
        "answers": len(items),
        "judged": found.n,
        "not_judged": dict(sorted(verdicts.not_judged.items())),
        "asked_now": verdicts.asked,
        "from_cache": verdicts.from_cache,
        "agreement_with_exact_match": {**dataclasses.asdict(found), "accuracy": found.accuracy, "kappa": found.kappa},
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """The summary in a few lines for the terminal."""
    not_judged = "; ".join(f"{count} not: {reason}" for reason, count in summary["not_judged"].items())
    table = summary["agreement_with_exact_match"]
    lines = [
        f"judge {summary['model']}: {summary['judged']} of {summary['answers']} answers judged"
        + (f" ({not_judged})" if not_judged else ""),
        f"judge and exact match: both right {table['both_correct']}, judge alone {table['judge_alone']}, "
        f"exact match alone {table['exact_alone']}, neither {table['neither']}",
    ]
    if table["accuracy"] is not None:
        kappa = "undefined" if table["kappa"] is None else f"{table['kappa']:.2f}"
        lines.append(f"they agree on {100 * table['accuracy']:.1f} %, Cohen's kappa {kappa}")
    return "\n".join(lines)
