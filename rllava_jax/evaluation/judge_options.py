"""The judge's options of `python -m rllava_jax.evaluate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from urllib.parse import urlsplit

from data_pipelines.core.errors import DataError
from data_pipelines.generation.client import Endpoint
from rllava_jax.evaluation.judge import TEMPLATE, Judge, load_template

# Not the parser's defaults, so that an option without --judge-model can be refused.
_DEFAULTS = {"seed": 0, "max_tokens": 512, "concurrency": 4, "retries": 4, "timeout": 120.0}
_DEPENDENT = ("endpoint", "template", "cache", "api_key_env", *_DEFAULTS)
NAMES = ("model", *_DEPENDENT)  # of the options, after --judge-


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a group of options that all begin with --judge-."""
    group = parser.add_argument_group(
        "judge", "a language model that marks answers; question, reference and answer are sent to it"
    )
    group.add_argument("--judge-model", metavar="NAME", help="as the endpoint calls it; asks for the judge")
    group.add_argument(
        "--judge-endpoint",
        metavar="URL",
        help="OpenAI-compatible, e.g. http://localhost:11434/v1; without it only verdicts in --judge-cache count",
    )
    group.add_argument(
        "--judge-cache", metavar="FILE", help="JSON Lines of all replies; a second run asks only for what it lacks"
    )
    group.add_argument(
        "--judge-template",
        metavar="FILE",
        help=f"your own prompt (default: rllava_jax/evaluation/judge_templates/{TEMPLATE})",
    )
    group.add_argument(
        "--judge-api-key-env", metavar="VARIABLE", help="environment variable that holds the API key (default: none)"
    )
    group.add_argument("--judge-seed", type=int, metavar="N", help="sent with each request (default: 0)")
    group.add_argument("--judge-max-tokens", type=int, metavar="N", help="of a reply with its reasons (default: 512)")
    group.add_argument("--judge-concurrency", type=int, metavar="N", help="requests under way at once (default: 4)")
    group.add_argument("--judge-retries", type=int, metavar="N", help="further tries of a failed request (default: 4)")
    group.add_argument("--judge-timeout", type=float, metavar="S", help="seconds without a byte (default: 120)")


def from_options(options: argparse.Namespace) -> Judge | None:
    """The judge that the options ask for; None without --judge-model.

    Raises:
      DataError: options that do not fit together, an address or key that is none, or a faulty template.
    """
    if options.judge_model is None:
        for name in _DEPENDENT:
            if getattr(options, f"judge_{name}") is not None:
                raise DataError(f"--judge-{name.replace('_', '-')}: needs --judge-model NAME, the model that judges")
        return None
    for name, default in _DEFAULTS.items():
        if getattr(options, f"judge_{name}") is None:
            setattr(options, f"judge_{name}", default)
    if options.judge_cache is None:
        raise DataError("--judge-model: needs --judge-cache FILE, where its verdicts are kept")
    if "://" in options.judge_cache:
        raise DataError(f"--judge-cache {options.judge_cache}: is not a local file; name one and copy it")
    for name, least in (("max_tokens", 1), ("concurrency", 1), ("retries", 0)):
        if getattr(options, f"judge_{name}") < least:
            flag = name.replace("_", "-")
            raise DataError(f"--judge-{flag} {getattr(options, f'judge_{name}')}: write {least} or more")
    if not 0 < options.judge_timeout < float("inf"):
        raise DataError(f"--judge-timeout {options.judge_timeout}: write a number of seconds above 0")
    return Judge(
        model=options.judge_model,
        template=load_template(options.judge_template),
        endpoint=_endpoint(options),
        cache=Path(options.judge_cache),
        seed=options.judge_seed,
        max_tokens=options.judge_max_tokens,
    )


def _endpoint(options: argparse.Namespace) -> Endpoint | None:
    if options.judge_endpoint is None:
        return None
    parts = urlsplit(options.judge_endpoint)
    if parts.username or parts.password:
        raise DataError(
            "--judge-endpoint: holds a name or password; leave it out and put a key into an environment variable"
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DataError(
            f"--judge-endpoint {options.judge_endpoint}: is no address; write it as http://localhost:11434/v1"
        )
    return Endpoint(
        url=options.judge_endpoint,
        api_key=_api_key(options.judge_api_key_env) if options.judge_api_key_env else "",
        api_key_variable=options.judge_api_key_env or "",
        timeout=options.judge_timeout,
        retries=options.judge_retries,
        requests_per_minute=None,
        concurrency=options.judge_concurrency,
        stop_after_failures=max(5, options.judge_concurrency),
        options="--judge-",
        extra="evaluation",
    )


def _api_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise DataError(f"--judge-api-key-env {variable}: is empty or holds what is no API key; put the key into it")
    return key
