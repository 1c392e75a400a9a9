"""The options of `python -m data_pipelines.generate_qa`."""

from __future__ import annotations

import argparse
from typing import get_args

from data_pipelines.core.errors import DataError
from data_pipelines.generation.duplicates import DuplicateScope
from data_pipelines.generation.filters import Filter, PathologyScope
from data_pipelines.generation.templates import KINDS

# The least value of each option that counts something.
_LEAST = {
    "pairs": 1,
    "turns": 2,
    "limit": 1,
    "max_tokens": 1,
    "concurrency": 1,
    "retries": 0,
    "stop_after_failures": 1,
}


def parser(description: str) -> argparse.ArgumentParser:
    """The parser; all defaults stand in its help."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.generate_qa",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--captions",
        required=True,
        metavar="FILE|DIR",
        help="JSON Lines with id, image and caption, and where known image_id, context, modality, split; or the folder "
        "of a prepared data set with captions, whose images are then written to images/ below --out",
    )
    parser.add_argument(
        "--caption-splits", metavar="SPLIT,…", help="of a prepared data set (default: every split that it has)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of questions.jsonl and all that led to it")
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        metavar="KIND,…",
        help="what to ask for, in this order (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs", type=int, default=3, metavar="N", help="questions asked for per caption and kind (default: 3)"
    )
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="questions of a conversation (default: 3)")
    parser.add_argument("--split", default="train", help="of captions that name none (default: train)")
    parser.add_argument("--language", default="en", help="of the questions, and of captions that pass (default: en)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N captions, for a trial")
    _add_model(parser.add_argument_group("language model"))
    _add_filters(parser.add_argument_group("filters; a later run may set them otherwise without asking again"))
    _add_review(parser.add_argument_group("review by a person"))
    return parser


def check_numbers(options: argparse.Namespace) -> None:
    """Raises DataError for a number that cannot be meant."""
    for name, least in _LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise DataError(f"{_flag(name)} {value}: write {least} or more")
    for name in ("timeout", "requests_per_minute"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise DataError(f"{_flag(name)} {value}: write a number above 0")
    if not 0 <= options.temperature <= 2:
        raise DataError(f"--temperature {options.temperature}: write a number from 0 to 2")
    for name in ("caption_words", "question_words", "answer_words"):
        least, most = getattr(options, name)
        if not 0 <= least <= most:
            raise DataError(f"{_flag(name)} {least} {most}: write the smallest number, then the largest")
    if not 0 < options.duplicate_threshold <= 1:
        raise DataError(f"--duplicate-threshold {options.duplicate_threshold}: write a number above 0, at most 1")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--endpoint",
        metavar="URL",
        help="OpenAI-compatible, e.g. http://localhost:11434/v1; without it nothing is asked, and the answers that "
        "--out holds already are filtered anew",
    )
    group.add_argument("--model", required=True, metavar="NAME", help="as the endpoint calls it")
    group.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the endpoint's API key (default: no key is sent)",
    )
    group.add_argument(
        "--templates",
        metavar="DIR",
        help="folder of your own prompts, one KIND.txt each (default: those of data_pipelines/generation/qa_templates)",
    )
    group.add_argument("--seed", type=int, default=0, help="of sampling, options' order, wanted answers (default: 0)")
    group.add_argument("--temperature", type=float, default=0.0, help="of sampling (default: 0, greedy)")
    group.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="of an answer (default: 1024)")
    group.add_argument(
        "--json-mode", action="store_true", help="have the server allow nothing but JSON; not every server can"
    )
    group.add_argument(
        "--requests-per-minute", type=float, metavar="N", help="upper limit, retries included (default: none)"
    )
    group.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests at once (default: 4)")
    group.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds without a byte after which a request is tried again (default: 120)",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=5,
        metavar="N",
        help="further tries after no connection, a timeout, 429 or 5xx; then the request counts as failed (default: 5)",
    )
    group.add_argument(
        "--stop-after-failures",
        type=int,
        default=10,
        metavar="N",
        help="stop when so many requests in a row have failed (default: 10)",
    )


def _add_filters(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--pathologies", metavar="FILE", help="keep what names one of these terms, one a line")
    group.add_argument(
        "--pathology-scope",
        choices=get_args(PathologyScope),
        default="caption",
        help="what has to name a term: the caption, or question and answer (default: caption)",
    )
    lengths = {"caption": (5, 400), "question": (3, 40), "answer": (1, 60)}
    for name, limits in lengths.items():
        group.add_argument(
            f"--{name}-words",
            type=int,
            nargs=2,
            default=limits,
            metavar=("MIN", "MAX"),
            help=f"(default: {limits[0]} {limits[1]})",
        )
    group.add_argument(
        "--duplicate-scope",
        choices=get_args(DuplicateScope),
        default="image",
        help="compare the questions of one image, or of the whole set (default: image)",
    )
    group.add_argument(
        "--duplicate-threshold",
        type=float,
        default=0.8,
        metavar="J",
        help="Jaccard similarity of word pairs from which questions with equal answers are duplicates (default: 0.8)",
    )
    group.add_argument(
        "--skip-filter", action="append", default=[], choices=get_args(Filter), help="leave a filter out; repeatable"
    )


def _add_review(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--write-review",
        metavar="FILE",
        help="write the kept questions that have no verdict yet to a new .csv or .jsonl, to be judged",
    )
    group.add_argument("--review", metavar="FILE", help="leave out what this file rejects")
    group.add_argument("--only-accepted", action="store_true", help="keep only what the file of --review accepts")
