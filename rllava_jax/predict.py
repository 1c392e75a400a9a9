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

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, get_args

from data_pipelines.conditions import DETECTED
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.paths import local_path, path_of
from data_pipelines.images.scan_parts import split_part
from data_pipelines.images.windows import PRESETS, window_of
from data_pipelines.records import Box, Region, Task
from data_pipelines.regions.boxes import box_from_pixels, box_to_pixels
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.inference.calibration import COMMAND, Stop
from rllava_jax.inference.decode import Sampling
from rllava_jax.inference.predictor import Predicted, Predictor


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after an error that the user can mend."""
    options = _parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        _check_task(options)
        if options.max_new_tokens is not None and options.max_new_tokens < 1:
            raise DataError(f"--max-new-tokens {options.max_new_tokens}: is not a length; write 1 or more")
        if not local_path(split_part(options.image)[0], what="--image").is_file():
            raise DataError(f"--image {options.image}: no such file")
        if options.window is not None:
            window_of(options.window, "--window")
        sampling = Sampling(options.temperature, options.top_p)
        predictor = Predictor.load(
            path_of(options.checkpoint),
            step=options.step,
            new_tokens=options.max_new_tokens,
            sampling=sampling,
            window=options.window,
        )
        stop = _stop(predictor, options)
        detections = {name: predictor.detect(options.image, name, seed=options.seed) for name in options.detect}
        regions = _regions(predictor, options.image, options.box)
        regions += [Region(box) for box in detections.values() if box is not None]
        answer = predictor.answer(
            options.image,
            options.question or "",
            regions,
            task=options.task,
            language=options.language,
            seed=options.seed,
        )
        width, height = predictor.image_size(options.image) if detections else (0, 0)
    except (ConfigError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    withheld = stop is not None and not stop.gives(answer.log_prob)
    found = [_as_json(name, box, width, height) for name, box in detections.items()]
    show = _print_json if options.json else _print_text
    show(predictor, answer, stop, options, found, withheld=withheld)
    return 0


def _stop(predictor: Predictor, options: argparse.Namespace) -> Stop | None:
    """Where to stop answering for --risk, before any question is asked."""
    if options.risk is None:
        if options.show_withheld:
            raise ConfigError("--show-withheld: goes with --risk, without which nothing is withheld")
        return None
    calibration = predictor.calibration
    if calibration is None:
        raise ConfigError(
            f"--risk {options.risk:g}: {predictor.checkpoint} has no calibration; fit one on validation questions: "
            f"{COMMAND} {predictor.checkpoint}"
        )
    if reason := predictor.uncalibrated(options.task):
        raise ConfigError(f"--risk {options.risk:g}: the calibration does not hold here, since {reason}")
    return calibration.stop_for(options.risk)


def _print_json(
    predictor: Predictor,
    answer: Predicted,
    stop: Stop | None,
    options: argparse.Namespace,
    found: Sequence[dict[str, Any]],
    *,
    withheld: bool,
) -> None:
    said: dict[str, Any] = {
        "answer": None if withheld and not options.show_withheld else answer.text,
        "confidence": answer.confidence,
        "raw_confidence": answer.raw_confidence,
        "calibrated": answer.is_calibrated,
        "finished": answer.finished,
    }
    if found:
        said["regions"] = found
    if stop is not None and predictor.calibration is not None:
        said |= {"withheld": withheld, "risk": options.risk, "coverage": predictor.calibration.coverage(stop)}
    print(json.dumps(said))


def _print_text(
    predictor: Predictor,
    answer: Predicted,
    stop: Stop | None,
    options: argparse.Namespace,
    found: Sequence[dict[str, Any]],
    *,
    withheld: bool,
) -> None:
    for region in found:
        where = ",".join(f"{number:g}" for number in region["box"] or ())
        print(f"detected {region['structure']}: {where or 'no box in the answer; asked without it'}")
    promise = ""
    if stop is not None and predictor.calibration is not None:
        coverage = predictor.calibration.coverage(stop)
        promise = (
            f"at a risk of at most {100 * options.risk:g} % this model answers {100 * coverage:.0f} % "
            "of validation questions"
        )
    cut = "" if answer.finished else " … (cut; raise --max-new-tokens)"
    if withheld:
        print(f"not sure (confidence {answer.confidence:.2f}; {promise})")
        if options.show_withheld:
            print(f"withheld: {answer.text}{cut}")
        return
    print(answer.text + cut)
    calibrated = f" (calibrated; raw {answer.raw_confidence:.3f})" if answer.is_calibrated else ""
    print(f"confidence {answer.confidence:.3f}{calibrated}")
    if promise:
        print(promise)


def _as_json(structure: str, box: Box | None, width: int, height: int) -> dict[str, Any]:
    """A region that the model was asked to detect; its box, if it wrote one, as `--box` takes it."""
    pixels = None if box is None else [round(number, 1) for number in box_to_pixels(box, width=width, height=height)]
    return {"structure": structure, "box": pixels, "provenance": DETECTED}


def _check_task(options: argparse.Namespace) -> None:
    """Checks that what is asked fits the task, before the checkpoint is read."""
    captions = options.task == "caption"
    if captions and options.question is not None:
        raise DataError("--question: a caption answers none; leave it out, or --task caption")
    if not captions and options.question is None:
        raise DataError("--question: is missing; write a question")
    if not captions and not options.question.strip():
        raise DataError("--question: is empty; write a question")
    if options.detect and (options.task != "answer" or options.box):
        other = "--box" if options.box else f"--task {options.task}"
        raise DataError(f"--detect {options.detect[0]}: marks the region of a question itself; leave {other} out")
    for name in options.detect:
        if not name.strip():
            raise DataError("--detect: is empty; name a structure, e.g. liver")
    if len({name.lower() for name in options.detect}) < len(options.detect):
        raise DataError(f"--detect {', '.join(options.detect)}: names a structure twice; name each once")


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--box -5,0,9,9` as `--box=-5,0,9,9`: argparse takes a value with a leading minus for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--box":
            joined[-1] = f"--box={argument}"
        else:
            joined.append(argument)
    return joined


def _regions(predictor: Predictor, image: str, boxes: Sequence[str]) -> list[Region]:
    width, height = predictor.image_size(image)
    regions = []
    for text in boxes:
        try:
            x, y, w, h = (float(number) for number in text.split(","))
        except ValueError:
            raise DataError(f"--box {text}: is not x,y,w,h; write four numbers, in pixels of {image}") from None
        regions.append(
            Region(box_from_pixels(x, y, w, h, width=width, height=height, where=f"--box {text} on {image}"))
        )
    return regions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rllava_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a run's workdir, an imported model, or a checkpoints/STEP folder; local or gs://",
    )
    parser.add_argument("--step", help="last, best or a number (default: what --checkpoint names, else last)")
    parser.add_argument(
        "--image",
        required=True,
        metavar="FILE",
        help="PNG, JPEG or anything else Pillow reads; DICOM, perhaps with a frame (cine.dcm#frame=3), or a slice of a "
        "NIfTI volume (ct.nii.gz#axis=2,slice=40); see docs/DICOM.md",
    )
    parser.add_argument(
        "--window",
        metavar="NAME",
        help=f"of a DICOM or NIfTI image: auto, minmax, percentile, {', '.join(PRESETS)}, or CENTRE:WIDTH "
        "(default: what the model was trained with)",
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="X,Y,W,H",
        help="a region, in pixels of the image from its top left corner; repeat for several",
    )
    parser.add_argument(
        "--detect",
        action="append",
        default=[],
        metavar="STRUCTURE",
        help="ask the model where this is, and answer the question with the box that it writes, in place of --box; "
        "repeat for several. A model trained on the family localise can. What has no box is said and not shown",
    )
    parser.add_argument(
        "--question",
        help='a question, or with --task detect the thing to find ("liver"); --task caption takes none',
    )
    parser.add_argument(
        "--task",
        choices=get_args(Task),
        default="answer",
        help="answer the question (default), detect what it names, or caption the image",
    )
    parser.add_argument("--language", default="en", help="of the question (default: en)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling, with a temperature above 0")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer in tokens (default: the run's)")
    parser.add_argument(
        "--risk",
        type=float,
        metavar="R",
        help='withhold unsure answers ("not sure"), so that at most this share, e.g. 0.1, of those given is wrong; by '
        "the checkpoint's calibration, see docs/CONFIDENCE.md",
    )
    parser.add_argument("--show-withheld", action="store_true", help="with --risk: print a withheld answer, marked")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
