"""A single question's tokens."""

from __future__ import annotations

from data_pipelines.text.prompt import Tokens, encode_conversation
from data_pipelines.text.tokenizer import Tokenizer


def encode_prompt(tokenizer: Tokenizer, prefix: str, suffix: str | None, length: int, where: str) -> Tokens:
    """A single question: bos + prefix, newline, suffix + eos. As `encode_conversation` otherwise.

    Args:
      suffix: the answer, or None for the prompt alone.
    """
    return encode_conversation(tokenizer, [(prefix, suffix or "")], length, where, answered=suffix is not None)
