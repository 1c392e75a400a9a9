"""References and answers brought together: every question of the references stays, whatever the file says of it."""

import dataclasses
from collections.abc import Iterable, Sequence

from data_pipelines.core.errors import NoExamples, UnknownName
from rllava_jax.evaluation.answer_files import AnswerFile, Findings, GivenAnswer
from rllava_jax.evaluation.predictions import Response
from rllava_jax.evaluation.protocols.protocol import Protocol

MISSING = "questions without a prediction (counted as wrong)"
UNKNOWN = "predictions whose id the references do not have (not scored)"
REPEATED = "predictions given again with the same answer (counted once)"
CONFLICTING = "questions answered several times in different words (counted as wrong)"
BAD_RUN = "answers whose run is no whole number of the protocol's runs, counted from 0 (not used)"
REPEATED_RUN = "runs of a question given again with the same answer (counted once)"
CONFLICTING_RUN = "runs of a question given several times in different words (counted as wrong)"
NOT_OF_PROTOCOL = "questions that the protocol does not score, or that --content-types leaves out"
_TRUST = "trust:"


def match(references: Sequence[Response], file: AnswerFile, protocol: Protocol, findings: Findings) -> list[Response]:
    """The questions that the protocol scores, with what was answered.

    Every question is expected under every condition that the file names; where the references name conditions, as
    those of a run's own predictions.jsonl do, under those that both name. `trust:…` is asked of questions with a region
    alone.

    A question without an answer, or with several that differ, keeps its place with no predictions. Under a protocol of
    several runs, the lines of a question are its runs: each the one that its `run` names, or in their order where none
    of them has a `run`.

    Args:
      findings: takes what was odd, beside what reading the file found.

    Returns:
      Condition by condition, in the order of the references.

    Raises:
      DataError: the references have none of the file's ids, or the protocol scores none of the questions.
    """
    counted = [item for item in references if protocol.counts(item)]
    for item in references if len(counted) < len(references) else ():
        if not protocol.counts(item):
            findings.add(NOT_OF_PROTOCOL, repr(item.id))
    if not counted:
        raise NoExamples(f"--protocol {protocol.name}: scores none of the {len(references):,} questions; see --list")
    known = {item.id for item in references}
    unknown = [key for key in file.answers if key[0] not in known]
    if len(unknown) == len(file.answers):
        raise UnknownName(
            f"no prediction has an id of the references: predictions have {_some(key[0] for key in unknown)}; "
            f"the references have {_some(item.id for item in references)}"
        )
    for name, condition in unknown:
        findings.add(UNKNOWN, _named(name, condition))
    items = []
    for item in _under_conditions(counted, file.conditions):
        answers = file.answers.get((item.id, item.condition), ())
        if not answers:
            findings.add(MISSING, _named(item.id, item.condition))
        items.append(_answered(item, answers, protocol.runs, findings) if answers else item)
    return protocol.settle(items, findings) if protocol.settle else items


def _under_conditions(references: Sequence[Response], conditions: Sequence[str]) -> Iterable[Response]:
    if any(item.condition for item in references):
        asked = [item for item in references if item.condition in conditions]
        if not asked:
            named = ", ".join(dict.fromkeys(item.condition for item in references))
            raise UnknownName(f"predictions: were asked under none of the conditions of the references ({named})")
        yield from asked
        return
    for condition in conditions:
        for item in references:
            if item.has_region or not condition.startswith(_TRUST):
                yield dataclasses.replace(item, condition=condition) if condition else item


def _answered(item: Response, answers: Sequence[GivenAnswer], runs: int, findings: Findings) -> Response:
    name = _named(item.id, item.condition)
    if runs > 1 and any(answer.fields.get("run") is not None for answer in answers):
        answers = _by_run(answers, runs, name, findings)
    texts = [answer.text for answer in answers]
    if runs == 1 and len(texts) > 1:
        if len(set(texts)) > 1:
            findings.add(CONFLICTING, name)
            return item
        findings.add(REPEATED, name)
        texts = texts[:1]
    if len(texts) > runs:
        findings.add(f"questions with more than {runs} runs (counted as wrong)", name)
        return item
    if len(texts) < runs:
        findings.add(f"questions with fewer than {runs} runs", name)
    if all(text is None for text in texts):
        return item
    return dataclasses.replace(
        item,
        predictions=tuple(text or "" for text in texts),
        confidence=answers[0].confidence,
        fields=answers[0].fields,
    )


def _by_run(answers: Sequence[GivenAnswer], runs: int, name: str, findings: Findings) -> list[GivenAnswer]:
    """One answer for every run that has any, in the order of the runs; without text where its lines differ."""
    found: dict[int, list[GivenAnswer]] = {}
    for answer in answers:
        run = answer.fields.get("run")
        if isinstance(run, int) and not isinstance(run, bool) and 0 <= run < runs:
            found.setdefault(run, []).append(answer)
        else:
            findings.add(BAD_RUN, name)
    kept = []
    for _, given in sorted(found.items()):
        same = len({answer.text for answer in given}) == 1
        if len(given) > 1:
            findings.add(REPEATED_RUN if same else CONFLICTING_RUN, name)
        kept.append(given[0] if same else given[0]._replace(text=None))
    return kept


def _named(name: str, condition: str) -> str:
    return f"{name!r} ({condition})" if condition else repr(name)


def _some(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(map(repr, distinct[:3])) + (" …" if len(distinct) > 3 else "")
