"""The options with which a stored model is evaluated; no JAX is needed to read them."""

import argparse

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, MAIN
from data_pipelines.core.command_line import above_zero, whole

LEVELS = (1, 3, 5)  # of the corruptions that --controls adds
ALL_CONTROLS = (*MAIN, *CONTROLS, *(f"corrupted:{kind}:{level}" for kind in CORRUPTIONS for level in LEVELS))


CHECKPOINT_OPTIONS = (
    "--step", "--conditions", "--controls", "--max-examples", "--batch-size", "--max-new-tokens", "--sampled-runs",
)  # fmt: skip


def add_checkpoint_arguments(parser: argparse._ArgumentGroup, modes: argparse._MutuallyExclusiveGroup) -> None:
    """The options of this mode alone: beside --data, --root, --split, --languages, --families, --protocol, --out."""
    modes.add_argument(
        "--checkpoint", metavar="DIR",
        help="a run's workdir, an imported model, or a checkpoints/STEP folder; local or gs://",
    )  # fmt: skip
    parser.add_argument("--step", help="last, best or a number (default: what --checkpoint names, else last)")
    asked = parser.add_mutually_exclusive_group()
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
    parser.add_argument(
        "--max-examples", type=whole(), metavar="N",
        help="at most N questions of each family, drawn by id; 0: all (default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="questions at a time, over all devices (default: the run's)"
    )
    parser.add_argument(
        "--max-new-tokens", type=whole(1), metavar="N", help="longest answer in tokens (default: the run's)"
    )
    parser.add_argument(
        "--sampled-runs", type=whole(1), metavar="N",
        help="also answer N times at random, for scores of consistency; written to sampled.jsonl",
    )  # fmt: skip
    parser.add_argument("--temperature", type=above_zero, metavar="T", help="of --sampled-runs, above 0 (default: 0.7)")
