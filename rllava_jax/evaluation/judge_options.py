"""The judge's options of `python -m rllava_jax.evaluate`."""

import argparse
from pathlib import Path

from data_pipelines.core.command_line import Parser, above_zero, whole
from data_pipelines.core.errors import InvalidOption, MissingOption
from data_pipelines.generation.options import endpoint_of
from rllava_jax.evaluation.judge import TEMPLATE, Judge, load_template

# Not the parser's defaults, so that an option without --judge-model can be refused.
_DEFAULTS = {"seed": 0, "max_tokens": 512, "concurrency": 4, "retries": 4, "timeout": 120.0}
_DEPENDENT = ("endpoint", "template", "cache", "api_key_env", *_DEFAULTS)  # of the options, after --judge-


def add_arguments(parser: Parser) -> None:
    """Adds a group of options that all begin with --judge-."""
    group = parser.add_argument_group(
        "judge", "a language model that marks answers; question, reference and answer are sent to it"
    )
    group.add_argument("--judge-model", metavar="NAME", help="as the endpoint calls it; asks for the judge")
    group.add_argument(
        "--judge-endpoint", metavar="URL",
        help="OpenAI-compatible, e.g. http://localhost:11434/v1; without it only verdicts in --judge-cache count",
    )  # fmt: skip
    group.add_argument(
        "--judge-cache", metavar="FILE", help="JSON Lines of all replies; a second run asks only for what it lacks"
    )
    group.add_argument(
        "--judge-template", metavar="FILE",
        help=f"your own prompt (default: rllava_jax/evaluation/judge_templates/{TEMPLATE})",
    )  # fmt: skip
    group.add_argument(
        "--judge-api-key-env", metavar="VARIABLE", help="environment variable that holds the API key (default: none)"
    )
    group.add_argument("--judge-seed", type=int, metavar="N", help="sent with each request (default: 0)")
    group.add_argument(
        "--judge-max-tokens", type=whole(1), metavar="N", help="of a reply with its reasons (default: 512)"
    )
    group.add_argument(
        "--judge-concurrency", type=whole(1), metavar="N", help="requests under way at once (default: 4)"
    )
    group.add_argument(
        "--judge-retries", type=whole(), metavar="N", help="further tries of a failed request (default: 4)"
    )
    group.add_argument("--judge-timeout", type=above_zero, metavar="S", help="seconds without a byte (default: 120)")
    parser.goes_with("--judge-model", *(f"--judge-{name.replace('_', '-')}" for name in _DEPENDENT))


def from_options(options: argparse.Namespace) -> Judge | None:
    """The judge that the options ask for; None without --judge-model.

    Raises:
      DataError: options that do not fit together, an address or key that is none, or a faulty template.
    """
    if options.judge_model is None:
        return None
    for name, default in _DEFAULTS.items():
        if getattr(options, f"judge_{name}") is None:
            setattr(options, f"judge_{name}", default)
    if options.judge_cache is None:
        raise MissingOption("--judge-model: needs --judge-cache FILE, where its verdicts are kept")
    if "://" in options.judge_cache:
        raise InvalidOption(f"--judge-cache {options.judge_cache}: is not a local file; name one and copy it")
    return Judge(
        model=options.judge_model,
        template=load_template(options.judge_template),
        endpoint=endpoint_of(
            options,
            "judge_",
            requests_per_minute=None,
            stop_after_failures=max(5, options.judge_concurrency),
            extra="evaluation",
        ),
        cache=Path(options.judge_cache),
        seed=options.judge_seed,
        max_tokens=options.judge_max_tokens,
    )
