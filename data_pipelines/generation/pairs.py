"""From a language model's answer to pairs of question and answer, and from a pair to the record that is written of it.

An answer is one JSON object, read strictly; prose around it is passed over.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_pipelines.core.json_files import first_object
from data_pipelines.core.seeding import rng_for
from data_pipelines.generation.captions import Caption
from data_pipelines.generation.templates import Kind
from data_pipelines.generation.words import words
from data_pipelines.records import Turn

# What an image question may ask after; `image.txt` lists the same names.
TOPICS = ("modality", "plane", "organ", "position", "appearance", "finding")
# Keys beside question and answer.
_MORE_KEYS: Mapping[Kind, set[str]] = {"choice": {"wrong"}, "image": {"topic"}}
WRONG_OPTIONS = 3
_LEAST_TURNS = 2
# Models that reason aloud put it before their answer, braces and all.
_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class GeneratedPair:
    """One question and answer, or a conversation.

    Attributes:
      turns: one, or those of a conversation in order.
      wrong: the three wrong options of a multiple choice.
      topic: of an image question, one of `TOPICS`.
    """

    kind: Kind
    turns: tuple[Turn, ...]
    wrong: tuple[str, ...] = ()
    topic: str = ""

    @property
    def text(self) -> str:
        """All that is asked and answered, options included."""
        return " ".join([*(part for turn in self.turns for part in (turn.question, turn.answer)), *self.wrong])


class MalformedError(ValueError):
    """What the model wrote cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Parsed:
    """Attributes: pairs: those that are whole; malformed: the reasons of the others, one each."""

    pairs: list[GeneratedPair]
    malformed: list[str]


def parse_answer(kind: Kind, text: str) -> Parsed:
    """The pairs of one answer. An empty list of pairs is an answer: the model found nothing to ask.

    Raises:
      MalformedError: nothing of the answer can be used.
    """
    answer = extract_object(text)
    key = "turns" if kind == "conversation" else "pairs"
    entries = answer.get(key)
    if set(answer) != {key} or not isinstance(entries, list):
        raise MalformedError("wrong keys")
    if kind == "conversation":
        return Parsed([_conversation(entries)] if entries else [], [])
    pairs, malformed = [], []
    for entry in entries:
        try:
            pairs.append(_pair(kind, entry))
        except MalformedError as error:
            malformed.append(str(error))
    return Parsed(pairs, malformed)


def extract_object(text: str) -> dict[str, Any]:
    """The one JSON object in `text`. What stands before and after may be anything without an opening brace.

    Raises:
      MalformedError: no object, a broken one, or several.
    """
    text = _REASONING.sub("", text)
    start = text.find("{")
    if start < 0:
        raise MalformedError("no JSON")
    try:
        found, end = first_object(text, start)
    except ValueError:
        raise MalformedError("broken JSON") from None
    if "{" in text[end:]:
        raise MalformedError("more than one JSON object")
    return dict(found)


def _pair(kind: Kind, entry: Any) -> GeneratedPair:
    turn = _turn(entry, _MORE_KEYS.get(kind, set()))
    match kind:
        case "closed":
            word = words(turn.answer)
            if word not in (("yes",), ("no",)):
                raise MalformedError("closed answer is not yes or no")
            return GeneratedPair(kind, (Turn(turn.question, word[0]),))
        case "choice":
            wrong = entry["wrong"]
            if not isinstance(wrong, list) or len(wrong) != WRONG_OPTIONS:
                raise MalformedError("not three wrong options")
            options = (turn.answer, *(_text(option) for option in wrong))
            if len({words(option) for option in options}) != len(options):
                raise MalformedError("two options are the same")
            return GeneratedPair(kind, (turn,), wrong=options[1:])
        case "image":
            topic = _text(entry["topic"]).lower()
            if topic not in TOPICS:
                raise MalformedError("unknown topic")
            return GeneratedPair(kind, (turn,), topic=topic)
        case _:
            return GeneratedPair(kind, (turn,))


def _conversation(entries: list[Any]) -> GeneratedPair:
    turns = tuple(_turn(entry) for entry in entries)
    if len(turns) < _LEAST_TURNS:
        raise MalformedError("conversation of one turn")
    return GeneratedPair("conversation", turns)


def _turn(entry: Any, more_keys: Collection[str] = ()) -> Turn:
    if not isinstance(entry, dict) or set(entry) != {"question", "answer", *more_keys}:
        raise MalformedError("wrong keys")
    return Turn(_text(entry["question"]), _text(entry["answer"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MalformedError("value is not text")
    # A lone surrogate, which JSON's \ud800 may give, cannot be written as UTF-8.
    text = " ".join(value.encode(errors="replace").decode().split())
    if not words(text):
        raise MalformedError("empty text")
    return text


def pair_id(caption: Caption, pair: GeneratedPair) -> str:
    """`CAPTION/KIND/HASH`: the same text from the same caption has the same id in every run, other text another."""
    content = json.dumps([[[turn.question, turn.answer] for turn in pair.turns], list(pair.wrong)], ensure_ascii=False)
    return f"{caption.id}/{pair.kind}/{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def question_record(
    caption: Caption, pair: GeneratedPair, *, seed: int, split: str, language: str, generated: dict[str, Any]
) -> dict[str, Any]:
    """The pair in the fields of `records.VQAExample`, with where it comes from in the field `generated`.

    Args:
      seed: of the options' order.
      split: of captions that name none.
    """
    identity = pair_id(caption, pair)
    last = pair.turns[-1]
    choices: tuple[str, ...] = ()
    question = last.question
    if pair.kind == "choice":
        options = (last.answer, *pair.wrong)
        choices = tuple(options[i] for i in rng_for(seed, "choices", identity).permutation(len(options)))
        # Semicolons, since options may hold commas.
        question = f"{question} Choose from: {'; '.join(choices)}."
    return {
        "id": identity,
        "image": caption.image,
        "image_id": caption.image_id,
        "question": question,
        "answer": last.answer,
        "answer_type": "closed" if pair.kind in ("closed", "choice") else "open",
        "content_type": pair.topic or pair.kind,
        "modality": caption.modality,
        "language": language,
        "choices": list(choices),
        "turns": [asdict(turn) for turn in pair.turns[:-1]],
        "split": caption.split or split,
        "generated": generated,
    }
