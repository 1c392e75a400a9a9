"""The region trust benchmark: what a model answers when a marked region is right, missing, or wrong by degrees.

    python -m rllava_jax.trust boxes --data slake --root DIR --split test --out slake_test.jsonl
    python -m rllava_jax.trust run --checkpoint runs/slake_tiny --boxes slake_test.jsonl --root DIR --out trust/tiny
    python -m rllava_jax.trust score --answers trust/tiny --root DIR
    python -m rllava_jax.trust table trust/tiny trust/other --picture curve.svg

docs/TRUST.md defines the variants, the files and the figures. Research use, not a medical device.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.trust")

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import Parser, file_or_folder, run_command, whole
from data_pipelines.core.errors import InvalidOption, MissingFile, OptionConflict
from data_pipelines.core.paths import local_path, path_of
from data_pipelines.core.sole_writer import LOCK_FILE, sole_writer
from data_pipelines.images.reading import size_of
from data_pipelines.images.windows import AUTO, window_of
from data_pipelines.sources.registry import DRAWN
from rllava_jax.checkpoint.opened import OpenedCheckpoint, workdir_of
from rllava_jax.evaluation.predictions import read_predictions
from rllava_jax.evaluation.results import METRICS_FILE, write_rows
from rllava_jax.evaluation.trust import boxes_file, images, joined, metrics, models, results
from rllava_jax.evaluation.trust.run import ANSWERS_FILE, Run, read_run
from rllava_jax.inference.predictor import Predictor
from rllava_jax.report.line_plots import trust_picture
from rllava_jax.report.run_report import write_report

BOXES_FILE, REPORT_FILE = "boxes.jsonl", "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), lambda options: options.work(options), argv)


def _make_boxes(options: argparse.Namespace) -> None:
    window_of(options.window, "--window")
    out = local_path(options.out, what="--out")
    if out.is_dir():
        raise InvalidOption(f"--out {out}: is a folder; name a file")
    settings = {name: getattr(options, name) for name in ("languages", "window", "seed", "max_regions")}
    examples = images.examples_of(options.data, options.root, options.split, settings)
    made = boxes_file.make(
        examples, lambda example: size_of(example.image, example.id), source=options.data, split=options.split,
        settings=settings,
    )  # fmt: skip
    boxes_file.write(out, made)
    header = made.header
    print(f"{out}: {header['questions']} questions about {header['images']} images, sha256 {made.sha256}")
    for name, counts in header["variants"].items():
        reasons = "; ".join(f"{count}: {reason}" for reason, count in counts["unavailable"].items())
        print(f"  {name:<13} {counts['available']:>6}" + (f"   not possible for {reasons}" if reasons else ""))


def _run(options: argparse.Namespace) -> None:
    path = local_path(options.boxes, what="--boxes")
    boxes = boxes_file.read(path)
    if options.data and options.data != boxes.header["source"]:
        raise OptionConflict(f"--data {options.data}: the boxes are of {boxes.header['source']!r}; leave it out")
    out = local_path(options.out, what="--out")
    with sole_writer(out / LOCK_FILE, what=f"--out {out}"):
        _measure(options, boxes, out)
        if path.resolve() != (out / BOXES_FILE).resolve():
            write_atomically(out / BOXES_FILE, boxes_file.plain_bytes(path))
    _score_folder(out, out / BOXES_FILE, out, options)


def _measure(options: argparse.Namespace, boxes: boxes_file.BoxesFile, out: Path) -> None:
    if options.adapter:
        models.measure(
            models.function_named(options.adapter), boxes, images.images_of(boxes, options.root), name=options.adapter,
            most_regions=options.max_regions or 2, most_questions=options.questions, out=out,
        )  # fmt: skip
    else:
        stored = OpenedCheckpoint.open(path_of(options.checkpoint), options.step)
        sources = images.sources_of(boxes, options.root)
        models.measure_predictor(
            Predictor.load(stored, window=boxes.header["settings"]["window"]), boxes, sources,
            model={"checkpoint": str(stored.folder), "step": stored.step}, batch_size=options.batch_size or 64,
            most_questions=options.questions, out=out,
        )  # fmt: skip


def _score(options: argparse.Namespace) -> None:
    answers = local_path(options.answers, what="--answers")
    folder = answers.parent if answers.name == ANSWERS_FILE else answers
    if not (folder / ANSWERS_FILE).is_file():
        raise MissingFile(
            f"{folder / ANSWERS_FILE}: no such file; evaluate a model with: python -m rllava_jax.trust run"
        )
    boxes = local_path(options.boxes, what="--boxes") if options.boxes else folder / BOXES_FILE
    _score_folder(folder, boxes, local_path(options.out, what="--out") if options.out else folder, options)


def _score_folder(folder: Path, boxes_path: Path, out: Path, options: argparse.Namespace) -> None:
    boxes, predictions = boxes_file.read(boxes_path), read_predictions(folder / ANSWERS_FILE)
    run = read_run(folder)
    answers = joined.join(boxes, predictions, run)
    rows = metrics.trust_rows(answers, bootstrap=options.bootstrap, seed=0)
    write_rows(out, rows)
    print(results.markdown_table({folder.name: rows}))
    for name, count in answers.not_asked.items():
        if count:
            print(f"not asked: {count} questions under {name}, which show more boxes than the model takes")
    print(f"{out / METRICS_FILE}: {len(rows)} figures")
    if options.root or boxes.header["source"] in DRAWN:
        image_of = images.images_of(boxes, options.root)
        questions = {question.id: question for question in boxes.questions}
        write_report(
            out / REPORT_FILE, title=report_title(run), rows=rows, predictions=predictions,
            images=lambda prediction: image_of(questions[prediction.id]), gallery=options.gallery,
            run={**run.model, "boxes, sha256": boxes.sha256, "most regions": run.most_regions},
        )  # fmt: skip
        print(f"report: {out / REPORT_FILE}")


def report_title(run: Run) -> str:
    """What the page is called: after the run's folder and step, or the function."""
    if "checkpoint" not in run.model:
        return f"Region trust: {', '.join(str(value) for value in run.model.values())}"
    return f"Region trust: {workdir_of(Path(run.model['checkpoint'])).name}, step {run.model['step']}"


def _table(options: argparse.Namespace) -> None:
    folders = [local_path(name, what="DIR") for name in options.folders]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = {name: results.read_rows(folder) for name, folder in zip(names, folders, strict=True)}
    subsets = sorted({row["subset"] for rows in runs.values() for row in rows})
    if options.subset not in subsets:
        raise InvalidOption(f"--subset {options.subset}: unknown; choose one of {', '.join(subsets)}")
    print(results.markdown_table(runs, subset=options.subset), end="")
    if options.picture:
        drawn = trust_picture(*results.curves_of(runs, subset=options.subset))
        write_atomically(local_path(options.picture, what="--picture"), drawn)


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.trust", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="boxes|run|score|table")
    boxes = commands.add_parser("boxes", help="write the file of perturbed boxes")
    boxes.set_defaults(work=_make_boxes)
    boxes.add_argument("--data", required=True, metavar="NAME", help="a data set (slake, coco, jsonl …) or `prepared`")
    boxes.add_argument(
        "--root", default="", type=file_or_folder, metavar="DIR", help="its folder; phantom and documents need none"
    )
    boxes.add_argument("--split", default="test", help="default: test")
    boxes.add_argument("--languages", nargs="+", default=["en"], metavar="L", help="of the questions (default: en)")
    boxes.add_argument("--window", default=AUTO, help="of DICOM and NIfTI images, as in predict (default: auto)")
    boxes.add_argument("--seed", type=int, default=0, help="of the wording of the region questions (default: 0)")
    boxes.add_argument(
        "--max-regions", type=whole(1), default=1, metavar="N",
        help="questions with more right boxes are left out (default: 1, which every model can be shown)",
    )  # fmt: skip
    boxes.add_argument("--out", required=True, type=file_or_folder, metavar="FILE")
    run = commands.add_parser("run", help="evaluate a model, and score its answers")
    _add_run_options(run)
    score = commands.add_parser("score", help="score answers again")
    score.set_defaults(work=_score)
    score.add_argument(
        "--answers", required=True, type=file_or_folder, metavar="DIR", help="a folder of `run`, or its answers.jsonl"
    )
    score.add_argument(
        "--boxes", type=file_or_folder, metavar="FILE", help="the file that was asked (default: the copy in the folder)"
    )
    score.add_argument(
        "--root", default="", type=file_or_folder, metavar="DIR", help="folder of the data set: also write report.html"
    )
    score.add_argument(
        "--out", type=file_or_folder, metavar="DIR", help="takes metrics.json (default: the folder of the answers)"
    )
    for command in (run, score):
        command.add_argument(
            "--bootstrap", type=whole(), default=1000, metavar="N",
            help="resamples by image; 0: no intervals (default: 1000)",
        )  # fmt: skip
        command.add_argument(
            "--gallery", type=whole(), default=60, metavar="N", help="examples in the report (default: 60)"
        )
    table = commands.add_parser("table", help="several models in one Markdown table")
    table.set_defaults(work=_table)
    table.add_argument("folders", nargs="+", type=file_or_folder, metavar="DIR", help="folders of `run`")
    table.add_argument("--subset", default="all", help="all, or family=vqa, identify, verify, choose (default: all)")
    table.add_argument("--picture", type=file_or_folder, metavar="FILE", help="draw the trust curves into an SVG file")
    return parser


def _add_run_options(run: Parser) -> None:
    run.set_defaults(work=_run)
    run.goes_with("--checkpoint", "--batch-size", "--step")
    run.goes_with("--adapter", "--max-regions")
    asked = run.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--checkpoint",
        type=file_or_folder,
        metavar="DIR",
        help="a run's workdir, an imported model, or checkpoints/STEP",
    )
    asked.add_argument(
        "--adapter", metavar="MODULE:FUNCTION",
        help="any function (image, question, boxes) to (answer, confidence or None); see docs/TRUST.md",
    )  # fmt: skip
    run.add_argument("--step", help="last, best or a number (default: what --checkpoint names, else last)")
    run.add_argument(
        "--boxes", required=True, type=file_or_folder, metavar="FILE", help="from `boxes`, or as published"
    )
    run.add_argument("--data", metavar="NAME", help="checked against the boxes file, which names it")
    run.add_argument(
        "--root",
        default="",
        type=file_or_folder,
        metavar="DIR",
        help="folder of the data set: the boxes file has no images",
    )
    run.add_argument(
        "--out",
        required=True,
        type=file_or_folder,
        metavar="DIR",
        help="takes the answers; an interrupted run goes on there",
    )
    run.add_argument("--batch-size", type=whole(1), metavar="N", help="of a checkpoint (default: 64)")
    run.add_argument(
        "--max-regions", type=whole(1), metavar="N",
        help="boxes that the function of --adapter takes (default: 2)",
    )  # fmt: skip
    run.add_argument(
        "--questions", type=whole(), default=0, metavar="N", help="at most N of each family (default: all)"
    )


if __name__ == "__main__":
    sys.exit(main())
