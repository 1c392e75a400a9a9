"""A question with its answer as the language model gave it, and the record that is written of it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from data_pipelines.core.seeding import rng_for
from data_pipelines.generation.captions import Caption
from data_pipelines.generation.templates import Kind
from data_pipelines.records import Turn

# What an image question may ask after; `image.txt` lists the same names.
TOPICS = ("modality", "plane", "organ", "position", "appearance", "finding")


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
