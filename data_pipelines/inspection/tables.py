"""Figures as text: what the command prints."""

import itertools
import unicodedata
from collections.abc import Mapping, Sequence

from data_pipelines.inspection.figures import Figure

# Of one data set, in this order: heading, and the figures under it with the most rows that are printed of each.
_SECTIONS = (
    ("Questions", ("questions",), 40),
    ("Images", ("images", "images_without_questions", "left_out"), 30),
    (
        "Boxes",
        (
            *("boxes", "labels", "images_with_boxes", "share_of_images_with_boxes"),
            *("questions_on_images_with_boxes", "share_of_questions_on_images_with_boxes"),
            *("questions_with_their_own_boxes", "share_of_questions_with_their_own_boxes", "box_area"),
        ),
        12,
    ),
    ("Answers", ("distinct_answers", "share_of_most_frequent_answer"), 3),
    ("Lengths", ("question_words", "question_characters", "answer_words", "answer_characters"), 4),
)
_WIDEST = 58
_WIDEST_ANSWER = 24


def split_tables(figures: Sequence[Figure], data_set: str, splits: Sequence[str]) -> str:
    """A data set's figures, splits side by side; long lists are cut after their most frequent rows, which is said."""
    values: dict[str, dict[str, dict[str, float]]] = {}  # name → group → split → value
    for f in figures:
        if f.data_set == data_set and f.split in splits:
            values.setdefault(f.name, {}).setdefault(f.group, {})[f.split] = f.value
    parts = []
    for heading, names, most in _SECTIONS:
        rows = []
        for name in names:
            found = _rows(name, values.get(name, {}), splits)
            rows += found[:most]
            if len(found) > most:
                rows.append([f"  … and {len(found) - most} more of {name}", *[""] * len(splits)])
        if heading == "Answers":
            rows += _top_answers(values.get("answer_count", {}), splits)
        if rows:
            parts.append(_table([f"{data_set}: {heading}", *splits], rows))
    return "\n\n".join(parts)


def overlap_tables(figures: Sequence[Figure], groups: Sequence[tuple[str, str]], *, bits: int) -> str:
    """Of each group's images, how many are equal to (and like) some image of each other group and of all others."""
    value = {(f.data_set, f.split, f.name, f.group): int(f.value) for f in figures}
    numbered = {f"{data_set} {name}": f"in {place}" for place, (data_set, name) in enumerate(groups, 1)}
    heads = {**numbered, "another split": "in another split", "another data set": "in another set"}
    used = {f.group for f in figures if f.name == "images_equal_to_some_of"}
    columns = [kind for kind in heads if kind in used]
    rows = []
    for place, (data_set, name) in enumerate(groups, 1):
        cells = [str(value[data_set, name, figure, "all"]) for figure in ("images_compared", "images_repeated")]
        for column in columns:
            equal = value.get((data_set, name, "images_equal_to_some_of", column))
            alike = value.get((data_set, name, "images_like_some_of", column))
            cells.append("" if equal is None else f"{equal} ({alike})")
        rows.append([f"{place} {data_set} {name}", *cells])
    head = ["Images that occur twice", "images", "repeated", *(heads[column] for column in columns)]
    note = (
        f"N (M): N of the images have the very pixels of one there; M do, or are like one (pHash within {bits} bits)."
    )
    return f"{_table(head, rows)}\n{note}"


def _rows(name: str, groups: Mapping[str, Mapping[str, float]], splits: Sequence[str]) -> list[list[str]]:
    """One row for each group, in the order in which the splits bring them."""

    def label(group: str) -> str:
        if group == "all":
            return name
        return f"  {group}" if "=" in group else f"  {name} {group}"

    # A split that does not count a group has none of it; what is measured, as of no answers, is then unknown.
    absent = 0 if name in ("questions", "images", "boxes", "left_out") else None
    return [
        [label(group), *(_number(name, values.get(split, absent)) for split in splits)]
        for group, values in groups.items()
    ]


def _top_answers(groups: Mapping[str, Mapping[str, float]], splits: Sequence[str]) -> list[list[str]]:
    """The most frequent answers of each split, by rank."""
    counted = [(group.removeprefix("all="), of) for group, of in groups.items() if group.startswith("all=")]
    tops = [
        [f"{_shortened(answer, _WIDEST_ANSWER)} {of[split]:,.0f}" for answer, of in counted if split in of]
        for split in splits
    ]
    ranked = enumerate(itertools.zip_longest(*tops, fillvalue=""), 1)
    return [[f"  most frequent {rank}", *answers] for rank, answers in ranked]


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name.startswith("share_") or name == "box_area":
        return f"{value:.1%}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _shortened(text: str, widest: int) -> str:
    return text if len(text) <= widest else text[: widest - 1] + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), *([_shortened(first, _WIDEST), *rest] for first, *rest in rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        blanks = [" " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = [line[0] + blanks[0], *(blank + cell for blank, cell in zip(blanks[1:], line[1:], strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join([text[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *text[1:]])


def _width(text: str) -> int:
    """Columns that a terminal takes: Chinese letters are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
