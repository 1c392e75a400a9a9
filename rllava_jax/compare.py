"""Puts two runs side by side: the same questions, paired differences, and where they disagree.

    python -m rllava_jax.compare runs/with_regions runs/without --names regions plain --out compare.html

RUN is an eval/STEP folder, the workdir of a run (then its newest evaluation of the test split), or a folder of answers
of the region trust benchmark. Beside the page its numbers are written as JSON, one row a number (docs/REPORT.md).
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.compare")

from PIL import Image

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import Parser, file_or_folder, run_command, whole
from data_pipelines.core.errors import (
    ConfigError,
    DataError,
    ImageError,
    InvalidOption,
    MissingFile,
    OptionConflict,
    UnwritableFile,
)
from data_pipelines.core.paths import path_of
from data_pipelines.images.reading import decode
from data_pipelines.loading.examples import load_examples
from rllava_jax.checkpoint.provenance import stored_config
from rllava_jax.config.stored import from_json
from rllava_jax.evaluation.comparison import Comparison, Side, compare_sides, read_side
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.results import rows_as_json
from rllava_jax.report.comparison_report import comparison_html
from rllava_jax.report.gallery import ImageOf


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, argv)


def _work(options: argparse.Namespace) -> None:
    settings = {name: getattr(options, name) for name in ("names", "data_of", "gallery", "bootstrap", "seed")}
    compare_runs(options.run_a, options.run_b, options.out, **settings)


def compare_runs(
    run_a: str,
    run_b: str,
    out: str,
    *,
    names: Sequence[str] = ("", ""),
    data_of: str = "",
    gallery: int = 48,
    bootstrap: int = 1000,
    seed: int = 0,
) -> None:
    """Writes the page `out`, and its rows beside it under the ending .json; each whole or not at all.

    Args:
      names: what the two are called; "" takes it from the path, with the folders above it where both are alike.
      data_of: the workdir whose configuration names the data set of the images; "" is that of the first that has one.
      gallery: at most so many questions on which the two differ are shown.
      bootstrap: resamples behind each interval and p; 0 leaves them out.

    Raises:
      DataError, ConfigError: a folder without answers, no question in common, or a page that would not be HTML.
    """
    page = path_of(out)
    if page.suffix != ".html":
        raise InvalidOption(f"--out {out}: is invalid; name a page that ends in .html")
    first, second = (read_side(run, name) for run, name in zip((run_a, run_b), names, strict=True))
    if not any(names) and first.folder.resolve() != second.folder.resolve():
        first, second = _told_apart(first, second)
    if first.name == second.name:
        raise OptionConflict(
            f"both runs would be called {first.name!r}; give two folders, or --names to python -m rllava_jax.compare"
        )
    comparison = compare_sides(first, second, bootstrap=bootstrap, seed=seed)
    _say_left_out(first, second, comparison)
    images = _images(first, second, data_of)
    if isinstance(images, str):
        print(f"the page shows no images: {images}", file=sys.stderr)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, comparison_html(first, second, comparison, images, gallery=gallery))
        write_atomically(page.with_suffix(".json"), rows_as_json(comparison.rows))
    except OSError as error:
        raise UnwritableFile(f"--out {out}: cannot be written ({error.strerror})") from None
    print(f"wrote {page} and {page.with_suffix('.json').name}")


def _told_apart(first: Side, second: Side) -> tuple[Side, Side]:
    """Two runs of one name get the names of the folders above them, as many as it takes: "plain/run, 10"."""
    ours, theirs = (_run_of(side.folder).parents for side in (first, second))
    for above in zip(ours, theirs, strict=False):
        if first.name != second.name:
            break
        first, second = (
            dataclasses.replace(side, name=f"{folder.name}/{side.name}")
            for side, folder in zip((first, second), above, strict=True)
        )
    return first, second


def _run_of(folder: Path) -> Path:
    folder = folder.resolve()
    return folder.parent.parent if folder.parent.name == "eval" else folder


def _say_left_out(first: Side, second: Side, comparison: Comparison) -> None:
    for side, only in ((first, comparison.only_first), (second, comparison.only_second)):
        if only:
            print(f"left out: {len(only):,} answers that only {side.name} has, e.g. {only[0]}", file=sys.stderr)
    if changed := comparison.changed:
        print(
            f"left out: {len(changed):,} answers whose id names another question, image or box on each side, e.g. "
            f"{changed[0]}",
            file=sys.stderr,
        )


def _images(first: Side, second: Side, data_of: str) -> ImageOf | str:
    """The images of the test split that a run's configuration names; or, in words, why there are none."""
    candidates = [path_of(data_of)] if data_of else [side.folder.parent.parent for side in (first, second)]
    workdir = next((folder for folder in candidates if (folder / "config.json").is_file()), None)
    if workdir is None:
        if data_of:
            raise MissingFile(f"--data-of {data_of}: has no config.json; name the workdir of a run")
        return "neither folder lies in the workdir of a run; name one with --data-of"
    try:
        config = from_json(stored_config(workdir), where=str(workdir / "config.json"))
        examples = load_examples(
            config.data, config.data.test_split, seed=config.seed, max_regions=config.regions.max_regions
        )
    except (ConfigError, DataError) as error:
        if data_of:
            raise
        return str(error)
    held = {example.id: example.image for example in examples}

    def image(p: Prediction) -> Image.Image:
        if p.id not in held:
            raise ImageError(
                f"{p.id}: {workdir} has no such question; name the workdir of the data set with --data-of",
                code="image.missing",
            )
        return Image.fromarray(decode(held[p.id], p.id, config.data.window, config.data.max_image_pixels))

    return image


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.compare", description=__doc__)
    parser.add_argument("run_a", type=file_or_folder, metavar="RUN_A", help="the first run, A; differences are A − B")
    parser.add_argument("run_b", type=file_or_folder, metavar="RUN_B", help="the second run, B")
    parser.add_argument(
        "--out", default="compare.html", type=file_or_folder, metavar="FILE", help="the page (default: compare.html)"
    )
    parser.add_argument(
        "--names", nargs=2, default=("", ""), metavar=("A", "B"), help="what to call them (default: from their paths)"
    )
    parser.add_argument(
        "--data-of", default="", type=file_or_folder, metavar="DIR",
        help="a run's workdir, whose config.json says where the images are (default: that of RUN_A, else of RUN_B)",
    )  # fmt: skip
    parser.add_argument(
        "--gallery", type=whole(), default=48, metavar="N", help="at most so many differing questions (default: 48)"
    )
    parser.add_argument(
        "--bootstrap", type=whole(), default=1000, metavar="N", help="resamples of the images; 0: no intervals"
    )
    parser.add_argument("--seed", type=whole(), default=0, help="of the resampling (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
