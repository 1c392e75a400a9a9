"""Asks a language model behind an OpenAI-compatible endpoint: several requests at once, at a limited rate, retried."""

import asyncio
import dataclasses
import ipaddress
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from data_pipelines.core.errors import DataError
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.generation.answers import AnswerStore, ChatRequest, Completion
from data_pipelines.generation.parameters import Parameters

if TYPE_CHECKING:
    import openai

# Shorter keys are the words that local servers are given for want of one ("ollama", "EMPTY"), which an answer may hold.
_LEAST_SECRET = 8
_LONGEST_MESSAGE = 300


class EndpointError(DataError):
    """The endpoint answers nothing, or refuses in a way that concerns every request."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how hard.

    Attributes:
      url: base, e.g. "http://localhost:11434/v1".
      api_key: sent as a bearer token; in no message, log or file. "" for none.
      api_key_variable: the environment variable that it came from, "" for none.
      timeout: seconds without a byte from the server after which a request is given up, to be tried again.
      retries: further tries after a failure that may pass: no connection, a timeout, 408, 409, 429 and 5xx. A server's
        Retry-After is kept to up to two minutes, a longer one is a failure.
      requests_per_minute: tries included; evenly spaced. None for no limit.
      concurrency: requests under way at once.
      stop_after_failures: so many requests that failed in a row end the run.
      options: what the command line's options begin with, for messages: "--" for --endpoint and --model.
      extra: of this package, which installs the client.
    """

    url: str
    api_key: str = field(repr=False)
    api_key_variable: str
    timeout: float
    retries: int
    requests_per_minute: float | None
    concurrency: int
    stop_after_failures: int
    options: str = "--"
    extra: str = "data"


@dataclass
class Traffic:
    """What went over the line.

    Attributes:
      tries: requests sent, retries among them.
      statuses: of the replies.
      failures: the requests whose tries are used up, each with the reason.
      not_taken: parameters that the endpoint does not take.
    """

    tries: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[tuple[Any, str]] = field(default_factory=list)
    not_taken: tuple[str, ...] = ()


async def ask(
    requests: Iterator[ChatRequest], endpoint: Endpoint, store: AnswerStore, traffic: Traffic, bar: "tqdm[Any]"
) -> None:
    """Sends every request, and stores the answers as they come; `traffic` has the requests that got none.

    Args:
      bar: goes on with every answer.

    Raises:
      EndpointError: key, address or model are refused (401, 403, 404), or `stop_after_failures` failed in a row.
      DataError: the package openai is not installed.
    """
    async with _client(endpoint, traffic) as client:
        in_a_row = 0
        parameters = Parameters(endpoint.url)

        async def work() -> None:
            nonlocal in_a_row
            for request in requests:
                try:
                    store.add(request, await _ask_one(client, request, endpoint, parameters))
                    in_a_row = 0
                    bar.update()
                except _Failure as failure:
                    traffic.failures.append((request, str(failure)))
                    in_a_row += 1
                    if in_a_row >= endpoint.stop_after_failures:
                        raise EndpointError(
                            f"{endpoint.url}: {in_a_row} requests failed in a row, the last by: {failure}; fix the "
                            "endpoint and run the same command again to resume",
                            code="endpoint.failed",
                        ) from None
                traffic.not_taken = parameters.not_taken
                limited, failed = traffic.statuses[429], len(traffic.failures)
                bar.set_postfix(failed=failed, tries=traffic.tries, rate_limited=limited)

        workers = [asyncio.create_task(work()) for _ in range(endpoint.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


class _Failure(Exception):
    """One request has no answer; the message says why, without the API key."""


def _client(endpoint: Endpoint, traffic: Traffic) -> "openai.AsyncOpenAI":
    openai = optional_package("openai", f"{endpoint.options}endpoint", extra=endpoint.extra)
    interval = 60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
    turn = 0.0

    # The client's retries pass through these too, so the rate is one of tries. One goes at a time, evenly spaced.
    async def before(request: Any) -> None:
        nonlocal turn
        now = time.monotonic()
        wait = max(turn - now, 0.0)
        turn = now + wait + interval
        await asyncio.sleep(wait)
        traffic.tries += 1

    async def after(response: Any) -> None:
        traffic.statuses[response.status_code] += 1

    return openai.AsyncOpenAI(
        base_url=endpoint.url,
        # The client refuses to send none; servers that ask for none pass over it.
        api_key=endpoint.api_key or "none",
        timeout=endpoint.timeout,
        max_retries=endpoint.retries,
        http_client=openai.DefaultAsyncHttpxClient(
            event_hooks={"request": [before], "response": [after]}, mounts=_past_proxies(endpoint.url)
        ),
    )


def _past_proxies(url: str) -> dict[str, None]:
    """Of an endpoint on this machine, that the proxies of the environment are not for it: another machine, which a
    proxy is, has another loopback."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
        is_here = address.is_loopback or address.is_unspecified
    except ValueError:
        is_here = host == "localhost" or host.endswith(".localhost")
    return {f"all://[{host}]" if ":" in host else f"all://{host}": None} if is_here else {}


async def _ask_one(
    client: "openai.AsyncOpenAI", request: ChatRequest, endpoint: Endpoint, parameters: Parameters
) -> Completion:
    """The answer. What the endpoint refuses to be told (`Parameters`) is not sent, and the request is made again."""
    import openai

    while True:
        sent = parameters.of(request)
        try:
            return await _ask_with(client, request, endpoint, sent, parameters.not_taken)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            parameters.learn(f"{error} {error.body}")  # or another request has, while this one was under way
            if parameters.of(request) == sent:
                raise _Failure(_message(error, endpoint)) from None


async def _ask_with(
    client: "openai.AsyncOpenAI",
    request: ChatRequest,
    endpoint: Endpoint,
    parameters: Mapping[str, Any],
    not_taken: tuple[str, ...],
) -> Completion:
    import openai

    try:
        completion = await client.chat.completions.create(
            model=request.model,
            messages=[{"role": "system", "content": request.system}, {"role": "user", "content": request.user}],
            **parameters,
        )
    except (openai.BadRequestError, openai.UnprocessableEntityError):
        raise
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise EndpointError(
            f"{endpoint.url}: refuses the request ({_message(error, endpoint)}); put a valid API key in an environment "
            f"variable, and name that with {endpoint.options}api-key-env (now {endpoint.api_key_variable!r})",
            code="endpoint.refused",
        ) from None
    except openai.NotFoundError as error:
        raise EndpointError(
            f"{endpoint.url}: has no such address or no model {request.model!r} ({_message(error, endpoint)}); check "
            f"{endpoint.options}endpoint, which usually ends in /v1, and {endpoint.options}model",
            code="endpoint.not-found",
        ) from None
    except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _Failure(_message(error, endpoint)) from None
    return dataclasses.replace(_answer(completion, endpoint), not_taken=not_taken)


def _text_of(content: Any) -> Any:
    """The text of a message: a string, or a list of parts, of which those of another kind (reasoning) are none."""
    if not isinstance(content, list):
        return content or ""
    given = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return "".join(part["text"] for part in given if part.get("type", "text") in ("text", "output_text"))


def _answer(completion: Any, endpoint: Endpoint) -> Completion:
    """The text of a completion. A server that is not quite OpenAI's may send anything, which the client lets pass."""
    try:
        choice = completion.choices[0]
        text, reason = _text_of(choice.message.content), choice.finish_reason or ""
        if not isinstance(text, str) or not isinstance(reason, str):
            raise TypeError
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _Failure("the reply is not a chat completion") from None
    return Completion(_redacted(text.encode(errors="replace").decode(), endpoint), reason)


def _message(error: Exception, endpoint: Endpoint) -> str:
    """One line that names the cause. Some servers repeat the key that they refuse."""
    text = str(error)
    body = getattr(error, "body", None)
    # The client's own text holds the body's `message`; proxies write plain text, FastAPI a `detail`.
    if body and not (isinstance(body, dict) and "message" in body):
        text = f"{text} - {body}"
    if error.__cause__ is not None and str(error.__cause__):
        text = f"{text} {error.__cause__}"
    line = " ".join(_redacted(text, endpoint).split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + " …"


def _redacted(text: str, endpoint: Endpoint) -> str:
    return text.replace(endpoint.api_key, "[API key]") if len(endpoint.api_key) >= _LEAST_SECRET else text
