"""Evaluates a run's model: on validation questions while it trains, on the test split after."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from data_pipelines.core.errors import InvalidSetting
from data_pipelines.images.reading import decode
from rllava_jax.checkpoint import provenance
from rllava_jax.config import Config
from rllava_jax.config.stored import to_json
from rllava_jax.evaluation.confidence.selective import selective_rows
from rllava_jax.evaluation.detected_regions import detected_rows, region_sources
from rllava_jax.evaluation.evaluator import choose_examples, evaluate_examples, not_all
from rllava_jax.evaluation.metrics import CONFIDENCE_METRICS, METRICS, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.results import write_results
from rllava_jax.evaluation.scoring import score
from rllava_jax.inference.calibration import stored_calibration
from rllava_jax.inference.generator import Generator
from rllava_jax.inference.run_data import RunData
from rllava_jax.model.params import Params
from rllava_jax.runtime import hosts

logger = logging.getLogger(__name__)

ReportWriter = Callable[..., object]


def check_best_metric(config: Config) -> None:
    """Checks that validation will give the figure that chooses the best checkpoint.

    Raises:
      ConfigError: its subset has no such metric.
    """
    if config.train.evaluate_every == "never":
        return
    subset, _, metric = config.train.best_metric.split("/")
    known = [name for name in (*metrics_of(subset), *CONFIDENCE_METRICS) if METRICS[name].better == "higher"]
    if metric not in known:
        raise InvalidSetting(
            f"train.best_metric: {config.train.best_metric!r} ends in no metric of {subset}; "
            f"use one of {', '.join(known)}"
        )


def evaluate_run(
    generator: Generator,
    params: Params,
    config: Config,
    data: RunData,
    workdir: Path,
    *,
    step: int,
    command: str,
    write_report: ReportWriter,
) -> Path:
    """Evaluates the test split and writes `eval/STEP/`: metrics.json, predictions.jsonl, report.html.

    Where it is evaluated otherwise than the run was started with (other families, conditions …), the results go to
    `eval/STEP-HASH/`, so that the run's own stay.

    Args:
      write_report: `report.run_report.write_report`, which stands above this layer.

    Returns:
      The folder.
    """
    asked = to_json(config)["evaluation"]
    suffix = ""
    if asked != provenance.stored_config(workdir)["evaluation"]:
        suffix = "-" + hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    folder = workdir / "eval" / f"{step}{suffix}"
    facts = {"command": command, "seed": config.seed, "step": step}
    evaluate_test(
        generator,
        params,
        config,
        data,
        workdir / "checkpoints" / str(step),
        folder,
        title=f"{workdir.name}, step {step}",
        run=facts | provenance.describe(config, provenance.started_from(workdir)),
        write_report=write_report,
    )
    # Hosts that end while the first one still writes would count as lost, or wait for it in JAX's short shutdown.
    hosts.barrier("results written")
    return folder


def evaluate_test(
    generator: Generator,
    params: Params,
    config: Config,
    data: RunData,
    checkpoint: Path,
    folder: Path,
    *,
    title: str,
    run: Mapping[str, Any],
    write_report: ReportWriter,
) -> None:
    """Evaluates the test split; the first host writes metrics.json, predictions.jsonl and report.html to `folder`.

    Args:
      config: its seed is that of the resampling.
      checkpoint: the checkpoints/STEP folder; if it has a calibration, rows tell how that held.
      title, run: as `report.run_report.write_report`, which is
      write_report: given, because it stands above this layer.
    """
    settings = config.evaluation
    calibration = stored_calibration(checkpoint)  # a damaged one is told before the work
    examples = choose_examples(data.test, settings.families, most=settings.max_examples)
    if part := not_all(data.test, settings.families, most=settings.max_examples):
        run = {**run, "questions evaluated": f"{part}, drawn by id (evaluation.max_examples)"}
        logger.warning(
            "evaluates %s (evaluation.max_examples is %d); --config.evaluation.max_examples=0, or --max-examples 0 "
            "beside --checkpoint, evaluates all",
            part, settings.max_examples,
        )  # fmt: skip
    predictions = evaluate_examples(
        generator, params, data.preprocessor, examples, settings, split=data.test, progress=config.data.test_split
    )
    if jax.process_index():
        return
    rows = score(predictions, bootstrap=settings.bootstrap, seed=config.seed)
    rows += detected_rows(predictions, bootstrap=settings.bootstrap, seed=config.seed)
    if calibration is not None:
        rows += selective_rows(predictions, calibration, bootstrap=settings.bootstrap, seed=config.seed)
    write_results(folder, rows, predictions)
    images = {example.id: example.image for example in data.test}

    def image(prediction: Prediction) -> Image.Image:
        return Image.fromarray(
            decode(images[prediction.id], prediction.id, config.data.window, config.data.max_image_pixels)
        )

    write_report(
        folder / "report.html",
        title=title,
        rows=rows,
        predictions=predictions,
        images=image,
        run={**run, "questions left out": data.left_out or "none", "regions come from": region_sources(predictions)},
        gallery=settings.gallery,
    )


def validation_figures(
    generator: Generator, config: Config, data: RunData, workdir: Path, params: Params, step: int
) -> Mapping[str, float]:
    """Scores at most `evaluation.during_examples` validation questions of each family.

    Rows and predictions go to `eval/STEP-validation/`.

    Returns:
      "subset/condition/metric" → value, from which `train.best_metric` picks.
    """
    settings = dataclasses.replace(config.evaluation, bootstrap=0)
    examples = choose_examples(data.validation, settings.families, most=settings.during_examples)
    predictions = evaluate_examples(generator, params, data.preprocessor, examples, settings, split=data.validation)
    rows = score(predictions, bootstrap=0, seed=config.seed)
    if jax.process_index() == 0:
        write_results(workdir / "eval" / f"{step}-validation", rows, predictions)
    return {f"{row['subset']}/{row['condition']}/{row['metric']}": float(row["value"]) for row in rows}
