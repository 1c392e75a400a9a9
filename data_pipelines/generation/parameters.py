"""The parameters of a chat request, as an endpoint takes them.

OpenAI's reasoning models refuse `max_tokens`, for which they want `max_completion_tokens`, and every temperature but
their own; other servers know no seed, or no JSON mode. None says so before it refuses; the refusal names the parameter.
"""

import logging
import re
from typing import Any

from data_pipelines.generation.answers import ChatRequest

logger = logging.getLogger(__name__)

# Those without which a request is still the same question.
_DISPENSABLE = ("temperature", "seed", "response_format")
_REFUSED = re.compile(
    r"unsupported|not support|n't support|not permitted|not allowed|only the default|unrecogni[sz]ed|unknown|unexpected"
    r"|max_completion_tokens"
)


class Parameters:
    """What is sent beside model and messages; learns from refusals, for all requests of a run.

    Attributes:
      not_taken: the names of what is left out.
    """

    def __init__(self, where: str):
        """Args: where: the endpoint, for messages."""
        self.not_taken: tuple[str, ...] = ()
        self._where = where
        self._limit = "max_tokens"

    def of(self, request: ChatRequest) -> dict[str, Any]:
        """The parameters of a request, by name."""
        given: dict[str, Any] = {"seed": request.seed, "temperature": request.temperature}
        if request.json_mode:
            given["response_format"] = {"type": "json_object"}
        return {n: v for n, v in given.items() if n not in self.not_taken} | {self._limit: request.max_tokens}

    def learn(self, refusal: str) -> None:
        """Takes from a refusal's text which parameters must be left out, or be called otherwise; each is said once."""
        text = refusal.lower()
        if not _REFUSED.search(text):
            return
        if self._limit == "max_tokens" and re.search(r"\bmax_tokens\b", text) and "max_completion_tokens" in text:
            self._limit = "max_completion_tokens"
        for name in _DISPENSABLE:
            if name not in self.not_taken and re.search(rf"\b{name}\b", text):
                self.not_taken += (name,)
                logger.warning("%s: takes no %s; it is left out, and the model's own holds", self._where, name)
