"""Prefix, newline, suffix: the text side of an example, in PaliGemma's exact layout.

A conversation goes on in the same way, each turn's question in its template and each answer ended by eos, so that the
model learns to stop after every one:

    bos prefix₁ newline | answer₁ eos prefix₂ newline answer₂ eos … prefixₙ newline answerₙ eos

The first prefix, with the regions in it, sees itself whole, like that of a single question. From the bar on attention
is causal, so that an answer sees no later turn, and the loss is taken on every answer and its eos. PaliGemma itself
knows one turn; of one turn this is its own layout.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from data_pipelines.core.errors import DataError, MissingField
from data_pipelines.records import Box, Task
from data_pipelines.regions import boxes
from data_pipelines.text.tokenizer import Tokenizer


class Tokens(NamedTuple):
    """One tokenised example; T is `data.text_length`.

    Attributes:
      text: ids, right-padded with pad.
      mask_ar: 0 where the position belongs to the block that sees itself whole (prefix, newline), 1 where attention is
        causal (suffix, eos, later turns) and on padding, which alone keeps padding invisible to real tokens.
      mask_loss: 1 on the tokens to be learnt: suffix and eos, of every turn.
      mask_input: 1 on real tokens.
    """

    text: Int32[np.ndarray, " T"]
    mask_ar: Int32[np.ndarray, " T"]
    mask_loss: Int32[np.ndarray, " T"]
    mask_input: Int32[np.ndarray, " T"]


def format_prefix(
    templates: Mapping[str, str],
    task: Task,
    *,
    question: str,
    language: str,
    boxes_in_prompt: Sequence[Box] = (),
    where: str,
) -> str:
    """Fills the task's template.

    Args:
      templates: `data.prompt`, as `DataConfig` checks it, with the placeholders {language}, {question} and {regions}.
      task: chooses the template.
      boxes_in_prompt: boxes written as four loc tokens each, and a space, in place of {regions}.
      where: the example's id, for messages.

    Raises:
      DataError: empty question (but for task "caption").
    """
    question = question.strip()
    if not question and task != "caption":
        raise MissingField(f"{where}: question is empty; correct or remove it")
    regions = "".join(boxes.box_to_loc_tokens(box) for box in boxes_in_prompt)
    return templates[task].format(language=language, question=question, regions=regions + " " if regions else "")


def count_tokens(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], *, answered: bool = True) -> int:
    """Length of the example before padding, special tokens included. Arguments as `encode_conversation`."""
    prompt, later, _ = _pieces(tokenizer, turns, answered=answered)
    return len(prompt) + len(later)


def encode_conversation(
    tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], length: int, where: str, *, answered: bool
) -> Tokens:
    """The turns one after the other, each piece tokenised alone and concatenated, right-padded to `length`.

    As in the reference; Hugging Face tokenises prefix and newline together, which can merge them differently.

    Args:
      turns: prefix and answer of each, at least one.
      length: T.
      where: the example's id, for messages.
      answered: with the last answer, to learn from. Without it the prompt ends in the last newline, earlier answers are
        given, nothing is to be learnt, and decoding goes on from there.

    Raises:
      DataError: the example has more than T tokens.
    """
    prompt, later, learnt = _pieces(tokenizer, turns, answered=answered)
    used = len(prompt) + len(later)
    if used > length:
        raise DataError(
            f"{where}: {used} tokens do not fit in data.text_length = {length}; raise it to {used} or drop the example",
            code="data.too-long",
        )
    text = np.full(length, tokenizer.pad_id, np.int32)
    text[:used] = prompt + later
    position = np.arange(length)
    mask_loss = np.zeros(length, np.int32)
    if answered:
        mask_loss[len(prompt) : used] = learnt
    return Tokens(
        text=text,
        mask_ar=(position >= len(prompt)).astype(np.int32),
        mask_loss=mask_loss,
        mask_input=(position < used).astype(np.int32),
    )


def _pieces(
    tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], *, answered: bool
) -> tuple[list[int], list[int], list[int]]:
    """Ids of the first prefix, ids of all that follows, and of these which belong to an answer."""
    prompt = [tokenizer.bos_id, *tokenizer.encode(turns[0][0]), tokenizer.newline_id]
    later: list[int] = []
    learnt: list[int] = []
    for number, (prefix, answer) in enumerate(turns):
        if number:
            question = [*tokenizer.encode(prefix), tokenizer.newline_id]
            later, learnt = later + question, learnt + [0] * len(question)
        if answered or number < len(turns) - 1:
            reply = [*tokenizer.encode(answer), tokenizer.eos_id]
            later, learnt = later + reply, learnt + [1] * len(reply)
    return prompt, later, learnt
