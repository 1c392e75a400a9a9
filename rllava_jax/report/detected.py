"""What the report says of where regions come from, and of those that the model found itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from data_pipelines.conditions import DETECTED
from rllava_jax.evaluation.detected_regions import NO_BOX, TOO_MANY
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.report.tables import RowIndex, interval_text, percent, subset_name

_SUBSETS = ("has_region=yes", "family=vqa", "answer_type=closed", "answer_type=open")
_COLUMNS = ("right", "none", DETECTED, f"right-{DETECTED}", f"{DETECTED}-none")


def region_sources(predictions: Sequence[Prediction]) -> str:
    """Questions by the provenance of their regions, e.g. "annotation 120, question 80; found by the model 75"."""
    given = {(p.dataset, p.split, p.id): p for p in predictions if p.region != DETECTED and p.right_boxes}
    counts = Counter(p.provenance or "not recorded" for p in given.values())
    said = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
    if any(p.region == DETECTED for p in predictions):
        said += f"; found by the model {sum(p.shown_kind == DETECTED for p in predictions):,}"
    return said


def detected_chapter(index: RowIndex, predictions: Sequence[Prediction]) -> str:
    """Accuracy with the right region, none, and the one that the model found, as HTML; "" where it was not asked."""
    asked = [p for p in predictions if p.region == DETECTED]
    if not asked:
        return ""
    heads = ("Questions", "n", *(column.capitalize().replace("-", " − ") for column in _COLUMNS))
    lines = "".join(_line(index, subset) for subset in _SUBSETS)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    table = (
        '<div class="panel" role="region" aria-label="Detected regions" tabindex="0"><table><caption><span>'
        "Accuracy in percent, with 95 % intervals; differences are taken question by question</span></caption><thead>"
        f"<tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
    return f"<p>{escape(_finding(index, asked))}</p>{table}"


def _finding(index: RowIndex, asked: Sequence[Prediction]) -> str:
    kinds = Counter(p.shown_kind for p in asked)
    named = len(asked) - kinds["none"]
    said = (
        f"Of {len(asked):,} ordinary questions {named:,} name a structure to detect. The model was shown its own box "
        f"with {kinds[DETECTED]:,}; {kinds[NO_BOX]:,} were asked without a region because its answer had no box, and "
        f"{kinds[TOO_MANY]:,} because they name more structures than it takes regions."
    )
    if row := index.get(("has_region=yes", DETECTED, "box_iou")):
        interval = f" ({interval_text(row)})" if interval_text(row) else ""
        said += (
            f" On the {row['n']:,} of them with annotated boxes, the mean IoU with these is {percent(row['value'])} %"
            f"{interval}, a box that was not found counting as 0."
        )
    return said


def _line(index: RowIndex, subset: str) -> str:
    """A row of the table; differences stand only where every question has a region."""
    rows = [index.get((subset, column, "accuracy" if "open" not in subset else "exact_match")) for column in _COLUMNS]
    if rows[_COLUMNS.index(DETECTED)] is None:
        return ""
    counts = {row["n"] for row in rows if row is not None}
    cells = []
    for row in rows:
        interval = interval_text(row) if row else ""
        small = f"<small>{interval}</small>" if interval else ""
        cells.append(f"<td>{percent(row['value']).replace('-', '−')}{small}</td>" if row else "<td>–</td>")
    n = f"{counts.pop():,}" if len(counts) == 1 else "–"
    return f'<tr><th scope="row">{escape(subset_name(subset))}</th><td>{n}</td>{"".join(cells)}</tr>'
