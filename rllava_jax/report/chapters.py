"""The smaller chapters of a run's report, each as the data that its macro in `templates/chapters.html` takes.

A chapter is None where nothing of it was evaluated.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, DETECTED, LEVELS
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.confidence.calibration import reliability, risk_coverage
from rllava_jax.evaluation.confidence.equal_mass import reliability_equal_mass
from rllava_jax.evaluation.detected_regions import NO_BOX, TOO_MANY
from rllava_jax.evaluation.metrics import CONDITIONS, DETECTED_CONTRASTS, Row, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.subsets import HEADLINE
from rllava_jax.report.line_plots import corruption_plot, dot_plot
from rllava_jax.report.names import subset_name
from rllava_jax.report.plots import reliability_plot, risk_coverage_plot
from rllava_jax.report.tables import RowIndex, calibration_table, score_table
from rllava_jax.report.trust import trust_benchmark

_CONTROLLED = (*HEADLINE, "answer_type=closed", "answer_type=open")
_WITHOUT_IMAGE = ("right", "none", "blank", *CONTROLS)
_DETECTED = ("has_region=yes", "family=vqa", "answer_type=closed", "answer_type=open")
_BY_TYPE = {
    "answer_type=": ("By answer type", "Closed: normalised equality over all closed questions"),
    "content_type=": ("By content type", "Accuracy (normalised equality, open and closed together)"),
    "modality=": ("By modality", "Accuracy (normalised equality, open and closed together)"),
}


def controls(index: RowIndex) -> dict[str, Any] | None:
    """A table of the controls and a plot of the corruptions."""
    found: dict[str, Any] = {"controls": None, "curves": None}
    if any(condition in CONTROLS for _, condition, _ in index):
        caption = "Accuracy in percent without the image, or with one that is not the question’s; 95 % intervals"
        found["controls"] = score_table(caption, index, _CONTROLLED, conditions=_WITHOUT_IMAGE, pairs=())
    if held := [s for s in ("all", *HEADLINE) if _corrupted(index, s)]:
        curves, shown = _corrupted(index, held[0]), index.get((held[0], "right", metrics_of(held[0])[0]))
        strongest = ["right", *(f"corrupted:{kind}:{max(levels)}" for kind, levels in curves.items())]
        caption = "Accuracy in percent at the greatest strength, with 95 % intervals"
        found |= {
            "curves": corruption_plot(curves, shown),
            "subset": subset_name(held[0]),
            "strongest": score_table(caption, index, held, conditions=strongest, pairs=()),
        }
    return found if any(found.values()) else None


def _corrupted(index: RowIndex, subset: str) -> dict[str, dict[int, Row]]:
    """Kind → strength → accuracy."""
    metric = metrics_of(subset)[0]
    found = {
        kind: {level: row for level in LEVELS if (row := index.get((subset, f"corrupted:{kind}:{level}", metric)))}
        for kind in CORRUPTIONS
    }
    return {kind: levels for kind, levels in found.items() if levels}


def detected(index: RowIndex, predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Accuracy with the right region, none, and the one that the model found."""
    kinds = Counter(p.shown_kind for p in predictions if p.condition == DETECTED)
    table = score_table(
        "Accuracy in percent, with 95 % intervals; differences are taken question by question",
        index,
        [s for s in _DETECTED if (s, DETECTED, metrics_of(s)[0]) in index],
        conditions=("right", "none", DETECTED),
        pairs=DETECTED_CONTRASTS,
        main_metric_only=True,
    )
    counts = {"total": kinds.total(), "own": kinds[DETECTED], "no_box": kinds[NO_BOX], "too_many": kinds[TOO_MANY]}
    counts["named"] = kinds.total() - kinds["none"]
    return {**counts, "iou": index.get((_DETECTED[0], DETECTED, "box_iou")), "table": table} if kinds else None


def wrong_boxes(index: RowIndex) -> dict[str, Any] | None:
    """The trust benchmark, and the kinds of wrong region that an evaluation shows."""
    kinds = score_table(
        "Accuracy in percent by kind of wrong region, with 95 % intervals",
        index,
        [s for s in HEADLINE if s != "family=vqa"],  # whose questions without a region show no wrong one
        conditions=sorted({condition for _, condition, _ in index if condition.startswith("wrong:")}),
        pairs=(),
        main_metric_only=True,
    )
    benchmark = trust_benchmark(index)
    return {**benchmark, "kinds": kinds} if kinds or benchmark["figures"] else None


def ordinary(index: RowIndex) -> dict[str, Any] | None:
    """Questions of the data set itself, by type."""
    figures, tables = [], []
    for prefix, (heading, caption) in _BY_TYPE.items():
        sizes = {subset: row["n"] for (subset, _, _), row in index.items() if subset.startswith(prefix)}
        subsets = sorted(sizes, key=lambda subset: -sizes[subset])
        groups = {}
        for subset in subsets:
            held = {c: row for c in CONDITIONS if (row := index.get((subset, c, metrics_of(subset)[0])))}
            if held:
                groups[f"{subset_name(subset)} ({max(row['n'] for row in held.values()):,})"] = held
        if groups:
            plot = dot_plot(groups, f"Dot plot of accuracy {heading.lower()}, with 95 % intervals")
            figures.append((plot, f"{heading}, with the number of questions. {caption}."))
            tables.append((f"{heading}: the numbers", score_table(f"{heading}. {caption}", index, subsets)))
    return {"figures": figures, "tables": tables} if figures else None


def confidence(index: RowIndex, predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Reliability, risk and coverage, and the calibration metrics."""
    pairs = {}
    for condition in CONDITIONS:
        if held := [p for p in predictions if p.condition == condition]:
            correct = np.array([is_right(p) for p in held], dtype=float)
            pairs[condition] = np.array([p.confidence for p in held], dtype=float), correct
    if not pairs:
        return None
    equal_mass = {c: reliability_equal_mass(*pair) for c, pair in pairs.items()}
    caption = "Confidence is the probability of the decoded answer. ECE and Brier: lower is better; AUROC: 50 is chance"
    return {
        "reliability": reliability_plot({c: reliability(*pair) for c, pair in pairs.items()}),
        "equal_mass": reliability_plot(equal_mass, bins_of="equal mass"),
        "risk_coverage": risk_coverage_plot({c: risk_coverage(*pair) for c, pair in pairs.items()}),
        "table": calibration_table(caption, index, ["all"]),
        "families": calibration_table(caption, index, HEADLINE),
    }
