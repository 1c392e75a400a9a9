"""The page of a run of the benchmark: its figures, curve and examples."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rllava_jax.evaluation.metrics import Row
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.trust.boxes_file import BoxesFile
from rllava_jax.evaluation.trust.images import images_of
from rllava_jax.evaluation.trust.run import Run
from rllava_jax.report.run_report import write_report
from rllava_jax.runtime.workdirs import workdir_of

REPORT_FILE = "report.html"


def write_trust_report(
    path: Path,
    boxes: BoxesFile,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    *,
    root: str,
    run: Run,
    gallery: int,
) -> Path:
    """Writes the page, whole or not at all, and returns its path.

    Args:
      root: of the data set's files, for the examples' images.
      gallery: at most so many examples.

    Raises:
      DataError: the data under `root` is not that of the boxes.
    """
    image_of = images_of(boxes, root)
    questions = {question.id: question for question in boxes.questions}

    def image(prediction: Prediction) -> Image.Image:
        return image_of(questions[prediction.id])

    facts = {**run.model, "boxes, sha256": boxes.sha256, "most regions": run.most_regions}
    write_report(
        path, title=title(run), rows=(), predictions=predictions, images=image, run=facts, gallery=gallery, trust=rows
    )
    return path


def title(run: Run) -> str:
    """What the page is called: after the run's folder and step, or the function."""
    if "checkpoint" not in run.model:
        return f"Region trust: {', '.join(str(value) for value in run.model.values())}"
    return f"Region trust: {workdir_of(Path(run.model['checkpoint'])).name}, step {run.model['step']}"
