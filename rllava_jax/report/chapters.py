"""The chapters of a run's report, each as the data that its macro in `templates/chapters.html` takes.

A chapter is None where nothing of it was evaluated.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, DETECTED, LEVELS, TRUST
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.confidence.calibration import reliability, reliability_equal_mass, risk_coverage
from rllava_jax.evaluation.detected_regions import NO_BOX, TOO_MANY
from rllava_jax.evaluation.metrics import CONDITIONS, DETECTED_CONTRASTS, HEADLINE, Row, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.report.line_plots import TrustPoints, corruption_plot, dot_plot, trust_plot
from rllava_jax.report.names import condition_name, subset_name
from rllava_jax.report.plots import reliability_plot, risk_coverage_plot
from rllava_jax.report.tables import Cell, PageTable, RowIndex, Tile, calibration_table, score_table, value_cell

# Scores that others have published, of other models under other protocols, to stand beside a run's own. Fine-tuned on
# each data set's training split. "Open" is token recall, "closed" accuracy over all closed questions. The evaluators
# behind such numbers differ from each other, and some count a repeated word of the answer again and again, which can
# only raise recall (docs/REPORT.md).
_LLAVA_MED = "Li et al. 2023, LLaVA-Med (arXiv 2306.00890)"
_LLAVA_TRI = "Xie et al. 2024, MedTrinity-25M (arXiv 2408.02900)"
_MODELS = (
    ("LLaVA", _LLAVA_MED),
    ("LLaVA-Med (from LLaVA)", _LLAVA_MED),
    ("LLaVA-Med (from Vicuna)", _LLAVA_MED),
    ("LLaVA-Med (BiomedCLIP)", _LLAVA_MED),
    ("LLaVA-Tri", _LLAVA_TRI),
)
# Of each model in this order: open recall and closed accuracy, in percent as printed.
PUBLISHED = {
    "vqa_rad": ((50.00, 65.07), (61.52, 84.19), (64.39, 81.98), (64.75, 83.09), (65.1, 84.9)),
    "slake": ((78.18, 63.22), (83.08, 85.34), (84.71, 83.17), (87.11, 86.78), (86.4, 89.2)),
    "path_vqa": ((7.74, 63.20), (37.95, 91.21), (38.87, 91.65), (39.60, 91.09), (37.9, 92.7)),
}
_OWN = {"none": "This run, no region shown", "right": "This run, right region where there is one"}
_CONTROLLED = (*HEADLINE, "answer_type=closed", "answer_type=open")
_WITHOUT_IMAGE = ("right", "none", "blank", *CONTROLS)
_DETECTED = ("has_region=yes", "family=vqa", "answer_type=closed", "answer_type=open")
_BY_TYPE = {
    "answer_type=": ("By answer type", "Closed: normalised equality over all closed questions"),
    "content_type=": ("By content type", "Accuracy (normalised equality, open and closed together)"),
    "modality=": ("By modality", "Accuracy (normalised equality, open and closed together)"),
}
# The figures of the region trust benchmark.
_TRUST_FIGURES = {
    "trust_score": ("Trust score", "of both together; docs/TRUST.md"),
    "use": ("Use of a right box", "of what is wrong without a box, the share that it fixes"),
    "resistance": ("Resistance to a wrong box", "of what is right without a box, the share that stays right"),
}
# Columns of the table, where the rows have them.
_TRUST_COLUMNS = {
    "accuracy": "Accuracy",
    "lost": "Right answers lost",
    "followed": "Wrong hint followed",
    "followed_anyway": "Answered so anyway",
    "confidence": "Mean confidence",
    "ece_equal_mass": "ECE",
    "confident_errors": "Sure and wrong",
}
_TRUST_CAPTION = (
    "In percent, with 95 % intervals. Lost: of the answers right with the right box. Followed: answers what the wrong "
    "hint implies, where the annotations tell what that is. ECE: bins of equal mass. Sure and wrong: confidence of 0.9 "
    "or more"
)
_FAMILIES = ("family=vqa", "family=identify", "family=verify", "family=choose")
_TWO_HINTS = ("trust:two", "trust:contradicted")  # where one IoU does not say what was shown


def published(dataset: str, index: RowIndex) -> dict[str, Any] | None:
    """This run's open and closed scores above the published ones; None where either is missing."""
    lines = []
    for condition, name in _OWN.items():
        opened = index.get(("answer_type=open", condition, "recall"))
        closed = index.get(("answer_type=closed", condition, "accuracy"))
        if opened or closed:
            cells = (value_cell(row, own_n=True)._replace(mark="clear") for row in (opened, closed))
            lines.append([Cell(name, mark="clear"), Cell("this page", mark="source"), *cells])
    if dataset not in PUBLISHED or not lines:
        return None
    lines.append([Cell("Other models, under other protocols")])
    for (model, source), scores in zip(_MODELS, PUBLISHED[dataset], strict=True):
        lines.append([Cell(model), Cell(source, mark="source"), *(Cell(f"{score:.1f}") for score in scores)])
    heads = ("Model", "Source", "Open, token recall", "Closed, accuracy")
    return {"table": PageTable("In percent; intervals were not published", [*map(Cell, heads)], lines)}


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
    if not kinds:
        return None
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
    return {**counts, "iou": index.get((_DETECTED[0], DETECTED, "box_iou")), "table": table}


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


def trust_curves(runs: Mapping[str, RowIndex]) -> Markup | None:
    """The trust curve of each run in one plot; None where none has a point."""
    points = {name: found for name, index in runs.items() if (found := _trust_points(index))}
    plain = {name: index.get(("all", "trust:none", "accuracy")) for name, index in runs.items()}
    return trust_plot(points, {name: row["value"] for name, row in plain.items() if row}) if points else None


def _trust_points(index: RowIndex) -> TrustPoints:
    """Of the trust curve; the right box ends every curve."""
    points: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for variant in TRUST:
        overlap, row = index.get(("all", variant, "iou")), index.get(("all", variant, "accuracy"))
        if overlap is None or row is None or variant in _TWO_HINTS:
            continue
        name = variant.split(":")[1]
        curves = {"right": ("shifted", "scaled"), "shifted": ("shifted",), "scaled": ("scaled",)}.get(name, ("",))
        for curve in curves:
            points[curve].append((overlap["value"], row))
    return points


def trust_benchmark(index: RowIndex) -> dict[str, Any]:
    """The benchmark's figures, the trust curve, every variant beside it, and their table; no figures without rows."""
    held = [v for v in TRUST if ("all", v, "accuracy") in index]
    if not held:
        return {"figures": ()}
    dots = dot_plot(
        {condition_name(v): {"right": index["all", v, "accuracy"]} for v in held},
        "Dot plot of accuracy under each variant of the box, with 95 % intervals",
    )
    figures = [
        (
            trust_curves({"this run": index}),
            "Trust curve. Below the dotted line, the box costs answers that the image alone would have given.",
        ),
        (dots, "Every variant, with 95 % intervals."),
    ]
    tables = [(s, [v for v in held if (s, v, "accuracy") in index]) for s in _FAMILIES]
    return {
        "tiles": [
            Tile(name, row, meaning=meaning)
            for metric, (name, meaning) in _TRUST_FIGURES.items()
            if (row := index.get(("all", "trust", metric)))
        ],
        "figures": [figure for figure in figures if figure[0]],
        "table": _trust_table(index, "all", held),
        "families": [(subset_name(s), _trust_table(index, s, variants)) for s, variants in tables if variants],
    }


def _trust_table(index: RowIndex, subset: str, variants: Sequence[str]) -> PageTable:
    metrics = [m for m in _TRUST_COLUMNS if any((subset, v, m) in index for v in variants)]
    lines = []
    for v in variants:
        overlap = index.get((subset, v, "iou"))
        shown = f"{overlap['value']:.2f}" if overlap and v not in _TWO_HINTS else "–"
        cells = (value_cell(index.get((subset, v, m))) for m in metrics)
        lines.append([Cell(condition_name(v)), Cell(shown), Cell(f"{index[subset, v, 'accuracy']['n']:,}"), *cells])
    heads = ["Shown", "Mean IoU", "n", *(_TRUST_COLUMNS[m] for m in metrics)]
    return PageTable(_TRUST_CAPTION, [*map(Cell, heads)], lines)
