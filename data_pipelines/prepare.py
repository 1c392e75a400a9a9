"""Turns a published data set into a prepared one: sharded ArrayRecord in TFDS format, checked against its data card.

    python -m data_pipelines.prepare --list
    python -m data_pipelines.prepare slake --source downloads/slake --out prepared/slake
    python -m rllava_jax.main … --config.data.source=prepared --config.data.root=prepared/slake

Run the same command again after an interruption to resume. docs/DATA.md shows what is written.
"""

import argparse
import functools
import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core.signals import end_at_once

if __name__ == "__main__":
    end_at_once()

from data_pipelines.core.command_line import Parser, file_or_folder, real, run_command, whole, words
from data_pipelines.core.errors import MissingFile, MissingOption, MissingPackage, OptionConflict, UnreadableFile
from data_pipelines.core.optional_packages import install
from data_pipelines.core.sole_writer import sole_writer
from data_pipelines.core.storage import StorageFailure, storage_failure
from data_pipelines.images.windows import AUTO
from data_pipelines.prepared.preparation import Detections, prepare
from data_pipelines.prepared.runners import run_beam, run_processes
from data_pipelines.records import Count, DataCard
from data_pipelines.settings import MAX_IMAGE_PIXELS
from data_pipelines.sources import registry
from data_pipelines.sources.reading_options import add_reading_options, reading_of

_WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, argv, interrupted="interrupted; run the same command again to resume")


def _work(options: argparse.Namespace) -> None:
    try:
        if options.list:
            print("\n\n".join(_card(registry.SOURCES.get(name, setting="NAME").card) for name in registry.SOURCES))
        elif options.card:
            print(_card(registry.SOURCES.get(options.card, setting="--card").card))
        else:
            _prepare(options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("data_pipelines", "rllava_jax"):
            raise
        raise MissingPackage(f"{error.name} is not installed; {install('data')}") from None
    except OSError as error:
        # Without the file's name: of some data sets it holds a patient's number.
        failure = storage_failure(error, f"--out {options.out}")
        if isinstance(failure, StorageFailure):
            raise failure from None
        reason = error.strerror or type(error).__name__
        raise UnreadableFile(f"a file cannot be read or written ({reason})") from None


def _prepare(options: argparse.Namespace) -> None:
    for value, option in ((options.name, "NAME"), (options.out, "--out")):
        if not value:
            known = f", one of {', '.join(registry.SOURCES)}" if option == "NAME" else ""
            raise MissingOption(f"{option}: is missing{known}")
    source = registry.SOURCES.get(options.name, setting="NAME")
    if source.card.layout and not (options.source and os.path.isdir(options.source)):
        raise MissingFile(f"--source {options.source}: is no folder; name the one that holds {source.card.layout}")
    if options.source and not source.card.layout:
        raise OptionConflict(f"--source {options.source}: {options.name} is drawn and reads nothing; leave it out")
    if options.runner:
        run = functools.partial(run_beam, runner=options.runner, options=options.beam_option)
    else:
        run = functools.partial(run_processes, workers=options.workers)
    detections = None
    if options.detections:
        # How many boxes were taken and left out.
        logging.getLogger("data_pipelines.regions.detections").setLevel(logging.INFO)
        detections = Detections(options.detections, options.min_score, options.detection_names)
    with sole_writer(Path(f"{os.path.abspath(options.out)}.lock"), what=f"--out {options.out}"):
        record = prepare(
            source,
            reading=reading_of(options),
            root=os.path.normpath(options.source) if options.source else "",
            out=options.out,
            splits=options.splits,
            allow_missing=options.allow_missing,
            overwrite=options.overwrite,
            window=options.window,
            max_pixels=options.max_image_pixels,
            detections=detections,
            run=run,
            command=_command(options),
        )
    for name, split in record["splits"].items():
        print(f"{name}: {split['questions']:,} questions, {split['images']:,} images, {split['boxes']:,} boxes")
    print(f"prepared {options.name} in {options.out}")


def _command(options: argparse.Namespace) -> str:
    """The command as it is recorded: what decides the result, and of folders their names, not where they lie."""
    said = {
        "--source": os.path.basename(os.path.abspath(options.source)) if options.source else "",
        "--out": os.path.basename(os.path.abspath(options.out)),
        "--splits": ",".join(options.splits),
        "--window": options.window if options.window != AUTO else "",
        "--max-image-pixels": str(options.max_image_pixels) if options.max_image_pixels != MAX_IMAGE_PIXELS else "",
        "--boxes": options.boxes,
        "--orientation": options.orientation,
        "--detections": os.path.basename(options.detections),
        "--min-score": f"{options.min_score:g}" if options.detections else "",
        "--detection-names": os.path.basename(options.detection_names),
    }
    words_said = [word for option, value in said.items() if value for word in (option, value)]
    missing = ["--allow-missing"] if options.allow_missing else []
    return shlex.join(["python", "-m", "data_pipelines.prepare", options.name, *words_said, *missing])


def _card(card: DataCard) -> str:
    lines = [f"{card.name}: {card.title}", *_wrapped("", card.about)]
    for title, text in (("paper", card.paper), ("url", card.url), ("licence", card.licence), ("layout", card.layout)):
        lines += _wrapped(f"{title:<8}", text or "none: nothing is read")
    splits = "; ".join(f"{name} {_count(count)}".rstrip() for name, count in card.splits.items())
    lines += _wrapped("splits  ", splits or "those that the files have")
    for trap in card.traps:
        lines += _wrapped("trap    ", trap)
    return "\n".join(lines)


def _count(count: Count) -> str:
    pairs = ((count.examples, "questions"), (count.images, "images"))
    return ", ".join(f"{number:,} {what}" for number, what in pairs if number is not None)


def _wrapped(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"  {title}", subsequent_indent="  " + " " * len(title),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _parser() -> Parser:
    parser = Parser(prog="python -m data_pipelines.prepare", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"the data set: {', '.join(registry.SOURCES)}")
    parser.add_argument(
        "--source", type=file_or_folder, metavar="DIR",
        help="folder of the files as their authors publish them; only read",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=file_or_folder, metavar="DIR",
        help="folder to write; it appears when it is whole, until then DIR.incomplete",
    )  # fmt: skip
    parser.add_argument("--splits", type=words, default=(), metavar="A,B", help="default: all that the data card names")
    parser.add_argument(
        "--max-image-pixels", type=whole(1), default=MAX_IMAGE_PIXELS, metavar="N",
        help="refuse larger images, as data.max_image_pixels, which the run must raise too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--window", default=AUTO, metavar="WINDOW",
        help="what of DICOM and NIfTI files becomes black to white, as data.window (docs/DICOM.md): auto (default), "
        "minmax, percentile, a CT preset such as lung, or CENTRE:WIDTH; a run on the result must have the same",
    )  # fmt: skip
    add_reading_options(parser)
    parser.add_argument(
        "--detections", default="", type=file_or_folder, metavar="FILE",
        help="a detector's boxes in place of the annotated ones (docs/DATA.md); must name an image of every split",
    )  # fmt: skip
    share = real("a number from 0 to 1", lambda score: 0 <= score <= 1)
    parser.add_argument("--min-score", type=share, default=0.0, metavar="S", help="leave out boxes that score below")
    parser.add_argument(
        "--detection-names", default="", type=file_or_folder, metavar="FILE",
        help="COCO file with the categories of results alone",
    )  # fmt: skip
    parser.add_argument(
        "--allow-missing", action="store_true",
        help="warn where a split has less than its data card says, rows are malformed, images cannot be read or "
        "boxes lie outside them, and go on without",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared data set that stands at --out")
    parser.add_argument(
        "--workers", type=whole(1), default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes that read and store images (default: one a core); the result does not depend on it",
    )  # fmt: skip
    parser.add_argument(
        "--runner", metavar="RUNNER",
        help="write the image shards with Apache Beam: DirectRunner, DataflowRunner, FlinkRunner … (docs/DATA.md)",
    )  # fmt: skip
    parser.add_argument(
        "--beam-option", action="append", default=[], metavar="--OPTION=VALUE",
        help="handed to Beam, written --beam-option=--project=NAME; repeat for several",
    )  # fmt: skip
    parser.goes_with("--detections", "--min-score", "--detection-names")
    parser.goes_with("--runner", "--beam-option")
    parser.add_argument("--list", action="store_true", help="print the data cards of all data sets")
    parser.add_argument("--card", metavar="NAME", help="print one data card")
    return parser


if __name__ == "__main__":
    sys.exit(main())
