"""Answers a question about an image, with or without marked regions.

    python -m rllava_jax.predict --checkpoint runs/slake_tiny --image scan.jpg --box 120,88,64,70 \\
        --question "what is the marked structure?"

With --detect the model marks the region itself: asked for the structure first, it answers with the box it wrote.

    python -m rllava_jax.predict --checkpoint runs/slake_tiny --image scan.jpg --detect liver \\
        --question "is the liver healthy?"

Confidence is the probability of the whole answer; of a checkpoint that was calibrated (`python -m
rllava_jax.calibrate`), the chance that it is right.

Research use, not a medical device.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, get_args

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.predict")

from data_pipelines.conditions import DETECTED
from data_pipelines.core.command_line import Parser, file_or_folder, run_command, whole
from data_pipelines.core.errors import ConfigError, ImageError, InvalidOption, MissingOption, OptionConflict
from data_pipelines.core.paths import local_path, path_of
from data_pipelines.images.scan_parts import split_part
from data_pipelines.images.windows import PRESETS, window_of
from data_pipelines.records import Task
from data_pipelines.sources.reading_options import add_reading_options
from rllava_jax.config.schema import MOST_NEW_TOKENS
from rllava_jax.inference.calibration import COMMAND, Stop
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.predictor import Predicted, Predictor


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, _joined(sys.argv[1:] if argv is None else argv))


def _work(options: argparse.Namespace) -> None:
    _check_task(options)
    if not local_path(split_part(options.image)[0], what="--image").is_file():
        raise ImageError(f"--image {options.image}: no such file", code="image.missing")
    if options.window is not None:
        window_of(options.window, "--window")
    predictor = Predictor.load(
        path_of(options.checkpoint),
        step=options.step,
        new_tokens=options.max_new_tokens,
        sampling=Sampling(options.temperature, options.top_p),
        window=options.window,
        max_pixels=options.max_image_pixels,
    )
    stop = _stop(predictor, options)
    answer = predictor.ask(
        options.image,
        options.question or "",
        boxes=[box.split(",") for box in options.box],
        detect=options.detect,
        task=options.task,
        language=options.language,
        seed=options.seed,
        box_unit=options.boxes,
        orientation=options.orientation,
    )
    show = _print_json if options.json else _print_text
    show(predictor, answer, stop, options)


def _stop(predictor: Predictor, options: argparse.Namespace) -> Stop | None:
    """Where to stop answering for --risk, before any question is asked."""
    if options.risk is None:
        return None
    calibration, said = predictor.calibration, f"--risk {options.risk:g}"
    if calibration is None:
        raise ConfigError(
            f"{said}: {predictor.checkpoint} has no calibration; fit one on validation questions: "
            f"{COMMAND} {predictor.checkpoint}",
            code="calibration.missing",
        )
    if reason := predictor.uncalibrated(options.task):
        raise ConfigError(f"{said}: the calibration does not hold here, since {reason}", code="calibration.conflict")
    return calibration.stop_for(options.risk)


def _print_json(predictor: Predictor, answer: Predicted, stop: Stop | None, options: argparse.Namespace) -> None:
    withheld = stop is not None and not stop.gives(answer.log_prob)
    said: dict[str, Any] = {
        "answer": None if withheld and not options.show_withheld else answer.text,
        "confidence": answer.confidence,
        "raw_confidence": answer.raw_confidence,
        "calibrated": answer.is_calibrated,
        "finished": answer.finished,
    }
    if answer.detected:
        said["regions"] = [
            {"structure": name, "box": box, "provenance": DETECTED}  # the box as --box takes it
            for name, box in answer.detected
        ]
    if stop is not None and predictor.calibration is not None:
        said |= {"withheld": withheld, "risk": options.risk, "coverage": predictor.calibration.coverage(stop)}
    print(json.dumps(said))


def _print_text(predictor: Predictor, answer: Predicted, stop: Stop | None, options: argparse.Namespace) -> None:
    for name, box in answer.detected:
        where = ",".join(f"{number:g}" for number in box or ())
        print(f"detected {name}: {where or 'no box in the answer; asked without it'}")
    promise = ""
    if stop is not None and predictor.calibration is not None:
        coverage = predictor.calibration.coverage(stop)
        promise = (
            f"at a risk of at most {100 * options.risk:g} % this model answers {100 * coverage:.0f} % "
            "of validation questions"
        )
    cut = "" if answer.finished else " … (cut; raise --max-new-tokens)"
    if stop is not None and not stop.gives(answer.log_prob):
        print(f"not sure (confidence {answer.confidence:.2f}; {promise})")
        if options.show_withheld:
            print(f"withheld: {answer.text}{cut}")
        return
    print(answer.text + cut)
    calibrated = f" (calibrated; raw {answer.raw_confidence:.3f})" if answer.is_calibrated else ""
    print(f"confidence {answer.confidence:.3f}{calibrated}")
    if promise:
        print(promise)


def _check_task(options: argparse.Namespace) -> None:
    """Checks that what is asked fits the task, before the checkpoint is read."""
    if options.task == "caption":
        if options.question is not None:
            raise OptionConflict("--question: a caption has none; leave it out, or --task caption")
    elif not (options.question or "").strip():
        raise MissingOption("--question: is missing or empty; write a question")
    if options.detect and (options.task != "answer" or options.box):
        other = "--box" if options.box else f"--task {options.task}"
        raise OptionConflict(f"--detect {options.detect[0]}: marks the region of a question itself; leave {other} out")
    names = [name.strip().lower() for name in options.detect]
    if "" in names or len(set(names)) < len(names):
        raise InvalidOption(
            f"--detect {', '.join(options.detect)}: has an empty name or one twice; name each once, e.g. liver"
        )


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--box -5,0,9,9` as `--box=-5,0,9,9`: argparse takes a value with a leading minus for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--box":
            joined[-1] = f"--box={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.predict", description=__doc__)
    add = parser.add_argument
    add(
        "--checkpoint", required=True, type=file_or_folder, metavar="DIR",
        help="a run's workdir, an imported model, or a checkpoints/STEP folder; local or gs://",
    )  # fmt: skip
    add("--step", help="last, best or a number (default: what --checkpoint names, else last)")
    add(
        "--image", required=True, type=file_or_folder, metavar="FILE",
        help="PNG, JPEG, TIFF (x.tif#page=2), GIF, BMP, WebP, JPEG 2000, PPM, AVIF; DICOM, perhaps with a frame "
        "(cine.dcm#frame=3), or a slice of a NIfTI volume (ct.nii.gz#axis=2,slice=40); see docs/DICOM.md",
    )  # fmt: skip
    add(
        "--max-image-pixels", type=whole(1), metavar="N",
        help="refuse a larger image before it is decoded (default: what the model was trained with)",
    )  # fmt: skip
    add(
        "--window", metavar="NAME",
        help=f"of a DICOM or NIfTI image: auto, minmax, percentile, {', '.join(PRESETS)}, or CENTRE:WIDTH "
        "(default: what the model was trained with)",
    )  # fmt: skip
    add(
        "--box", action="append", default=[], metavar="X,Y,W,H",
        help="a region, in pixels of the image from its top left corner; repeat for several",
    )  # fmt: skip
    add_reading_options(parser)
    add(
        "--detect", action="append", default=[], metavar="STRUCTURE",
        help="ask the model where this is, and answer the question with the box that it writes, in place of --box; "
        "repeat for several. A model trained on the family localise can. What has no box is said and not shown",
    )  # fmt: skip
    add("--question", help='a question, or with --task detect the thing to find ("liver"); --task caption takes none')
    add(
        "--task", choices=get_args(Task), default="answer",
        help="answer the question (default), detect what it names, or caption the image",
    )  # fmt: skip
    add("--language", default="en", help="of the question (default: en)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top-p", type=float, default=1.0, help="nucleus sampling, with a temperature above 0")
    add("--seed", type=int, default=0, help="of sampling")
    add(
        "--max-new-tokens",
        type=whole(1, MOST_NEW_TOKENS),
        metavar="N",
        help="longest answer in tokens (default: the run's)",
    )
    add(
        "--risk", type=float, metavar="R",
        help='withhold unsure answers ("not sure"), so that at most this share, e.g. 0.1, of those given is wrong; by '
        "the checkpoint's calibration, see docs/CONFIDENCE.md",
    )  # fmt: skip
    add("--show-withheld", action="store_true", help="with --risk: print a withheld answer, marked")
    add("--json", action="store_true", help="print one JSON object")
    parser.goes_with("--risk", "--show-withheld")
    parser.goes_with("--box", "--boxes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
