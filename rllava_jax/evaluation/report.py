"""The report of an evaluation: one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from rllava_jax.atomic_files import write_atomically
from rllava_jax.evaluation.answers import score
from rllava_jax.evaluation.calibration import reliability, risk_coverage
from rllava_jax.evaluation.detected_report import detected_chapter
from rllava_jax.evaluation.gallery import Case, ImageOf, cases_of, chapter_html, choose_chapters
from rllava_jax.evaluation.metrics import CONDITIONS, Row, Scored, confidence_and_correctness, metrics_of
from rllava_jax.evaluation.plots import reliability_plot, risk_coverage_plot
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.summary import HEADLINE, headline_bars
from rllava_jax.evaluation.tables import (
    RowIndex,
    calibration_table,
    condition_name,
    facts_table,
    interval_text,
    percent,
    score_table,
    subset_name,
    wrong_kind_table,
)
from rllava_jax.paths import path_of


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
      rows: of `metrics.rows`, over the same predictions.
      images: the image of a prediction, decoded or as encoded bytes; an ImageError it raises is shown in its place.
      run: what makes the result reproducible: command, seed, configuration, versions; nested mappings are unfolded.
      gallery: at most so many example questions.
    """
    groups = list(dict.fromkeys((row["dataset"], row["split"]) for row in rows))
    body = []
    for dataset, split in groups:
        index = {
            (r["subset"], r["region"], r["metric"]): r for r in rows if (r["dataset"], r["split"]) == (dataset, split)
        }
        held = [p for p in predictions if (p.dataset, p.split) == (dataset, split)]
        if len(groups) > 1:
            body.append(f"<h2>{escape(dataset)}, {escape(split)} split</h2>")
        body += [
            _headline(index),
            _ordinary(index),
            _wrong_kinds(index),
            detected_chapter(index, held),
            _calibration(index, held),
        ]
    body += [_gallery(cases_of(predictions), images, gallery), _run(run)]
    page = Template(_resource("report.html")).substitute(
        title=escape(title), style=_resource("report.css"), scope=escape(_scope(predictions)), body="\n".join(body)
    )
    write_atomically(path_of(path), page)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _scope(predictions: Sequence[Prediction]) -> str:
    names = dict.fromkeys(f"{p.dataset}, {p.split} split" for p in predictions)
    questions = len({(p.dataset, p.split, p.id) for p in predictions})
    images = len({(p.dataset, p.image_id) for p in predictions})
    asked = [c for c in CONDITIONS if any(p.region == c for p in predictions)]
    return f"{'; '.join(names)}. {questions:,} questions about {images:,} images, asked under: {', '.join(asked)}."


def _headline(index: RowIndex) -> str:
    subsets = [s for s in HEADLINE if any(key[0] == s for key in index)]
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
        "<h2>Does the region help, and is it trusted too much?</h2>"
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
    interval = interval_text(row)
    return f"difference {interval}, 95 % interval" if interval else "no interval"


def _tiles(index: RowIndex, subset: str) -> str:
    metric = metrics_of(subset)[0]
    tiles = []
    for c in CONDITIONS:
        row = index.get((subset, c, metric))
        if row is not None:
            tiles.append(
                f'<div class="tile {c}"><dt>{escape(condition_name(c))}</dt>'
                f'<dd class="figure">{percent(row["value"])}<small> %</small></dd>'
                f'<dd class="range">{interval_text(row)} · n {row["n"]:,}</dd></div>'
            )
    return f'<h3>{escape(subset_name(subset))}</h3><dl class="tiles">{"".join(tiles)}</dl>'


def _ordinary(index: RowIndex) -> str:
    names = list(dict.fromkeys(subset for subset, _, _ in index))
    parts = [
        score_table(caption, index, [s for s in names if s.startswith(prefix)], differences=True)
        for prefix, caption in (
            ("answer_type=", "By answer type. Closed: normalised equality over all closed questions"),
            ("content_type=", "By content type, accuracy (normalised equality, open and closed together)"),
            ("modality=", "By modality, accuracy (normalised equality, open and closed together)"),
        )
    ]
    if not any(parts):
        return ""
    return (
        "<h2>Ordinary questions</h2>"
        '<p class="note">The questions of the data set itself. The region is shown only where a question has one, so '
        "right, none and wrong differ on those alone, and the row “Ordinary, with a region” above compares them there. "
        "A box itself tells where something is and how large; the blank image shows what that is worth.</p>"
        + "".join(parts)
    )


def _wrong_kinds(index: RowIndex) -> str:
    kinds_over = [s for s in HEADLINE if s != "family=vqa"]  # whose questions without a region show no wrong one
    table = wrong_kind_table("Accuracy in percent by kind of wrong region, with 95 % intervals", index, kinds_over)
    if not table:
        return ""
    return (
        "<h2>Kinds of wrong region</h2>"
        '<p class="note">Each question was shown one kind, so the columns hold different questions: compare their '
        f"intervals, not their last digits.</p>{table}"
    )


def _calibration(index: RowIndex, predictions: Sequence[Prediction]) -> str:
    held = {c: [Scored(p, score(p)) for p in predictions if p.region == c] for c in CONDITIONS}
    pairs = {c: confidence_and_correctness(scored) for c, scored in held.items() if scored}
    plots = (
        reliability_plot({c: reliability(*pair) for c, pair in pairs.items()}),
        risk_coverage_plot({c: risk_coverage(*pair) for c, pair in pairs.items()}),
    )
    captions = (
        "Reliability. On the dotted diagonal, an answer given with 70 % confidence is right 70 % of the time. "
        "Dot area: share of the questions.",
        "Risk and coverage. Read from the left: the error rate when only the most confident answers are given.",
    )
    figures = "".join(
        f'<div class="panel"><figure>{plot}<figcaption>{escape(caption)}</figcaption></figure></div>'
        for plot, caption in zip(plots, captions, strict=True)
    )
    caption = "Confidence is the probability of the decoded answer. ECE and Brier: lower is better; AUROC: 50 is chance"
    return (
        f'<h2>Does the confidence mean what it says?</h2><div class="pair">{figures}</div>'
        f"{calibration_table(caption, index, ['all'])}"
        f"<details><summary>By question family</summary>{calibration_table(caption, index, HEADLINE)}</details>"
    )


def _gallery(cases: Sequence[Case], images: ImageOf, size: int) -> str:
    chapters = choose_chapters(cases, size=size)
    if not chapters:
        return ""
    return (
        "<h2>Examples</h2>"
        '<ul class="legend"><li><i></i>right region</li><li><i class="wrong"></i>wrong region, as shown in the wrong '
        'condition</li><li><i class="found"></i>box written by the model (localise)</li></ul>'
        + "".join(chapter_html(chapter, images) for chapter in chapters)
        + '<p class="note">Images are reduced for this page.</p>'
    )


def _run(run: Mapping[str, object]) -> str:
    plain = {name: value for name, value in run.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in run.items() if isinstance(value, Mapping)}
    details = "".join(
        f"<details><summary>{escape(name.capitalize())}</summary>{facts_table(value)}</details>"
        for name, value in nested.items()
    )
    return f'<h2>The run</h2><div class="panel">{facts_table(plain)}</div>{details}'
