"""From stored answers to the questions that are kept, and the count of everything that is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data_pipelines.core.atomic_files import appears_whole
from data_pipelines.generation.answers import AnswerStore, Completion, Request
from data_pipelines.generation.captions import Caption
from data_pipelines.generation.duplicates import Duplicates
from data_pipelines.generation.filters import Filters
from data_pipelines.generation.pairs import GeneratedPair, pair_id, question_record
from data_pipelines.generation.parsing import MalformedError, parse_answer
from data_pipelines.generation.review import Verdict

QUESTIONS = "questions.jsonl"
REJECTED = "rejected.jsonl"


@dataclass
class Tally:
    """What became of the answers. Every pair found is kept or rejected for one reason.

    Attributes:
      unanswered: requests without a stored answer.
      nothing_to_ask: answers that are well-formed and empty.
      malformed_answers, malformed_pairs: rejected before they were pairs, by reason.
      found, kept: pairs by kind.
      rejected: pairs by the name of the filter, or "review".
      closed: kept yes-or-no questions by answer.
      unknown_verdicts: ids in the review file that no pair has.
    """

    answers: int = 0
    unanswered: int = 0
    nothing_to_ask: int = 0
    malformed_answers: Counter[str] = field(default_factory=Counter)
    malformed_pairs: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    unknown_verdicts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """An answer with what it answers."""

    caption: Caption
    request: Request
    key: str
    answer: Completion


@dataclass
class _Output:
    """The files under way. Attributes: judged: ids of all pairs found."""

    kept: TextIO
    rejected: TextIO
    tally: Tally = field(default_factory=Tally)
    judged: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Selection:
    """The rules by which pairs are kept.

    Attributes:
      duplicates: None to keep them.
      verdicts: of a person, by id of the pair.
      only_accepted: keep only what a person has accepted.
      split, language: of the records written.
    """

    filters: Filters
    duplicates: Duplicates | None
    verdicts: Mapping[str, Verdict]
    only_accepted: bool
    split: str
    language: str

    def write(
        self,
        folder: Path,
        captions: Iterable[Caption],
        requests_of: Callable[[Caption], Iterator[Request]],
        store: AnswerStore,
    ) -> Tally:
        """Writes `questions.jsonl` and `rejected.jsonl` anew, in the order of the captions and of their requests.

        The files depend on captions, answers and rules alone, not on the order in which the answers came.
        """
        with (
            appears_whole(folder / QUESTIONS) as kept_path,
            appears_whole(folder / REJECTED) as rejected_path,
            open(kept_path, "w", encoding="utf-8") as kept,
            open(rejected_path, "w", encoding="utf-8") as rejected,
        ):
            output = _Output(kept, rejected)
            for caption in captions:
                for request in requests_of(caption):
                    key = request.key
                    if key in store:
                        self._judge_answer(_Asked(caption, request, key, store.get(key)), output)
                    else:
                        output.tally.unanswered += 1
        output.tally.unknown_verdicts = sorted(self.verdicts.keys() - output.judged)
        return output.tally

    def _judge_answer(self, asked: _Asked, output: _Output) -> None:
        tally, request = output.tally, asked.request
        tally.answers += 1
        where = {"caption_id": request.caption_id, "kind": request.kind, "request": asked.key}
        try:
            parsed = parse_answer(request.kind, asked.answer.text)
        except MalformedError as error:
            reason = "cut off at --max-tokens" if asked.answer.finish_reason == "length" else str(error)
            tally.malformed_answers[reason] += 1
            _write(output.rejected, {**where, "reason": reason})
            return
        for reason in parsed.malformed:
            tally.malformed_pairs[reason] += 1
            _write(output.rejected, {**where, "reason": reason})
        if not parsed.pairs and not parsed.malformed:
            tally.nothing_to_ask += 1
        for pair in parsed.pairs:
            self._judge(asked, pair, output)

    def _judge(self, asked: _Asked, pair: GeneratedPair, output: _Output) -> None:
        tally = output.tally
        identity = pair_id(asked.caption, pair)
        tally.found[pair.kind] += 1
        # Whatever filters are off, no id stands in the file twice.
        repeated = identity in output.judged
        reason = "duplicate_exact" if repeated else self._fault(identity, asked.caption, pair)
        output.judged.add(identity)
        if reason is not None:
            tally.rejected[reason] += 1
            turns = [asdict(turn) for turn in pair.turns]
            _write(output.rejected, {"id": identity, "reason": reason, "turns": turns, "request": asked.key})
            return
        tally.kept[pair.kind] += 1
        tally.accepted += self.verdicts.get(identity) == "accept"
        if pair.kind == "closed":
            tally.closed[pair.turns[0].answer] += 1
        record = question_record(
            asked.caption,
            pair,
            seed=asked.request.seed,
            split=self.split,
            language=self.language,
            generated=_provenance(asked),
        )
        _write(output.kept, record)

    def _fault(self, identity: str, caption: Caption, pair: GeneratedPair) -> str | None:
        """The verdicts come last: what a person rejects goes on ruling out its duplicates."""
        fault = self.filters.pair_fault(pair)
        if fault is None and self.duplicates is not None:
            fault = self.duplicates.fault(pair, caption.image_id)
        if fault is None:
            verdict = self.verdicts.get(identity)
            if verdict == "reject":
                return "review: rejected"
            if self.only_accepted and verdict != "accept":
                return "review: not accepted"
        return fault


def _provenance(asked: _Asked) -> dict[str, Any]:
    names = (
        *("kind", "caption_id", "model", "seed", "temperature"),
        *("template", "template_sha256", "prompt_sha256"),
    )
    of_request = {name: getattr(asked.request, name) for name in names}
    return {**of_request, "answer_sha256": asked.answer.sha256, "request": asked.key}


def _write(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
