"""Published checkpoints in, Hugging Face folders out.

    python -m rllava_jax.convert import paligemma-3b-pt-224.npz models/pt-224 --tokenizer paligemma_tokenizer.model
    python -m rllava_jax.convert import paligemma-3b-pt-224/ models/pt-224
    python -m rllava_jax.convert export runs/slake exported/slake --dtype bfloat16

The imported folder is what `--config.init.checkpoint` names in training and `--checkpoint` in prediction.
The three journeys, with what they need: docs/CONVERSION.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.convert")

from data_pipelines.core.command_line import Parser, above_zero, file_or_folder, run_command
from data_pipelines.core.errors import UnwritableFile, UserError
from data_pipelines.core.paths import local_path, path_of
from data_pipelines.core.storage import StorageFailure, storage_failure
from rllava_jax.interop.export_checkpoint import export_checkpoint
from rllava_jax.interop.import_checkpoint import import_checkpoint
from rllava_jax.interop.source import DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, argv, level=logging.INFO)


def _work(options: argparse.Namespace) -> None:
    for name in ("jax", "orbax", "absl"):
        # Orbax logs what goes wrong in its threads, traces and all, before it raises it.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        options.run(options)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError
        failure = storage_failure(error, str(options.destination))
        if isinstance(failure, StorageFailure):
            raise failure from None
        if not isinstance(error, OSError):
            raise
        said = f"{error.strerror or error} ({error.filename or 'no file named'}); nothing was left behind"
        raise UnwritableFile(f"{options.destination}: {said}") from None
    print(f"written: {options.destination}")


def _import(options: argparse.Namespace) -> None:
    import_checkpoint(
        local_path(options.source, what="SOURCE"),
        local_path(options.destination, what="DESTINATION"),
        tokenizer=local_path(options.tokenizer, what="--tokenizer") if options.tokenizer else None,
        overwrite=options.overwrite,
    )


def _export(options: argparse.Namespace) -> None:
    export_checkpoint(
        path_of(options.checkpoint),
        local_path(options.destination, what="DESTINATION"),
        step=options.step,
        dtype=options.dtype,
        keep_lora=options.keep_lora,
        plain=options.plain,
        licence=options.licence,
        shard_bytes=int(options.shard_gb * 2**30),
        overwrite=options.overwrite,
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.convert", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{import,export}")
    into = commands.add_parser("import", help="a big_vision .npz or a Hugging Face folder becomes a checkpoint")
    into.set_defaults(run=_import)
    into.add_argument(
        "source",
        type=file_or_folder,
        metavar="SOURCE",
        help="a .npz file, or a folder with config.json and safetensors",
    )
    into.add_argument("destination", type=file_or_folder, metavar="DESTINATION", help="the folder to write")
    into.add_argument(
        "--tokenizer", type=file_or_folder, metavar="FILE",
        help="SentencePiece model or tokenizer.json, in place of the source's own; a .npz has none",
    )  # fmt: skip
    out = commands.add_parser("export", help="a checkpoint becomes a Hugging Face folder, or a big_vision .npz")
    out.set_defaults(run=_export)
    out.add_argument(
        "checkpoint", type=file_or_folder, metavar="CHECKPOINT",
        help="a run's workdir, an imported model, or checkpoints/STEP; local or gs://",
    )  # fmt: skip
    out.add_argument(
        "destination",
        type=file_or_folder,
        metavar="DESTINATION",
        help="the folder to write, or a file that ends in .npz",
    )
    out.add_argument("--step", help="last, best or a number (default: what CHECKPOINT names, else last)")
    out.add_argument(
        "--dtype", choices=sorted(DTYPES),
        help="of the written weights (default: as they are stored; the widest, where types differ)",
    )  # fmt: skip
    adapters = out.add_mutually_exclusive_group()
    adapters.add_argument("--merge-lora", action="store_true", help="add the adapters to the weights (the default)")
    adapters.add_argument(
        "--keep-lora", action="store_true", help="write the frozen base, and beside it adapter/ for PEFT"
    )
    out.add_argument(
        "--plain", action="store_true", help="leave the region branch out: any transformers loads the folder"
    )
    out.add_argument("--licence", default="", help="for the model card (default: the base model's)")
    out.add_argument("--shard-gb", type=above_zero, default=2.0, help="largest safetensors file, in GiB (default: 2)")
    for command in (into, out):
        command.add_argument("--overwrite", action="store_true", help="replace a destination that this command wrote")
    return parser


if __name__ == "__main__":
    sys.exit(main())
