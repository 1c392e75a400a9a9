"""The page that puts two runs side by side: paired differences, trust curves, the questions on which they differ."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from data_pipelines.conditions import ALL
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.comparison import Comparison, Side, in_both
from rllava_jax.evaluation.metrics import CONDITIONS, HEADLINE, metrics_of
from rllava_jax.evaluation.paired import ComparisonRow, p_text
from rllava_jax.report.cards import Album, answer_row, card, gallery
from rllava_jax.report.chapters import trust_curves
from rllava_jax.report.gallery import Case, ImageOf, cases_of, new_images_first
from rllava_jax.report.names import condition_name, percent, subset_detail, subset_name
from rllava_jax.report.page import Section, page_html
from rllava_jax.report.tables import Cell, PageTable, index_of, signed_cell

_HEADLINE = (*HEADLINE, "answer_type=closed", "answer_type=open")
_NAMED = 12  # unmatched questions that the page names
_HEADS = ("Questions", "Condition", "n", "A", "B", "A − B", "p", "Only A right", "Only B right", "McNemar p")


class CasePair(NamedTuple):
    """One question as both runs answered it: the same conditions on both sides."""

    first: Case
    second: Case

    @property
    def conditions(self) -> list[str]:
        """Those under which just one of the two is right."""
        ours, theirs = self.first.by_condition, self.second.by_condition
        return [c for c in ALL if c in ours and is_right(ours[c]) != is_right(theirs[c])]

    @property
    def group(self) -> str:
        """By the condition that stands first in every table."""
        ours, theirs = is_right(self.first.first), is_right(self.second.first)
        if ours == theirs:
            return "Differ only under another condition"
        return "A right, B wrong" if ours else "B right, A wrong"


def comparison_html(first: Side, second: Side, comparison: Comparison, images: ImageOf | str, *, gallery: int) -> str:
    """The whole page.

    Args:
      images: the image of a prediction; or why there are none, which the page then says.
      gallery: at most so many questions on which the two differ.
    """
    names = {"first": first.name, "second": second.name}
    album = Album(images) if not isinstance(images, str) else None
    groups = list(dict.fromkeys((row["dataset"], row["split"]) for row in comparison.rows))
    sections = []
    for number, (dataset, split) in enumerate(groups):
        rows = [row for row in comparison.rows if (row["dataset"], row["split"]) == (dataset, split)]
        where = f"{dataset}, {split} split"
        curves = trust_curves({"A": index_of(first.rows, dataset, split), "B": index_of(second.rows, dataset, split)})
        sections += [
            Section("headline", f"The difference: {where}", {**names, "table": _headline(rows)}, number),
            Section("curves", f"Trust curves: {where}", {**names, "plot": curves} if curves else None, number),
            Section("numbers", f"Every number: {where}", _numbers(rows), number),
        ]
    differ = names | _differ(first, second, album, images if isinstance(images, str) else "", gallery)
    sections.append(Section("differ", "Questions on which they differ", differ))
    sections.append(Section("compared", "What was compared", _compared(first, second, comparison)))
    both = len(in_both(first.predictions, second.predictions))
    return page_html(
        eyebrow="Comparison",
        title=f"{first.name} against {second.name}",
        scope=f"A is {first.name}, B is {second.name}. {both:,} answers of each to the same questions are compared.",
        sections=sections,
        images=album.images if album else (),
    )


def _headline(rows: Sequence[ComparisonRow]) -> PageTable:
    main = [
        row
        for subset in _HEADLINE
        for row in rows
        if row["subset"] == subset and row["condition"] in CONDITIONS and row["metric"] == metrics_of(subset)[0]
    ]
    main = main or [row for row in rows if row["subset"] == "all"]  # the trust benchmark alone
    return _table("In percent, with 95 % intervals of the difference", main)


def _numbers(rows: Sequence[ComparisonRow]) -> dict[str, Any]:
    found = {c: [row for row in rows if row["condition"] == c] for c in ALL}
    named = {condition_name(c): held for c, held in found.items() if held}
    return {"tables": [(name, _table(f"In percent. {name}", held)) for name, held in named.items()]}


def _table(caption: str, rows: Sequence[ComparisonRow]) -> PageTable:
    def count(value: int | None) -> Cell:
        return Cell("–" if value is None else f"{value:,}")

    lines = [
        [
            Cell(subset_name(row["subset"]), (subset_detail(row["subset"], row["metric"], explained=False),)),
            Cell(condition_name(row["condition"])),
            count(row["n"]),
            Cell(percent(row["first"])),
            Cell(percent(row["second"])),
            signed_cell(row["difference"], row),
            Cell(p_text(row["p"])),
            count(row["first_only"]),
            count(row["second_only"]),
            Cell(p_text(row["mcnemar_p"])),
        ]
        for row in rows
    ]
    return PageTable(caption, [*map(Cell, _HEADS)], lines)


def differing(first: Side, second: Side) -> list[CasePair]:
    """Questions that one answered rightly and the other wrongly under some condition; the surest error first."""
    matched = in_both(first.predictions, second.predictions)
    ours, theirs = (cases_of(pair[side] for pair in matched) for side in (0, 1))
    pairs = [CasePair(*cases) for cases in zip(ours, theirs, strict=True)]
    return sorted((pair for pair in pairs if pair.conditions), key=_surest_error)


def _surest_error(pair: CasePair) -> tuple[float, str]:
    answers = (case.by_condition[c] for c in pair.conditions for case in pair)
    return -max(p.confidence for p in answers if not is_right(p)), pair.first.first.id


def _differ(first: Side, second: Side, album: Album | None, no_images: str, size: int) -> dict[str, Any]:
    found = differing(first, second)
    by_case = {id(pair.first): pair for pair in found}
    chosen = [by_case[id(case)] for case in new_images_first([pair.first for pair in found])[:size]]
    chosen = sorted(chosen, key=_surest_error)
    cards = [card(pair.first, pair.group, album, _answers(pair)) for pair in chosen]
    return {
        "chosen": len(chosen),
        "total": len(found),
        "gallery": gallery(cards, groups="Who is right", no_images=no_images),
    }


def _answers(pair: CasePair) -> list[dict[str, Any]]:
    """Of the many variants only those that tell the two apart."""
    shown = [c for c in ALL if c in pair.conditions or (c in CONDITIONS and c in pair.first.by_condition)]
    return [
        answer_row(case.by_condition[c], f"{condition_name(c)}, {letter}")
        for c in shown
        for letter, case in zip("AB", pair, strict=True)
    ]


def _compared(first: Side, second: Side, comparison: Comparison) -> dict[str, Any]:
    sides = (("A", first, comparison.only_first), ("B", second, comparison.only_second))
    lines = []
    for letter, side, only in sides:
        counts = (Cell(f"{len(held):,}") for held in (side.predictions, only))
        lines.append([Cell(f"{letter}: {side.name}", (str(side.folder),)), *counts])
    caption = "An answer is one question under one condition. Only those that both have are compared"
    changed = comparison.changed
    return {
        "table": PageTable(caption, [*map(Cell, ("Run", "Answers", "Only here, left out"))], lines),
        "changed": len(changed),
        "named": ", ".join(changed[:_NAMED]) + (" …" if len(changed) > _NAMED else ""),
    }
