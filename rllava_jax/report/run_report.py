"""The report of an evaluation: one HTML page that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.conditions import CONTROLS
from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.paths import path_of
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.confidence.calibration import reliability, risk_coverage
from rllava_jax.evaluation.confidence.equal_mass import reliability_equal_mass
from rllava_jax.evaluation.metrics import CONDITIONS, Row, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.subsets import HEADLINE
from rllava_jax.report.cards import Album, example_card, gallery
from rllava_jax.report.controls import controls
from rllava_jax.report.detected import detected
from rllava_jax.report.gallery import ImageOf, cases_of, choose_chapters, worst_first
from rllava_jax.report.line_plots import dot_plot
from rllava_jax.report.names import condition_name, percent, row_interval, subset_name
from rllava_jax.report.page import Section, page_html
from rllava_jax.report.plots import reliability_plot, risk_coverage_plot
from rllava_jax.report.published import published
from rllava_jax.report.summary import headline_bars
from rllava_jax.report.tables import RowIndex, calibration_table, flat, index_of, score_table, tile
from rllava_jax.report.trust import trust_benchmark

_BY_TYPE = {
    "answer_type=": ("By answer type", "Closed: normalised equality over all closed questions"),
    "content_type=": ("By content type", "Accuracy (normalised equality, open and closed together)"),
    "modality=": ("By modality", "Accuracy (normalised equality, open and closed together)"),
}


def write_report(
    path: str | Path,
    *,
    title: str,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    images: ImageOf,
    run: Mapping[str, object],
    gallery: int = 24,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      title: what was evaluated, e.g. "slake_tiny, step 3000".
      rows: of `scoring.score` over the same predictions, of the region trust benchmark (`trust_rows`), or both.
      images: the image of a prediction, decoded or as encoded bytes; an ImageError it raises is shown in its place.
      run: what makes the result reproducible: command, seed, configuration, versions; nested mappings are unfolded.
      gallery: at most so many example questions; with each image embedded once, they bound the size of the page.
    """
    groups = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows))
    sections = []
    for number, (dataset, split) in enumerate(groups):
        suffix = f": {dataset}, {split} split" if len(groups) > 1 else ""
        index = index_of(rows, dataset, split)
        held = [p for p in predictions if (p.dataset, p.split) == (dataset, split)]
        sections += [
            Section(chapter, heading + suffix, data, number)
            for chapter, heading, data in (
                ("region", "Does the region help, and is it trusted too much?", _headline(index)),
                ("published", "Beside published results", published(dataset, index)),
                ("trust", "What does a wrong box do?", _wrong_boxes(index)),
                ("image", "Is the image read?", controls(index)),
                ("detected", "With the region that the model finds itself", detected(index, held)),
                ("ordinary", "Ordinary questions", _ordinary(index)),
                ("confidence", "Does the confidence mean what it says?", _calibration(index, held)),
            )
        ]
    album = Album(images)
    sections.append(Section("examples", "Examples", _examples(predictions, album, gallery)))
    sections.append(Section("run", "The run", _run(run)))
    scope = _scope(predictions)
    page = page_html(eyebrow="Evaluation report", title=title, scope=scope, sections=sections, images=album.images)
    write_atomically(path_of(path), page)


def _scope(predictions: Sequence[Prediction]) -> str:
    names = dict.fromkeys(f"{p.dataset}, {p.split} split" for p in predictions)
    questions = len({(p.dataset, p.split, p.id) for p in predictions})
    images = len({(p.dataset, p.image_id) for p in predictions})
    conditions = {p.condition for p in predictions}
    said = [condition_name(c).lower() for c in (*CONDITIONS, *CONTROLS) if c in conditions]
    for prefix, name in (("corrupted:", "corruptions of the image"), ("trust:", "variants of the box")):
        if count := sum(condition.startswith(prefix) for condition in conditions):
            said.append(f"{count} {name}")
    return f"{'; '.join(names)}. {questions:,} questions about {images:,} images, evaluated under: {', '.join(said)}."


def _headline(index: RowIndex) -> dict[str, Any] | None:
    subsets = [s for s in HEADLINE if any((s, c, metrics_of(s)[0]) in index for c in CONDITIONS)]
    if not subsets:
        return None
    metric = metrics_of(subsets[0])[0]
    shown = {c: row for c in CONDITIONS if (row := index.get((subsets[0], c, metric)))}
    return {
        "finding": _finding(index, subsets[0]),
        "title": subset_name(subsets[0]),
        "tiles": [tile(condition_name(c), row, mark=c) for c, row in shown.items()],
        "bars": headline_bars(list(index.values()), subsets),
        "table": score_table(
            "Accuracy in percent, with 95 % intervals. Differences are taken question by question; bold where the "
            "interval leaves zero out.",
            index,
            subsets,
        ),
    }


def _finding(index: RowIndex, subset: str) -> str:
    """One sentence a page could be quoted by, made from the rows alone."""
    metric = metrics_of(subset)[0]
    gain, loss, blank = (index.get((subset, pair, metric)) for pair in ("right-none", "none-wrong", "right-blank"))
    sentences = []
    if gain:
        verb = "raises" if gain["value"] > 0 else "lowers" if gain["value"] < 0 else "leaves unchanged"
        sentences.append(
            f"Over {gain['n']:,} questions of the group “{subset_name(subset)}”, the right region {verb} accuracy by "
            f"{percent(abs(gain['value']))} points ({_certainty(gain)})."
        )
    if loss:
        verb = "costs" if loss["value"] > 0 else "gains"
        points = f"{percent(abs(loss['value']))} points"
        sentences.append(f"A wrong region {verb} {points} against no region ({_certainty(loss)}).")
    if blank:
        sentences.append(
            f"A blank image with the right region named loses {percent(blank['value'])} points of it "
            f"({_certainty(blank)}): so much is read from the pixels."
        )
    return " ".join(sentences)


def _certainty(row: Row) -> str:
    """The interval of a difference, and whether it may be chance."""
    low, high = row["ci_low"], row["ci_high"]
    if low is None or high is None:
        return "no interval"
    doubt = "" if low > 0 or high < 0 else "; it may be chance"
    return f"difference {row_interval(row)}, 95 % interval{doubt}"


def _wrong_boxes(index: RowIndex) -> dict[str, Any] | None:
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


def _ordinary(index: RowIndex) -> dict[str, Any] | None:
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


def _calibration(index: RowIndex, predictions: Sequence[Prediction]) -> dict[str, Any] | None:
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
        "figures": (
            (
                reliability_plot({c: reliability(*pair) for c, pair in pairs.items()}),
                "Reliability, in bins of equal width. On the dotted diagonal, an answer given with 70 % confidence is "
                "right 70 % of the time. Dot area: share of the questions.",
            ),
            (
                reliability_plot(equal_mass, bins_of="equal mass"),
                "The same in bins of equal mass: each dot is a tenth of the questions, so that none is a few of them.",
            ),
            (
                risk_coverage_plot({c: risk_coverage(*pair) for c, pair in pairs.items()}),
                "Risk and coverage. Read from the left: the error rate when only the most confident answers are given.",
            ),
        ),
        "table": calibration_table(caption, index, ["all"]),
        "families": calibration_table(caption, index, HEADLINE),
    }


def _examples(predictions: Sequence[Prediction], album: Album, size: int) -> dict[str, Any] | None:
    cases = cases_of(predictions)
    chapters = choose_chapters(cases, size=size)
    if not chapters:
        return None
    chosen = [(case, chapter.title) for chapter in chapters for case in chapter.cases]
    chosen.sort(key=lambda item: worst_first(item[0]))
    cards = [example_card(case, title, album) for case, title in chosen]
    return {
        "chosen": f"{len(chosen):,}",
        "total": f"{len(cases):,}",
        "rules": chapters,
        "gallery": gallery(cards, groups="Chosen as"),
    }


def _run(run: Mapping[str, object]) -> dict[str, Any]:
    nested = {name: value for name, value in run.items() if isinstance(value, Mapping)}
    return {
        "facts": [(name, value) for name, value in run.items() if name not in nested],
        "nested": [(name.capitalize(), list(flat(value))) for name, value in nested.items()],
    }
