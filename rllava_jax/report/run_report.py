"""The report of an evaluation: one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_pipelines.conditions import CONTROLS
from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.paths import path_of
from rllava_jax.evaluation.answers import score
from rllava_jax.evaluation.confidence.calibration import reliability, risk_coverage
from rllava_jax.evaluation.confidence.equal_mass import reliability_equal_mass
from rllava_jax.evaluation.metrics import CONDITIONS, Row, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.summary import HEADLINE, bar_of, headline_bars
from rllava_jax.report.condition_names import condition_name
from rllava_jax.report.controls import controls_html
from rllava_jax.report.detected import detected_chapter
from rllava_jax.report.gallery import ImageOf, cases_of, choose_chapters, worst_first
from rllava_jax.report.gallery_cards import LEGEND, Album, cards_html, filters_html
from rllava_jax.report.line_plots import dot_plot
from rllava_jax.report.page import Section, page_html
from rllava_jax.report.plots import reliability_plot, risk_coverage_plot
from rllava_jax.report.published import published_table
from rllava_jax.report.tables import (
    RowIndex,
    calibration_table,
    facts_table,
    interval_text,
    percent,
    score_table,
    subset_name,
    wrong_kind_table,
)
from rllava_jax.report.trust import trust_html

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
    trust: Sequence[Row] = (),
) -> None:
    """Writes the page, whole or not at all.

    Args:
      title: what was evaluated, e.g. "slake_tiny, step 3000".
      rows: of `metrics.rows`, over the same predictions.
      images: the image of a prediction, decoded or as encoded bytes; an ImageError it raises is shown in its place.
      run: what makes the result reproducible: command, seed, configuration, versions; nested mappings are unfolded.
      gallery: at most so many example questions; with each image embedded once, they bound the size of the page.
      trust: rows of the region trust benchmark (`trust.metrics.trust_rows`); the predictions may hold its answers too,
        under "trust:…", and the gallery then shows them.
    """
    rows = [*rows, *trust]
    groups = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows))
    sections = []
    for number, (dataset, split) in enumerate(groups):
        index = {
            (r["subset"], r["region"], r["metric"]): r for r in rows if (r["dataset"], r["split"]) == (dataset, split)
        }
        held = [p for p in predictions if (p.dataset, p.split) == (dataset, split)]
        suffix = f": {dataset}, {split} split" if len(groups) > 1 else ""
        sections += [
            section._replace(name=section.name + (f"-{number + 1}" if number else ""), heading=section.heading + suffix)
            for section in _sections(dataset, index, held)
        ]
    album = Album(images)
    sections += [Section("examples", "Examples", _gallery(predictions, album, gallery))]
    sections += [Section("run", "The run", _run(run))]
    scope = _scope(predictions)
    page = page_html(eyebrow="Evaluation report", title=title, scope=scope, sections=sections, after=album.html())
    write_atomically(path_of(path), page)


def _sections(dataset: str, index: RowIndex, held: Sequence[Prediction]) -> list[Section]:
    return [
        Section("region", "Does the region help, and is it trusted too much?", _headline(index)),
        Section("published", "Beside published results", _published(dataset, index)),
        Section("trust", "What does a wrong box do?", trust_html(index) + _wrong_kinds(index)),
        Section("image", "Is the image read?", controls_html(index)),
        Section("detected", "With the region that the model finds itself", detected_chapter(index, held)),
        Section("ordinary", "Ordinary questions", _ordinary(index)),
        Section("confidence", "Does the confidence mean what it says?", _calibration(index, held)),
    ]


def _scope(predictions: Sequence[Prediction]) -> str:
    names = dict.fromkeys(f"{p.dataset}, {p.split} split" for p in predictions)
    questions = len({(p.dataset, p.split, p.id) for p in predictions})
    images = len({(p.dataset, p.image_id) for p in predictions})
    regions = {p.region for p in predictions}
    asked = [condition_name(c).lower() for c in (*CONDITIONS, *CONTROLS) if c in regions]
    for prefix, name in (("corrupted:", "corruptions of the image"), ("trust:", "variants of the box")):
        if count := sum(region.startswith(prefix) for region in regions):
            asked.append(f"{count} {name}")
    return f"{'; '.join(names)}. {questions:,} questions about {images:,} images, asked under: {', '.join(asked)}."


def _headline(index: RowIndex) -> str:
    subsets = [s for s in HEADLINE if any((s, c, metrics_of(s)[0]) in index for c in CONDITIONS)]
    if not subsets:
        return ""
    table = score_table(
        "Accuracy in percent, with 95 % intervals. Differences are taken question by question; bold where the interval "
        "leaves zero out.",
        index,
        subsets,
        differences=True,
    )
    return (
        f"{_finding(index, subsets[0])}{_tiles(index, subsets[0])}"
        '<div class="panel" tabindex="0" role="region" aria-label="Accuracy plot"><figure>'
        f"{headline_bars(list(index.values()), subsets)}"
        "<figcaption>Whiskers: 95 % intervals. Dotted lines: a uniform guess.</figcaption>"
        "</figure></div>"
        f"{table}"
        '<p class="note">Right: the region the question is about. None: no region. Wrong: a region that is not, of the '
        "kinds told apart below. Blank: a grey image with the right region named; a score that "
        "survives it was not read from the image. Localise is never shown a region.</p>"
    )


def _published(dataset: str, index: RowIndex) -> str:
    table = published_table(dataset, index)
    if not table:
        return ""
    return (
        '<p class="note">The published numbers are of other, mostly far larger models, fine-tuned and scored under '
        "other protocols: no difference between the lines below is a measured one. Evaluators disagree on what is "
        "counted; this page’s rules are the strict ones of docs/REPORT.md.</p>" + table
    )


def _finding(index: RowIndex, subset: str) -> str:
    """One sentence a page could be quoted by, made from the rows alone."""
    metric = metrics_of(subset)[0]
    gain, loss = index.get((subset, "right-none", metric)), index.get((subset, "none-wrong", metric))
    sentences = []
    if gain:
        verb = "raises" if gain["value"] > 0 else "lowers" if gain["value"] < 0 else "leaves unchanged"
        sentences.append(
            f"Over {gain['n']:,} questions of the group “{subset_name(subset)}”, the right region {verb} accuracy by "
            f"{percent(abs(gain['value']))} points ({_points(gain)})."
        )
    if loss:
        verb = "costs" if loss["value"] > 0 else "gains"
        sentences.append(
            f"A wrong region {verb} {percent(abs(loss['value']))} points against no region ({_points(loss)})."
        )
    if blank := index.get((subset, "right-blank", metric)):
        sentences.append(
            f"A blank image with the right region named loses {percent(blank['value'])} points of it "
            f"({_points(blank)}): so much is read from the pixels."
        )
    return f"<p>{escape(' '.join(sentences))}</p>" if sentences else ""


def _points(row: Row) -> str:
    """The interval of a difference, and whether it may be chance."""
    low, high = row["ci_low"], row["ci_high"]
    if low is None or high is None:
        return "no interval"
    doubt = "" if low > 0 or high < 0 else "; it may be chance"
    return f"difference {interval_text(row)}, 95 % interval{doubt}"


def _tiles(index: RowIndex, subset: str) -> str:
    metric = metrics_of(subset)[0]
    tiles = []
    for c in CONDITIONS:
        row = index.get((subset, c, metric))
        if row is not None:
            range_of = " · ".join(filter(None, (interval_text(row), f"n {row['n']:,}")))
            tiles.append(
                f'<div class="tile {c}"><dt>{escape(condition_name(c))}</dt>'
                f'<dd class="figure">{percent(row["value"])}<small> %</small></dd>'
                f'<dd class="range">{range_of}</dd></div>'
            )
    return f'<h3>{escape(subset_name(subset))}</h3><dl class="tiles">{"".join(tiles)}</dl>'


def _ordinary(index: RowIndex) -> str:
    parts = [_by_type(prefix, index) for prefix in _BY_TYPE]
    if not any(parts):
        return ""
    return (
        '<p class="note">The questions of the data set itself. The region is shown only where a question has one, so '
        "right, none and wrong differ on those alone, and the row “Ordinary, with a region” above compares them there. "
        "A box itself tells where something is and how large; the blank image shows what that is worth.</p>"
        f'<div class="pair">{"".join(parts)}</div>'
        + "".join(
            f"<details><summary>{heading}: the numbers</summary>{table}</details>"
            for prefix, (heading, caption) in _BY_TYPE.items()
            if (table := score_table(f"{heading}. {caption}", index, _subsets(prefix, index), differences=True))
        )
    )


def _subsets(prefix: str, index: RowIndex) -> list[str]:
    """Those whose name starts so, the largest first."""
    sizes = {subset: row["n"] for (subset, _, _), row in index.items() if subset.startswith(prefix)}
    return sorted(sizes, key=lambda subset: -sizes[subset])


def _by_type(prefix: str, index: RowIndex) -> str:
    heading, caption = _BY_TYPE[prefix]
    groups = {}
    for subset in _subsets(prefix, index):
        held = {c: row for c in CONDITIONS if (row := index.get((subset, c, metrics_of(subset)[0])))}
        if held:
            n = max(row["n"] for row in held.values())
            groups[f"{subset_name(subset)} ({n:,})"] = {c: bar_of(row) for c, row in held.items()}
    if not groups:
        return ""
    plot = dot_plot(groups, f"Dot plot of accuracy {heading.lower()}, with 95 % intervals")
    return (
        f'<div class="panel"><figure>{plot}<figcaption>{heading}, with the number of questions. {caption}.'
        "</figcaption></figure></div>"
    )


def _wrong_kinds(index: RowIndex) -> str:
    kinds_over = [s for s in HEADLINE if s != "family=vqa"]  # whose questions without a region show no wrong one
    table = wrong_kind_table("Accuracy in percent by kind of wrong region, with 95 % intervals", index, kinds_over)
    if not table:
        return ""
    return (
        "<h3>Kinds of wrong region</h3>"
        '<p class="note">Each question was shown one kind, so the columns hold different questions: compare their '
        f"intervals, not their last digits.</p>{table}"
    )


def _calibration(index: RowIndex, predictions: Sequence[Prediction]) -> str:
    held = {c: [p for p in predictions if p.region == c] for c in CONDITIONS}
    pairs = {c: _confidence_and_correctness(asked) for c, asked in held.items() if asked}
    if not pairs:
        return ""
    figures = (
        (
            reliability_plot({c: reliability(*pair) for c, pair in pairs.items()}),
            "Reliability, in bins of equal width. On the dotted diagonal, an answer given with 70 % confidence is "
            "right 70 % of the time. Dot area: share of the questions.",
        ),
        (
            reliability_plot({c: reliability_equal_mass(*pair) for c, pair in pairs.items()}, bins_of="equal mass"),
            "The same in bins of equal mass: each dot is a tenth of the questions, so that none is a few of them.",
        ),
        (
            risk_coverage_plot({c: risk_coverage(*pair) for c, pair in pairs.items()}),
            "Risk and coverage. Read from the left: the error rate when only the most confident answers are given.",
        ),
    )
    plots = "".join(
        f'<div class="panel"><figure>{plot}<figcaption>{escape(caption)}</figcaption></figure></div>'
        for plot, caption in figures
    )
    caption = "Confidence is the probability of the decoded answer. ECE and Brier: lower is better; AUROC: 50 is chance"
    return (
        f'<div class="pair three">{plots}</div>{calibration_table(caption, index, ["all"])}'
        f"<details><summary>By question family</summary>{calibration_table(caption, index, HEADLINE)}</details>"
    )


def _confidence_and_correctness(
    predictions: Sequence[Prediction],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    confidence = np.array([p.confidence for p in predictions], dtype=float)
    return confidence, np.array([score(p)["accuracy"] for p in predictions], dtype=float)


def _gallery(predictions: Sequence[Prediction], album: Album, size: int) -> str:
    cases = cases_of(predictions)
    chapters = choose_chapters(cases, size=size)
    if not chapters:
        return ""
    groups = {case.first.id: chapter.title for chapter in chapters for case in chapter.cases}
    chosen = sorted((case for chapter in chapters for case in chapter.cases), key=worst_first)
    cards, values = cards_html(chosen, groups, album)
    rules = "".join(f"<dt>{escape(c.title)}</dt><dd>{escape(c.rule)}</dd>" for c in chapters)
    return (
        f'<p class="note">{len(chosen):,} of {len(cases):,} questions, the worst first: those answered wrong with '
        "everything in their favour, the most confident at the head; then those that a wrong box misled; then the "
        "rest, the least confident first. Images are reduced, and embedded once each; evaluation.gallery sets how many "
        "questions are shown.</p>"
        f'<details class="rules"><summary>How they were chosen</summary><dl>{rules}</dl></details>'
        f"{LEGEND}{filters_html(values, groups='Chosen as')}{cards}"
    )


def _run(run: Mapping[str, object]) -> str:
    plain = {name: value for name, value in run.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in run.items() if isinstance(value, Mapping)}
    details = "".join(
        f"<details><summary>{escape(name.capitalize())}</summary>{facts_table(value)}</details>"
        for name, value in nested.items()
    )
    return f'<div class="panel">{facts_table(plain)}</div>{details}'
