"""Fits a checkpoint's confidence to how often it is right, on validation questions, and stores that with it.

    python -m rllava_jax.calibrate --checkpoint runs/slake_tiny --config.data.root=DIR
    python -m rllava_jax.calibrate --checkpoint runs/slake_tiny --predictions runs/slake_tiny/eval/4800-validation

The first line asks the validation split, with the right region shown where a question has one, and keeps the answers
in eval/STEP-calibration; the second takes answers that were written before. Then `python -m rllava_jax.predict` prints
calibrated confidence, and withholds answers with --risk; evaluations of the checkpoint report whether it holds. See
docs/CONFIDENCE.md. Settings of `data` and `evaluation` can be given as --config.SECTION.FIELD=VALUE.
"""

import argparse
import dataclasses
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.calibrate")

import jax
import numpy as np

from data_pipelines.core.command_line import Parser, file_or_folder, run_command
from data_pipelines.core.errors import ConfigError, DataError, InvalidOption, InvalidOverride, MissingFile, NoExamples
from data_pipelines.core.paths import absolute, path_of
from data_pipelines.loading.checks import check_leaks, check_lengths, verify_images
from data_pipelines.loading.examples import load_examples
from data_pipelines.settings import Condition
from rllava_jax import __version__
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config
from rllava_jax.config.loading import OVERRIDE_PREFIX, validated
from rllava_jax.evaluation.confidence.risk_bounds import stops
from rllava_jax.evaluation.confidence.selective import log_prob_and_correctness, selective_rows
from rllava_jax.evaluation.confidence.temperature import check_enough, fit_with_intervals, held_out_confidence, quality
from rllava_jax.evaluation.evaluator import choose_examples, evaluate_examples, not_all
from rllava_jax.evaluation.predictions import Prediction, by_key, read_predictions
from rllava_jax.evaluation.results import markdown_table, write_results
from rllava_jax.evaluation.scoring import score
from rllava_jax.inference.calibration import Calibration, Estimate, write_calibration
from rllava_jax.inference.predictor import Predictor
from rllava_jax.inference.run_data import training_examples

CONDITION: Condition = "right"  # what a user does who marks the region that the question is about
FAILURE_CHANCE = 0.05
_SETTINGS = tuple(f"{OVERRIDE_PREFIX}{section}." for section in ("data", "evaluation"))

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, argv, level=logging.INFO)


def _work(options: argparse.Namespace) -> None:
    risks = _risks(options.target_risk)
    for override in options.overrides:
        if not override.startswith(_SETTINGS):
            raise InvalidOverride(
                f"{override}: only settings of data and evaluation can be given; the others are the run's"
            )
    stored = OpenedCheckpoint.open(path_of(options.checkpoint), options.step)
    stored = dataclasses.replace(stored, config=validated(stored.config, options.overrides, where=str(stored.where)))
    config = stored.config
    # Read before anything is asked or written, so that a wrong file costs no time.
    test = _read(options.test_predictions, stored.step) if options.test_predictions else []
    predictions = _read(options.predictions, stored.step) if options.predictions else _ask(stored)
    held = validation_predictions(predictions, config, where=options.predictions or str(_asked(stored)))
    if test:
        _check_apart(test, held, options.test_predictions)
    calibration = calibrate(held, stored, target_risks=risks)
    path = write_calibration(stored.where, calibration)
    print(summary(calibration))
    if test:
        found = selective_rows(test, calibration, bootstrap=config.evaluation.bootstrap, seed=config.seed)
        print(f"\nOn {options.test_predictions}, in percent:\n\n{markdown_table(found, conditions=())}")
    print(f"written: {path}")


def calibrate(
    predictions: Sequence[Prediction], stored: OpenedCheckpoint, *, target_risks: Sequence[float]
) -> Calibration:
    """Fits the confidence of validation predictions, and measures it by cross-validation over images.

    Raises:
      DataError: too few questions, images, right or wrong answers, or a confidence that tells nothing.
    """
    log_prob, correct = log_prob_and_correctness(predictions)
    images = [p.image_id for p in predictions]
    config = stored.config
    first, resamples, seed = predictions[0], config.evaluation.bootstrap, config.seed
    where = f"{first.dataset} {first.split}"
    check_enough(correct, images, where=where)
    temperature, bias = fit_with_intervals(log_prob, correct, images, resamples=resamples, seed=seed, where=where)
    raw = [p.confidence for p in predictions]
    before, after = (
        quality(confidence, correct, images, resamples=resamples, seed=seed)
        for confidence in (np.array(raw), held_out_confidence(log_prob, correct, images, seed=seed))
    )
    return Calibration(
        temperature=temperature,
        bias=bias,
        stops=stops(
            log_prob, correct, images, temperature=temperature.value, bias=bias.value, failure_chance=FAILURE_CHANCE
        ),
        target_risks=tuple(target_risks),
        questions=len(predictions),
        images=len(set(images)),
        accuracy=float(correct.mean()),
        dataset=first.dataset,
        split=first.split,
        condition=CONDITION,
        families=tuple(dict.fromkeys(p.family for p in predictions)),
        before=before,
        after=after,
        failure_chance=FAILURE_CHANCE,
        max_new_tokens=config.evaluation.max_new_tokens,
        made_by={
            "run": stored.workdir.name,
            "step": stored.step,
            "seed": seed,
            "bootstrap": resamples,
            "revision": provenance.revision(),
            "rllava_jax": __version__,
        },
    )


def validation_predictions(predictions: Sequence[Prediction], config: Config, *, where: str) -> list[Prediction]:
    """Those under the right region, if all are of one split that the model was neither trained nor is tested on.

    Raises:
      DataError: they are not; or a question is there twice, or none.
    """
    splits = sorted({(p.dataset, p.split) for p in predictions})
    named = ", ".join(" ".join(pair) for pair in splits) or "none"
    if len(splits) != 1:
        raise DataError(
            f"{where}: holds predictions of {named}; calibrate on those of one validation split",
            code="calibration.wrong-split",
        )
    _check_split(splits[0][1], config, where=f"{where}: holds predictions of {named}")
    held = [p for p in predictions if p.condition == CONDITION]
    if not held:
        raise NoExamples(
            f"{where}: has no prediction under the condition {CONDITION!r}, on which calibration is fitted"
        )
    return list(by_key(held, where=f"{where}: ").values())


def _check_split(split: str, config: Config, *, where: str) -> None:
    if split in (config.data.test_split, config.data.train_split) or split.startswith(("test", "train")):
        raise DataError(
            f"{where}; a calibration is fitted on validation questions only: the model is surer of those that it was "
            "trained on, and those that it is tested on are to say whether the calibration holds",
            code="calibration.wrong-split",
        )


def summary(calibration: Calibration) -> str:
    """What was fitted, and what can be promised, for a person to read."""
    c = calibration
    lines = [
        f"{c.questions:,} questions of {c.dataset} {c.split} on {c.images} images, families {', '.join(c.families)}; "
        f"accuracy {c.accuracy:.3f}",
        f"temperature {_said(c.temperature)}, bias {_said(c.bias)}",
        "",
        f"{'':<16}{'raw':<24}calibrated (each image by a fit to others)",
        *(f"{name:<16}{_said(c.before[name]):<24}{_said(c.after[name])}" for name in c.before),
        "",
        f"Risks that can be promised, each with a chance of {1 - c.failure_chance:.0%} for all of them at once:",
    ]
    for risk in c.target_risks:
        stop = c.stop_at(risk)
        if stop is None:
            lowest = min(stop.risk_bound for stop in c.stops)
            lines.append(f"  {risk:.2f}  cannot be promised; the lowest that can is {lowest:.3f}")
        else:
            lines.append(
                f"  {risk:.2f}  above confidence {stop.confidence:.3f}: {c.coverage(stop):.0%} of the questions are "
                f"answered, {stop.wrong} of {stop.answered} wrongly (at most {stop.risk_bound:.3f})"
            )
    return "\n".join(lines)


def _said(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def _risks(text: str) -> tuple[float, ...]:
    try:
        risks = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidOption(f"--target-risk {text}: is no list of numbers; write e.g. 0.05,0.1") from None
    if not all(0 < risk < 1 for risk in risks):
        raise InvalidOption(f"--target-risk {text}: a risk is a share of wrong answers, above 0 and below 1")
    return tuple(sorted(set(risks)))


def _asked(stored: OpenedCheckpoint) -> Path:
    return stored.workdir / "eval" / f"{stored.step}-calibration"


def _ask(stored: OpenedCheckpoint) -> list[Prediction]:
    """Asks the validation split under the right region, and keeps the answers in the workdir."""
    config = stored.config
    data, split = config.data, config.data.validation_split
    if not split:
        raise ConfigError(
            "data.validation_split: the run has none; name one with --config.data.validation_split=NAME, or give its "
            "--predictions",
            code="config.missing-field",
        )
    _check_split(split, config, where=f"data.validation_split: is {split!r}")
    predictor = Predictor.load(stored, new_tokens=config.evaluation.max_new_tokens)
    loaded = load_examples(data, split, seed=config.seed, max_regions=config.regions.max_regions)
    settings = dataclasses.replace(config.evaluation, conditions=(CONDITION,))
    examples = choose_examples(loaded, settings.families, most=settings.max_examples)
    if part := not_all(loaded, settings.families, most=settings.max_examples):
        logger.warning(
            "evaluates %s of %s (evaluation.max_examples is %d); --config.evaluation.max_examples=0 evaluates all",
            part, split, settings.max_examples,
        )  # fmt: skip
    check_lengths(examples, predictor.preprocessor, answers=False)
    examples = verify_images(examples, predictor.preprocessor, allowed=data.corrupt_images_allowed)
    if data.source == predictor.config.data.source:  # elsewhere the run's own training images may not be at hand
        check_leaks(
            training_examples(config), examples, allowed=data.allow_test_images_in_training, held_out="validation"
        )
    logger.info("%d questions of %s", len(examples), split)
    predictions = evaluate_examples(
        predictor.generator, predictor.params, predictor.preprocessor, examples, settings, progress=split
    )
    if jax.process_index() == 0:
        write_results(_asked(stored), score(predictions, bootstrap=0, seed=config.seed), predictions)
    return predictions


def _read(name: str, wanted: int) -> list[Prediction]:
    """Predictions of a file, or of the eval folder that holds one, if it is not one of another step."""
    path = path_of(name)
    path = path / "predictions.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise MissingFile(f"{path}: no such file; give a predictions.jsonl or the eval folder that holds one")
    step = re.match(r"(\d+)(-|$)", absolute(path).parent.name)
    if step and absolute(path).parent.parent.name == "eval" and int(step[1]) != wanted:
        raise DataError(
            f"{path}: is of step {step[1]}, the checkpoint of step {wanted}; give the same step",
            code="calibration.conflict",
        )
    return read_predictions(path)


def _check_apart(test: Sequence[Prediction], held: Sequence[Prediction], name: str) -> None:
    """Refuses test predictions on images of the calibration."""
    images = {(p.dataset, p.image_id) for p in test}
    shared = images & {(p.dataset, p.image_id) for p in held}
    if shared:
        raise DataError(
            f"--test-predictions {name}: {len(shared)} of its {len(images)} images were calibrated on; "
            "give those of a split of other images",
            code="calibration.wrong-split",
        )


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.calibrate", description=__doc__, overrides=OVERRIDE_PREFIX)
    parser.add_argument(
        "--checkpoint", required=True, type=file_or_folder, metavar="DIR",
        help="a run's workdir, or a checkpoints/STEP folder; local or gs://",
    )  # fmt: skip
    parser.add_argument("--step", help="last, best or a number (default: what --checkpoint names, else last)")
    parser.add_argument(
        "--predictions", type=file_or_folder, metavar="FILE",
        help="a predictions.jsonl of this checkpoint on validation questions, or its folder (default: ask them)",
    )  # fmt: skip
    parser.add_argument(
        "--target-risk", default="0.05,0.1,0.2", metavar="R,R",
        help="shares of wrong answers that evaluations of the checkpoint report coverage at (default: 0.05,0.1,0.2)",
    )  # fmt: skip
    parser.add_argument(
        "--test-predictions", type=file_or_folder, metavar="FILE",
        help="a predictions.jsonl of this checkpoint on test questions, or its folder: print how the calibration held",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
