"""Shows what is in data sets: counts, boxes, answers, lengths, images that occur twice, and a contact sheet.

    python -m data_pipelines.inspect prepared/slake --out inspected
    python -m data_pipelines.inspect downloads/slake --source slake --out inspected
    python -m data_pipelines.inspect downloads/slake downloads/vqa_rad --source slake --source vqa_rad

All splits and languages are read. With --out, DIR/inspect.json holds every number (one row a number, names that stay)
and each image that is also in another split or data set; DIR/contact_sheet_NAME.png shows images with their boxes.
"""

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import Parser, file_or_folder, made_folder, run_command, whole, words
from data_pipelines.images.reading import image_file
from data_pipelines.inspection.contact_sheet import contact_sheet
from data_pipelines.inspection.figures import Figure, split_figures
from data_pipelines.inspection.overlap import DEFAULT_BITS, Match, fingerprints, groups_of, overlaps
from data_pipelines.inspection.reading import PREPARED, read_data_sets
from data_pipelines.inspection.tables import overlap_tables, split_tables
from data_pipelines.sources import registry
from data_pipelines.sources.reading_options import add_reading_options, reading_of

_HASH_BITS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, argv, interrupted="interrupted; nothing was written that is not whole")


def _work(options: argparse.Namespace) -> None:
    if options.out:
        made_folder(Path(options.out))  # before the work that it is for
    data_sets = read_data_sets(options.folders, options.source, options.splits, reading_of(options))
    figures = [
        figure
        for data_set in data_sets
        for split, content in data_set.splits.items()
        for figure in split_figures(data_set.name, split, content)
    ]
    for data_set in data_sets:
        print(split_tables(figures, data_set.name, list(data_set.splits)), end="\n\n")
    groups = groups_of(data_sets)
    overlapping, matches = overlaps(groups, fingerprints(data_sets, workers=options.workers), bits=options.near_bits)
    named = [(group.data_set, group.name) for group in groups]
    print(overlap_tables(overlapping, named, bits=options.near_bits))
    if options.out:
        out = Path(options.out)
        _write(out / "inspect.json", [*figures, *overlapping], matches, options.near_bits)
        for data_set in data_sets:
            name = re.sub(r"\W+", "_", data_set.name).strip("_")
            sheet = image_file(contact_sheet(data_set, count=options.images), optimize=True)
            write_atomically(out / f"contact_sheet_{name}.png", sheet)
        print(f"\nwritten to {out}")


def _write(path: Path, figures: Sequence[Figure], matches: Sequence[Match], bits: int) -> None:
    parts = [f'  "near_bits": {bits}']
    for name, found in (("figures", figures), ("overlapping_images", matches)):
        # One row a line, so that two inspections can be compared line by line.
        rows = ",\n".join(f"    {json.dumps(dataclasses.asdict(row), ensure_ascii=False)}" for row in found)
        parts.append(f'  "{name}": [\n{rows}\n  ]')
    write_atomically(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _parser() -> Parser:
    parser = Parser(prog="python -m data_pipelines.inspect", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=file_or_folder, metavar="DIR", help="folders of prepared or published data sets"
    )
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME",
        help=f"what the folders hold: {PREPARED} (the default: what data_pipelines.prepare wrote), or as published "
        f"{', '.join(registry.SOURCES)} (of {' and '.join(registry.DRAWN)}, which are drawn, the folder is not read); "
        "give one name, or one for each folder in their order",
    )  # fmt: skip
    parser.add_argument(
        "--splits", type=words, default=(), metavar="A,B",
        help="read these only (default: all that were prepared, or that the authors publish)",
    )  # fmt: skip
    add_reading_options(parser)
    parser.add_argument(
        "--out",
        type=file_or_folder,
        metavar="DIR",
        help="write inspect.json and the contact sheets there (made if missing)",
    )
    parser.add_argument(
        "--near-bits", type=whole(0, _HASH_BITS), default=DEFAULT_BITS, metavar="N",
        help="images are alike whose 64-bit perceptual hashes (pHash) differ in at most N bits "
        f"(default: {DEFAULT_BITS}; 0 is equal hashes; unrelated pictures differ in about 32)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=whole(1), default=24, metavar="N", help="images on a contact sheet, at most (default: 24)"
    )
    parser.add_argument(
        "--workers", type=whole(1), default=os.cpu_count() or 1, metavar="N",
        help="processes that read images (default: one for each core)",
    )  # fmt: skip
    return parser
