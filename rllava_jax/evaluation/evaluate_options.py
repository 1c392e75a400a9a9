"""The options of `python -m rllava_jax.evaluate`."""

from data_pipelines.core.command_line import Parser, whole
from data_pipelines.records import FAMILIES
from data_pipelines.sources.registry import SOURCES
from rllava_jax.evaluation import judge_options
from rllava_jax.evaluation.checkpoint_options import CHECKPOINT_OPTIONS, add_checkpoint_arguments
from rllava_jax.evaluation.protocols import registry

SCORING = {"protocol": "strict", "bootstrap": 1000, "seed": 0, "allow_missing": 0}


def make_parser(description: str) -> Parser:
    """The command line: scoring a file, evaluating a checkpoint, comparing two runs.

    No option has a default but None, False or "", so that one that the chosen mode does not read can be refused;
    `SCORING` holds those of scoring and comparing. A checkpoint's run has its own.
    """
    parser = Parser(prog="python -m rllava_jax.evaluate", description=description)
    modes = parser.add_mutually_exclusive_group(required=True)
    modes.add_argument("--predictions", metavar="FILE", help="JSONL: id and answer, one a line; or a run's own file")
    parser.add_argument("--protocol", metavar="NAME", help=f"one of {', '.join(registry.PROTOCOLS)} (default: strict)")
    modes.add_argument("--list", action="store_true", help="print the protocols with their sources and known faults")
    parser.add_argument(
        "--data", metavar="NAME", help=f"what to score against: prepared, {', '.join(SOURCES)} (with --root)"
    )
    parser.add_argument("--root", metavar="DIR", default="", help="folder of the data set's files")
    parser.add_argument("--split", metavar="NAME", help="of --data (default: test)")
    parser.add_argument("--languages", metavar="A,B", help="of the questions of --data (default: en)")
    parser.add_argument(
        "--families", metavar="A,B",
        help=f"questions of --data: {', '.join(FAMILIES)}; all but vqa are rebuilt from boxes (default: vqa)",
    )  # fmt: skip
    parser.add_argument(
        "--references", metavar="FILE", help="what to score against instead: JSONL with id and answer, one a line"
    )
    modes.add_argument(
        "--compare", nargs=2, metavar=("RUN_A", "RUN_B"), help="two runs side by side, as python -m rllava_jax.compare"
    )
    parser.add_argument("--against", metavar="FILE", help="other predictions of the same questions: a paired test")
    parser.add_argument(
        "--out", metavar="DIR",
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
    asking = parser.add_argument_group(
        "evaluating a stored model", "with --data, --root, --split, --families and --out"
    )
    add_checkpoint_arguments(asking, modes)
    judge_options.add_arguments(parser)
    parser.goes_with("--predictions", "--references", "--against", "--allow-missing", "--judge-model")
    parser.goes_with(
        ("--predictions", "--checkpoint"), "--protocol", "--data", "--root", "--split", "--languages", "--families"
    )
    parser.goes_with("--checkpoint", *CHECKPOINT_OPTIONS)
    parser.goes_with("--sampled-runs", "--temperature")
    return parser
