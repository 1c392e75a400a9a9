"""From stored answers to the questions that are kept, and the count of everything that is not."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import appears_whole
from data_pipelines.generation.answers import AnswerStore, Request
from data_pipelines.generation.captions import Caption
from data_pipelines.generation.filters import Duplicates, Filters
from data_pipelines.generation.pairs import GeneratedPair, MalformedError, pair_id, parse_answer, question_record
from data_pipelines.generation.review import Verdict

QUESTIONS = "questions.jsonl"
REJECTED = "rejected.jsonl"
# What a question keeps of the request that it comes from.
_PROVENANCE = (
    "kind", "caption_id", "model", "seed", "temperature", "template", "template_sha256", "prompt_sha256",
)  # fmt: skip

RequestsOf = Callable[[Caption], Iterator[Request]]


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
      judged: ids of all pairs found.
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
    judged: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Selection:
    """The rules by which pairs are kept.

    Attributes:
      duplicates: None to keep them.
      verdicts: of a person, by id of the pair.
      only_accepted: keep only what a person has accepted.
      split, language: of the records written.
      store: of the answers.
    """

    filters: Filters
    duplicates: Duplicates | None
    verdicts: Mapping[str, Verdict]
    only_accepted: bool
    split: str
    language: str
    store: AnswerStore
    tally: Tally = field(default_factory=Tally)

    def write(self, folder: Path, captions: Iterable[Caption], requests_of: RequestsOf) -> Tally:
        """Writes `questions.jsonl` and `rejected.jsonl` anew, in the order of the captions and of their requests.

        The files depend on captions, answers and rules alone, not on the order in which the answers came.
        """
        with (
            appears_whole(folder / QUESTIONS) as kept_path,
            appears_whole(folder / REJECTED) as rejected_path,
            open(kept_path, "w", encoding="utf-8") as kept,
            open(rejected_path, "w", encoding="utf-8") as rejected,
        ):
            for caption in captions:
                for request in requests_of(caption):
                    for row in self._rows(caption, request):
                        file = rejected if "reason" in row else kept
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.tally.unknown_verdicts = sorted(self.verdicts.keys() - self.tally.judged)
        return self.tally

    def _rows(self, caption: Caption, request: Request) -> Iterator[dict[str, Any]]:
        """What is written of the answer to a request; rows with a `reason` are rejected."""
        key, tally = request.key, self.tally
        if key not in self.store:
            tally.unanswered += 1
            return
        tally.answers += 1
        answer = self.store.get(key)
        where = {"caption_id": request.caption_id, "kind": request.kind, "request": key}
        try:
            parsed = parse_answer(request.kind, answer.text)
        except MalformedError as error:
            reason = "cut off at --max-tokens" if answer.finish_reason == "length" else str(error)
            tally.malformed_answers[reason] += 1
            yield {**where, "reason": reason}
            return
        tally.malformed_pairs.update(parsed.malformed)
        yield from ({**where, "reason": reason} for reason in parsed.malformed)
        tally.nothing_to_ask += not parsed.pairs and not parsed.malformed
        generated = {name: getattr(request, name) for name in _PROVENANCE}
        generated |= {"answer_sha256": answer.sha256, "request": key}
        for pair in parsed.pairs:
            identity = pair_id(caption, pair)
            if fault := self._judge(identity, caption, pair):
                turns = [asdict(turn) for turn in pair.turns]
                yield {"id": identity, "reason": fault, "turns": turns, "request": key}
            else:
                yield question_record(
                    caption, pair, seed=request.seed, split=self.split, language=self.language, generated=generated
                )

    def _judge(self, identity: str, caption: Caption, pair: GeneratedPair) -> str | None:
        """Why a pair is rejected, counted either way."""
        tally = self.tally
        tally.found[pair.kind] += 1
        # Whatever filters are off, no id stands in the file twice.
        reason = "duplicate_exact" if identity in tally.judged else self._fault(identity, caption, pair)
        tally.judged.add(identity)
        if reason is not None:
            tally.rejected[reason] += 1
            return reason
        tally.kept[pair.kind] += 1
        tally.accepted += self.verdicts.get(identity) == "accept"
        if pair.kind == "closed":
            tally.closed[pair.turns[0].answer] += 1
        return None

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
