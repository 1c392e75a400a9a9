"""The options of `python -m rllava_jax.evaluate`; no JAX is needed to read them."""

import argparse
from typing import Any

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, MAIN
from data_pipelines.core.command_line import Parser, above_zero, file_or_folder, whole
from data_pipelines.generation.options import add_endpoint
from data_pipelines.records import FAMILIES
from data_pipelines.sources.reading_options import add_reading_options
from data_pipelines.sources.registry import SOURCES
from rllava_jax.config.schema import MOST_NEW_TOKENS
from rllava_jax.evaluation.protocols import registry

LEVELS = (1, 3, 5)  # of the corruptions that --controls adds
ALL_CONTROLS = (*MAIN, *CONTROLS, *(f"corrupted:{kind}:{level}" for kind in CORRUPTIONS for level in LEVELS))
_JUDGING = {"judge_seed": 0, "judge_max_tokens": 512, "judge_concurrency": 4, "judge_retries": 4,
            "judge_timeout": 120.0}  # fmt: skip
_SCORING = {"protocol": "strict", "bootstrap": 1000, "seed": 0, "allow_missing": 0, **_JUDGING}


def make_parser(description: str) -> Parser:
    """The command line: scoring a file, evaluating a checkpoint, comparing two runs.

    No option has a default but None, False or "", so that one that the chosen mode does not read can be refused;
    `fill_in` adds those of scoring and comparing. A checkpoint's run has its own.
    """
    parser = Parser(prog="python -m rllava_jax.evaluate", description=description)
    modes = parser.add_mutually_exclusive_group(required=True)
    place: dict[str, Any] = {"type": file_or_folder}
    modes.add_argument(
        "--predictions", **place, metavar="FILE", help="JSONL: id and answer, one a line; or a run's own file"
    )
    parser.add_argument("--protocol", metavar="NAME", help=f"one of {', '.join(registry.PROTOCOLS)} (default: strict)")
    modes.add_argument("--list", action="store_true", help="print the protocols with their sources and known faults")
    parser.add_argument(
        "--data", metavar="NAME", help=f"what to score against: prepared, {', '.join(SOURCES)} (with --root)"
    )
    parser.add_argument("--root", **place, metavar="DIR", default="", help="folder of the data set's files")
    parser.add_argument("--split", metavar="NAME", help="of --data (default: test)")
    parser.add_argument("--languages", metavar="A,B", help="of the questions of --data (default: en)")
    parser.add_argument(
        "--families", metavar="A,B",
        help=f"questions of --data: {', '.join(FAMILIES)}; all but vqa are rebuilt from boxes (default: vqa)",
    )  # fmt: skip
    parser.add_argument(
        "--content-types", metavar="A,B",
        help="score the questions of these content types alone, e.g. Modality for classification (default: all)",
    )  # fmt: skip
    add_reading_options(parser)
    parser.add_argument("--references", **place, metavar="FILE", help="what to score against instead: JSONL, likewise")
    modes.add_argument(
        "--compare", nargs=2, **place, metavar=("RUN_A", "RUN_B"), help="two runs side by side, as rllava_jax.compare"
    )
    parser.add_argument("--against", **place, metavar="FILE", help="predictions of the same questions: a paired test")
    parser.add_argument(
        "--out", type=file_or_folder, metavar="DIR",
        help="write scores.json, scored.jsonl, about.json and, with --against, comparison.json; with --compare "
        "compare.html and compare.json",
    )  # fmt: skip
    parser.add_argument(
        "--bootstrap", type=whole(), metavar="N", help="resamples (default: 1000, with --checkpoint the run's; 0: none)"
    )
    parser.add_argument(
        "--seed", type=whole(), metavar="N",
        help="of the resampling (default: 0, with --checkpoint the run's), and of questions that --predictions has "
        "rebuilt from boxes",
    )  # fmt: skip
    parser.add_argument(
        "--allow-missing", type=whole(), metavar="N",
        help="questions of a published split that the copy or the predictions may lack (default: 0)",
    )  # fmt: skip
    modes.add_argument(
        "--checkpoint", type=file_or_folder, metavar="DIR",
        help="a run's workdir, an imported model, or a checkpoints/STEP folder; local or gs://",
    )  # fmt: skip
    _add_checkpoint_options(parser)
    _add_judge_options(parser)
    parser.goes_with(
        "--predictions", "--references", "--content-types", "--against", "--allow-missing", "--judge-model"
    )
    parser.goes_with(
        ("--predictions", "--checkpoint"), "--protocol", "--data", "--root", "--split", "--languages", "--families",
        "--boxes", "--orientation",
    )  # fmt: skip
    return parser


def fill_in(options: argparse.Namespace) -> None:
    """Sets the options of scoring, judging and comparing that were not given to their defaults."""
    for name, default in _SCORING.items():
        if getattr(options, name) is None:
            setattr(options, name, default)


def _add_checkpoint_options(parser: Parser) -> None:
    group = parser.add_argument_group("evaluating a stored model", "with --data, --root, --split, --families and --out")
    group.add_argument("--step", help="last, best or a number (default: what --checkpoint names, else last)")
    asked = group.add_mutually_exclusive_group()
    asked.add_argument(
        "--conditions", metavar="C,C",
        help=f"of {', '.join((*MAIN, *CONTROLS))} and corrupted:KIND:LEVEL, KIND of {', '.join(CORRUPTIONS)}, LEVEL "
        "1 to 5 (default: the run's)",
    )  # fmt: skip
    asked.add_argument(
        "--controls", action="store_true",
        help=f"evaluate under {', '.join((*MAIN, *CONTROLS))} and every corruption at levels "
        f"{', '.join(map(str, LEVELS))}",
    )  # fmt: skip
    group.add_argument(
        "--max-examples", type=whole(), metavar="N",
        help="at most N questions of each family, drawn by id; 0: all (default: the run's)",
    )  # fmt: skip
    group.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="questions at a time, over all devices (default: the run's)"
    )
    group.add_argument(
        "--max-new-tokens", type=whole(1, MOST_NEW_TOKENS), metavar="N",
        help="longest answer in tokens (default: the run's)",
    )  # fmt: skip
    group.add_argument(
        "--sampled-runs", type=whole(1), metavar="N",
        help="also answer N times at random, for scores of consistency; written to sampled.jsonl",
    )  # fmt: skip
    group.add_argument("--temperature", type=above_zero, metavar="T", help="of --sampled-runs, above 0 (default: 0.7)")
    parser.goes_with(
        "--checkpoint", "--step", "--conditions", "--controls", "--max-examples", "--batch-size", "--max-new-tokens",
        "--sampled-runs",
    )  # fmt: skip
    parser.goes_with("--sampled-runs", "--temperature")


def _add_judge_options(parser: Parser) -> None:
    group = parser.add_argument_group(
        "judge", "a language model that marks answers; question, reference and answer are sent to it"
    )
    group.add_argument("--judge-model", metavar="NAME", help="as the endpoint calls it; asks for the judge")
    add_endpoint(group, _JUDGING, prefix="judge-", without="only verdicts in --judge-cache count")
    group.add_argument(
        "--judge-cache",
        type=file_or_folder,
        metavar="FILE",
        help="JSON Lines of all replies; a second run asks only for what it lacks",
    )
    group.add_argument(
        "--judge-template", type=file_or_folder, metavar="FILE",
        help="your own prompt (default: rllava_jax/evaluation/judge_templates/medical_answer.txt)",
    )  # fmt: skip
    names = ("judge_endpoint", "judge_template", "judge_cache", "judge_api_key_env", *_JUDGING)
    parser.goes_with("--judge-model", *(f"--{name.replace('_', '-')}" for name in names))
