"""Prefix, newline, suffix: the text side of an example, in PaliGemma's exact layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from data_pipelines import boxes
from data_pipelines.records import Box, DataError, Task
from data_pipelines.tokenizer import Tokenizer


class Tokens(NamedTuple):
    """One tokenised example; T is `data.text_length`.

    Attributes:
      text: ids, right-padded with pad.
      mask_ar: 0 where the position belongs to the block that sees itself whole (prefix, newline), 1 where attention is
        causal (suffix, eos) and on padding, which alone keeps padding invisible to real tokens.
      mask_loss: 1 on the tokens to be learnt: suffix and eos.
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
      templates: `data.prompt`, with the placeholders {language}, {question} and {regions}.
      task: chooses the template.
      boxes_in_prompt: boxes written as four loc tokens each, and a space, in place of {regions}.
      where: the example's id, for messages.

    Raises:
      DataError: empty question, no template for the task, an unknown placeholder, or boxes without a {regions}.
    """
    question = question.strip()
    if not question:
        raise DataError(f"{where}: question is empty; correct or remove it")
    if task not in templates:
        raise DataError(f"{where}: data.prompt has no template for task {task!r}; add one")
    template = templates[task]
    if boxes_in_prompt and "{regions}" not in template:
        raise DataError(f"data.prompt[{task!r}] = {template!r} lacks {{regions}}, which encoder 'loc' needs; add it")
    regions = "".join(boxes.box_to_loc_tokens(box) for box in boxes_in_prompt)
    try:
        return template.format(language=language, question=question, regions=regions + " " if regions else "")
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"data.prompt[{task!r}] = {template!r} is no template ({error}); use {{language}} {{regions}} {{question}}"
        ) from error


def count_tokens(tokenizer: Tokenizer, prefix: str, suffix: str | None) -> int:
    """Length of the example before padding, special tokens included."""
    answer = 0 if suffix is None else len(tokenizer.encode(suffix)) + 1
    return 1 + len(tokenizer.encode(prefix)) + 1 + answer


def encode_prompt(tokenizer: Tokenizer, prefix: str, suffix: str | None, length: int, where: str) -> Tokens:
    """bos + prefix, newline, suffix + eos, each tokenised alone and concatenated, right-padded to `length`.

    As in the reference; Hugging Face tokenises prefix and newline together, which can merge them differently.

    Args:
      suffix: the answer, or None for the prompt alone (nothing to learn, decoding goes on from it).
      length: T.
      where: the example's id, for messages.

    Raises:
      DataError: the example has more than T tokens.
    """
    prompt = [tokenizer.bos_id, *tokenizer.encode(prefix), tokenizer.newline_id]
    answer = [] if suffix is None else [*tokenizer.encode(suffix), tokenizer.eos_id]
    used = len(prompt) + len(answer)
    if used > length:
        raise DataError(
            f"{where}: {used} tokens do not fit in data.text_length = {length}; raise it to {used} or drop the example"
        )
    text = np.full(length, tokenizer.pad_id, np.int32)
    text[:used] = prompt + answer
    position = np.arange(length)
    mask_ar = (position >= len(prompt)).astype(np.int32)
    mask_input = (position < used).astype(np.int32)
    return Tokens(text=text, mask_ar=mask_ar, mask_loss=mask_ar * mask_input, mask_input=mask_input)
