"""The options of `python -m data_pipelines.generate_qa`."""

import argparse
import os
from collections.abc import Mapping
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from data_pipelines.core.command_line import Parser, above_zero, file_or_folder, real, whole, words
from data_pipelines.core.errors import InvalidOption
from data_pipelines.generation.client import Endpoint
from data_pipelines.generation.filters import DuplicateScope, Filter, PathologyScope
from data_pipelines.generation.templates import KINDS, Kind


def parser(description: str) -> Parser:
    """The parser; all defaults stand in its help."""
    parser = Parser(prog="python -m data_pipelines.generate_qa", description=description)
    parser.add_argument(
        "--captions", required=True, type=file_or_folder, metavar="FILE|DIR",
        help="JSON Lines with id, image and caption, and where known image_id, context, modality, split; or the folder "
        "of a prepared data set with captions, whose images are then written to images/ below --out",
    )  # fmt: skip
    parser.add_argument(
        "--caption-splits", type=words, default=(), metavar="SPLIT,…",
        help="of a prepared data set (default: every split that it has)",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        required=True,
        type=file_or_folder,
        metavar="DIR",
        help="folder of questions.jsonl and all that led to it",
    )
    parser.add_argument(
        "--kinds", type=_kinds, default=",".join(KINDS), metavar="KIND,…", help="what to ask for, in this order"
    )
    parser.add_argument("--pairs", type=whole(1), default=3, metavar="N", help="questions per caption and kind")
    parser.add_argument("--turns", type=whole(2), default=3, metavar="N", help="questions of a conversation")
    parser.add_argument("--split", default="train", help="of captions that name none")
    parser.add_argument("--language", default="en", help="of the questions, and of captions that pass")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N captions, for a trial")
    _add_model(parser.add_argument_group("language model"))
    _add_filters(parser.add_argument_group("filters; a later run may set them otherwise without asking again"))
    _add_review(parser.add_argument_group("review by a person"))
    parser.goes_with("--review", "--only-accepted")
    return parser


def _kinds(text: str) -> list[Kind]:
    kinds = [name.strip() for name in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{text}: no kind {kind!r}; choose among {', '.join(KINDS)}")
    return cast("list[Kind]", list(dict.fromkeys(kinds)))


def check_lengths(options: argparse.Namespace) -> None:
    """Raises InvalidOption where a smallest number of words is above the largest."""
    for name in ("caption", "question", "answer"):
        least, most = getattr(options, f"{name}_words")
        if least > most:
            raise InvalidOption(f"--{name}-words {least} {most}: write the smallest number, then the largest")


def endpoint_of(options: argparse.Namespace, prefix: str = "", **settings: Any) -> Endpoint | None:
    """Where to ask, or None without --endpoint.

    Args:
      prefix: of the options' names: "judge_" for --judge-endpoint and its neighbours.
      settings: of the Endpoint, beside those that the options give.

    Raises:
      InvalidOption: the address or the key is invalid.
    """
    flag = f"--{prefix.replace('_', '-')}"

    def option(name: str) -> Any:
        return getattr(options, prefix + name)

    url, variable = option("endpoint"), option("api_key_env") or ""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise InvalidOption(
            f"{flag}endpoint: holds a name or password; leave it out and put a key into an environment variable"
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidOption(f"{flag}endpoint {url}: is not an address; write it as http://localhost:11434/v1")
    key = os.environ.get(variable, "").strip()
    if variable and (not key or not key.isascii() or not key.isprintable() or " " in key):
        raise InvalidOption(
            f"{flag}api-key-env {variable}: the environment has no such variable, or one that holds no API key; "
            "put the key into it"
        )
    given = {name: option(name) for name in ("timeout", "retries", "concurrency")}
    return Endpoint(url=url, api_key=key, api_key_variable=variable, options=flag, **given, **settings)


def add_endpoint(
    group: argparse._ArgumentGroup, defaults: Mapping[str, float], *, prefix: str = "", without: str
) -> None:
    """Adds the options of a language model's endpoint and of what is sent to it.

    Args:
      defaults: by attribute, with the prefix. Where there is one they are not the parser's, so that it sees which
        options were given.
      prefix: of the options' names: "judge-" for --judge-endpoint and its neighbours.
      without: what becomes of the work without an endpoint.
    """

    def add(name: str, about: str, **settings: Any) -> None:
        default = defaults.get(f"{prefix}{name}".replace("-", "_"))
        said = f"{about} (default: {'none' if default is None else default})"
        group.add_argument(f"--{prefix}{name}", default=None if prefix else default, help=said, **settings)

    add("endpoint", f"OpenAI-compatible, e.g. http://localhost:11434/v1; without it {without}", metavar="URL")
    add("api-key-env", "environment variable that holds the endpoint's API key", metavar="VARIABLE")
    add("seed", "of sampling, and of what is drawn for the requests", type=int, metavar="N")
    add("max-tokens", "of an answer", type=whole(1), metavar="N")
    add("concurrency", "requests at once", type=whole(1), metavar="N")
    tried = "further tries after no connection, a timeout, 429 or 5xx; then a request counts as failed"
    add("retries", tried, type=whole(), metavar="N")
    add("timeout", "seconds without a byte after which a request is tried again", type=above_zero, metavar="S")


def _add_model(group: argparse._ArgumentGroup) -> None:
    defaults = {"seed": 0, "max_tokens": 1024, "concurrency": 4, "retries": 5, "timeout": 120.0}
    add_endpoint(group, defaults, without="nothing is asked, and the answers that --out holds are filtered anew")
    group.add_argument("--model", required=True, metavar="NAME", help="as the endpoint calls it")
    group.add_argument(
        "--templates", type=file_or_folder, metavar="DIR",
        help="folder of your own prompts, one KIND.txt each (default: those of data_pipelines/generation/qa_templates)",
    )  # fmt: skip
    degree = real("a number from 0 to 2", lambda t: 0 <= t <= 2)
    group.add_argument("--temperature", type=degree, default=0.0, help="of sampling; at 0 it is greedy")
    group.add_argument(
        "--json-mode", action="store_true", help="have the server allow nothing but JSON; not every server can"
    )
    group.add_argument(
        "--requests-per-minute", type=above_zero, metavar="N", help="upper limit, retries included (default: none)"
    )
    group.add_argument(
        "--stop-after-failures", type=whole(1), default=10, metavar="N", help="in a row, after which the run ends"
    )


def _add_filters(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pathologies", type=file_or_folder, metavar="FILE", help="keep what names one of these terms, one a line"
    )
    group.add_argument(
        "--pathology-scope", choices=get_args(PathologyScope), default="caption",
        help="what has to name a term: the caption, or question and answer",
    )  # fmt: skip
    lengths = {"caption": (5, 400), "question": (3, 40), "answer": (1, 60)}
    for name, limits in lengths.items():
        group.add_argument(
            f"--{name}-words", type=whole(), nargs=2, default=limits, metavar=("MIN", "MAX"),
            help=f"(default: {limits[0]} {limits[1]})",
        )  # fmt: skip
    group.add_argument(
        "--duplicate-scope",
        choices=get_args(DuplicateScope),
        default="image",
        help="compare one image's questions, or all",
    )
    group.add_argument(
        "--duplicate-threshold", type=real("a number above 0, at most 1", lambda j: 0 < j <= 1),
        default=0.8, metavar="J",
        help="Jaccard similarity of word pairs from which questions with equal answers are duplicates",
    )  # fmt: skip
    group.add_argument(
        "--skip-filter", action="append", default=[], choices=get_args(Filter), help="leave a filter out; repeatable"
    )


def _add_review(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--write-review", type=file_or_folder, metavar="FILE",
        help="write the kept questions that have no verdict yet to a new .csv or .jsonl, to be judged",
    )  # fmt: skip
    group.add_argument("--review", type=file_or_folder, metavar="FILE", help="leave out what this file rejects")
    group.add_argument("--only-accepted", action="store_true", help="keep only what the file of --review accepts")
