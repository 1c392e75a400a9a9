"""The report of an evaluation: one HTML page that needs nothing beside itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.conditions import CONTROLS
from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.paths import path_of
from rllava_jax.evaluation.metrics import CONDITIONS, HEADLINE, Row, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.report import chapters
from rllava_jax.report.cards import Album, example_card, gallery
from rllava_jax.report.gallery import ImageOf, cases_of, choose_chapters, worst_first
from rllava_jax.report.names import condition_name, subset_name
from rllava_jax.report.page import Section, page_html
from rllava_jax.report.summary import headline_bars
from rllava_jax.report.tables import RowIndex, Tile, flat, index_of, score_table


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
                ("published", "Beside published results", chapters.published(dataset, index)),
                ("trust", "What does a wrong box do?", chapters.wrong_boxes(index)),
                ("image", "Is the image read?", chapters.controls(index)),
                ("detected", "With the region that the model finds itself", chapters.detected(index, held)),
                ("ordinary", "Ordinary questions", chapters.ordinary(index)),
                ("confidence", "Does the confidence mean what it says?", chapters.confidence(index, held)),
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
    differences = {"gain": "right-none", "loss": "none-wrong", "blank": "right-blank"}
    return {
        **{name: index.get((subsets[0], pair, metric)) for name, pair in differences.items()},
        "title": subset_name(subsets[0]),
        "tiles": [Tile(condition_name(c), row, mark=c) for c, row in shown.items()],
        "bars": headline_bars(list(index.values()), subsets),
        "table": score_table(
            "Accuracy in percent, with 95 % intervals. Differences are taken question by question; bold where the "
            "interval leaves zero out.",
            index,
            subsets,
        ),
    }


def _examples(predictions: Sequence[Prediction], album: Album, size: int) -> dict[str, Any] | None:
    cases = cases_of(predictions)
    groups = choose_chapters(cases, size=size)
    if not groups:
        return None
    chosen = [(case, group.title) for group in groups for case in group.cases]
    chosen.sort(key=lambda item: worst_first(item[0]))
    cards = [example_card(case, title, album) for case, title in chosen]
    return {
        "chosen": len(chosen),
        "total": len(cases),
        "rules": groups,
        "gallery": gallery(cards, groups="Chosen as"),
    }


def _run(run: Mapping[str, object]) -> dict[str, Any]:
    nested = {name: value for name, value in run.items() if isinstance(value, Mapping)}
    return {
        "facts": [(name, value) for name, value in run.items() if name not in nested],
        "nested": [(name.capitalize(), list(flat(value))) for name, value in nested.items()],
    }
