"""The page that puts two runs side by side: paired differences, trust curves, the questions on which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from data_pipelines.conditions import ALL
from rllava_jax.evaluation.comparison import Comparison, Side, in_both
from rllava_jax.evaluation.metrics import CONDITIONS, metrics_of
from rllava_jax.evaluation.paired import ComparisonRow
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.summary import HEADLINE
from rllava_jax.report.condition_names import condition_name
from rllava_jax.report.gallery import Case, ImageOf, cases_of, is_right, new_images_first
from rllava_jax.report.gallery_cards import (
    LEGEND,
    Album,
    card_start,
    case_boxes,
    confidence_cell,
    figure,
    filters_html,
    question_html,
    verdict_html,
)
from rllava_jax.report.page import Section, page_html
from rllava_jax.report.tables import metric_name, minus, percent, subset_name, table_html
from rllava_jax.report.trust import trust_curves

_HEADLINE = (*HEADLINE, "answer_type=closed", "answer_type=open")
_NAMED = 12  # unmatched questions that the page names


class Pair(NamedTuple):
    """One question as both answered it: the same conditions on both sides."""

    first: Case
    second: Case


def comparison_html(first: Side, second: Side, comparison: Comparison, images: ImageOf | str, *, gallery: int) -> str:
    """The whole page.

    Args:
      images: the image of a prediction; or why there are none, which the page then says.
      gallery: at most so many questions on which the two differ.
    """
    album = Album(images) if not isinstance(images, str) else None
    groups = list(dict.fromkeys((row["dataset"], row["split"]) for row in comparison.rows))
    sections = []
    for number, (dataset, split) in enumerate(groups):
        rows = [row for row in comparison.rows if (row["dataset"], row["split"]) == (dataset, split)]
        where = f"{dataset}, {split} split"
        place = f"-{number + 1}" if number else ""
        sections += [
            Section(f"headline{place}", f"The difference: {where}", _headline(first, second, rows)),
            Section(f"trust{place}", f"Trust curves: {where}", _trust(first, second, dataset, split)),
            Section(f"numbers{place}", f"Every number: {where}", _numbers(first, second, rows)),
        ]
    sections += [
        Section("differ", "Questions on which they differ", _gallery(first, second, images, album, gallery)),
        Section("compared", "What was compared", _matched(first, second, comparison)),
    ]
    both = len(in_both(first.predictions, second.predictions))
    return page_html(
        eyebrow="Comparison",
        title=f"{first.name} against {second.name}",
        scope=f"A is {first.name}, B is {second.name}. {both:,} answers of each to the same questions are compared.",
        sections=sections,
        after=album.html() if album else "",
    )


def _headline(first: Side, second: Side, rows: Sequence[ComparisonRow]) -> str:
    main = [
        row
        for subset in _HEADLINE
        for row in rows
        if row["subset"] == subset and row["region"] in CONDITIONS and row["metric"] == metrics_of(subset)[0]
    ]
    main = main or [row for row in rows if row["subset"] == "all"]  # the trust benchmark alone
    return (
        f'<p class="note">A: {escape(first.name)}. B: {escape(second.name)}. Each difference is taken question by '
        "question, over the same questions; its interval and p resample whole images. Bold where the interval leaves "
        "zero out. McNemar’s exact test counts the questions that only one answered rightly, and takes questions of "
        "one image for independent. No p is corrected for the number of comparisons.</p>"
        + _table("In percent, with 95 % intervals of the difference", main)
    )


def _numbers(first: Side, second: Side, rows: Sequence[ComparisonRow]) -> str:
    parts = []
    for region in [c for c in ALL if any(row["region"] == c for row in rows)]:
        table = _table(f"In percent. {condition_name(region)}", [row for row in rows if row["region"] == region])
        parts.append(f"<details><summary>{escape(condition_name(region))}</summary>{table}</details>")
    return "".join(parts)


def _table(caption: str, rows: Sequence[ComparisonRow]) -> str:
    heads = ["Questions", "Condition", "n", "A", "B", "A − B", "p", "Only A right", "Only B right", "McNemar p"]
    lines = []
    for row in rows:
        name = subset_name(row["subset"])
        detail = "" if row["metric"] == "accuracy" else metric_name(row["metric"])
        lines.append(
            f'<tr><th scope="row">{escape(name)}<small>{escape(detail)}</small></th>'
            f"<td>{escape(condition_name(row['region']))}</td><td>{row['n']:,}</td>"
            f"<td>{percent(row['first'])}</td><td>{percent(row['second'])}</td>{_difference(row)}"
            f"<td>{_p(row['p'])}</td><td>{_count(row['first_only'])}</td><td>{_count(row['second_only'])}</td>"
            f"<td>{_p(row['mcnemar_p'])}</td></tr>"
        )
    return table_html(caption, [f'<th scope="col">{h}</th>' for h in heads], lines)


def _difference(row: ComparisonRow) -> str:
    low, high = row["ci_low"], row["ci_high"]
    text = minus(f"{100 * row['difference']:+.1f}")
    if low is None or high is None:
        return f"<td>{text}</td>"
    mark = ' class="clear"' if low > 0 or high < 0 else ""
    return f"<td{mark}>{text}<small>{minus(percent(low))} to {minus(percent(high))}</small></td>"


def _p(p: float | None) -> str:
    return "–" if p is None else "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _trust(first: Side, second: Side, dataset: str, split: str) -> str:
    """Both trust curves, from the rows that each side's folder holds."""
    runs = {
        f"{letter}": {
            (r["subset"], r["region"], r["metric"]): r
            for r in side.rows
            if (r["dataset"], r["split"]) == (dataset, split)
        }
        for letter, side in (("A", first), ("B", second))
    }
    plot = trust_curves(runs)
    if not plot:
        return ""
    caption = (
        f"A: {first.name}; B: {second.name}. Each with its own questions, and dotted without a box; the differences "
        "question by question are in the tables."
    )
    return f'<div class="panel"><figure class="square">{plot}<figcaption>{escape(caption)}</figcaption></figure></div>'


def differing(first: Side, second: Side) -> list[Pair]:
    """Questions that one answered rightly and the other wrongly under some condition; the surest error first."""
    ours: list[Prediction] = []
    theirs: list[Prediction] = []
    for p, other in in_both(first.predictions, second.predictions):
        ours.append(p)
        theirs.append(other)
    pairs = [Pair(*cases) for cases in zip(cases_of(ours), cases_of(theirs), strict=True)]
    return sorted((pair for pair in pairs if _conditions(pair)), key=_surest_error)


def _conditions(pair: Pair) -> list[str]:
    """Those under which just one of the two is right."""
    both = ((c, pair.first.by_region[c], pair.second.by_region[c]) for c in ALL if c in pair.first.by_region)
    return [c for c, ours, theirs in both if is_right(ours) != is_right(theirs)]


def _surest_error(pair: Pair) -> tuple[float, str]:
    wrong = [
        p for c in _conditions(pair) for p in (pair.first.by_region[c], pair.second.by_region[c]) if not is_right(p)
    ]
    return -max(p.confidence for p in wrong), pair.first.first.id


def _group(pair: Pair) -> str:
    """By the condition that stands first in every table."""
    ours, theirs = is_right(pair.first.first), is_right(pair.second.first)
    if ours == theirs:
        return "Differ only under another condition"
    return "A right, B wrong" if ours else "B right, A wrong"


def _gallery(first: Side, second: Side, images: ImageOf | str, album: Album | None, size: int) -> str:
    found = differing(first, second)
    if not found:
        return "<p>None: wherever both were asked, both are right or both are wrong.</p>"
    by_case = {id(pair.first): pair for pair in found}
    chosen = [by_case[id(case)] for case in new_images_first([pair.first for pair in found])[:size]]
    chosen = sorted(chosen, key=_surest_error)
    values: list[dict[str, str | float]] = []
    cards = []
    for pair in chosen:
        p = pair.first.first
        values.append(
            {
                "id": p.id,
                "confidence": round(p.confidence, 4),
                "group": _group(pair),
                "family": p.family,
                "content_type": p.content_type,
                "modality": p.modality,
            }
        )
        cards.append(_card(pair, values[-1], album))
    missing = f'<p class="note">Without images: {escape(images)}</p>' if isinstance(images, str) else LEGEND
    return (
        f'<p class="note">{len(chosen):,} of {len(found):,} questions that one answered rightly and the other wrongly '
        f"under some condition, the surest errors first. A: {escape(first.name)}; B: {escape(second.name)}.</p>"
        f'{missing}{filters_html(values, groups="Who is right")}<div class="cards" id="cards">{"".join(cards)}</div>'
    )


def _card(pair: Pair, values: dict[str, str | float], album: Album | None) -> str:
    p = pair.first.first
    rows = []
    for c in [c for c in ALL if c in pair.first.by_region]:
        if c not in CONDITIONS and c not in _conditions(pair):
            continue  # of the many variants only those that tell the two apart
        for letter, answered in (("A", pair.first.by_region[c]), ("B", pair.second.by_region[c])):
            name = escape(f"{condition_name(c)}, {letter}")
            rows.append(
                f'<tr><th scope="row">{name}</th><td>{verdict_html(answered)}</td>{confidence_cell(answered)}</tr>'
            )
    picture = figure(case_boxes(pair.first), p, album) if album else ""
    return (
        f'{card_start(p, values)}{picture}<div class="card-text">{question_html(p)}'
        '<table class="answers"><thead><tr><th scope="col">Region</th><th scope="col">Answer</th>'
        f'<th scope="col">Confidence</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<p class="id">{escape(str(values["group"]))} · {escape(p.id)}</p></div></article>'
    )


def _matched(first: Side, second: Side, comparison: Comparison) -> str:
    lines = []
    for letter, side, only in (("A", first, comparison.only_first), ("B", second, comparison.only_second)):
        lines.append(
            f'<tr><th scope="row">{letter}: {escape(side.name)}<small>{escape(str(side.folder))}</small></th>'
            f"<td>{len(side.predictions):,}</td><td>{len(only):,}</td></tr>"
        )
    table = table_html(
        "An answer is one question under one condition. Only those that both have are compared",
        [f'<th scope="col">{h}</th>' for h in ("Run", "Answers", "Only here, left out")],
        lines,
    )
    changed = comparison.changed
    said = (
        f"<p>{len(changed):,} answers were left out because their id names another question, image or box on each "
        f"side: {escape(', '.join(changed[:_NAMED]))}{' …' if len(changed) > _NAMED else ''}.</p>"
        if changed
        else ""
    )
    return table + said
