"""Scores that others have published, to stand beside a run's own: of other models, under other protocols.

Fine-tuned on each data set's training split. "Open" is token recall, "closed" accuracy over all closed questions. The
evaluators behind such numbers differ from each other, and some count a repeated word of the answer again and again,
which can only raise recall (docs/REPORT.md).
"""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from rllava_jax.evaluation.metrics import Row
from rllava_jax.report.tables import RowIndex, interval_text, percent, table_html


class Published(NamedTuple):
    """One published result, in percent as printed."""

    model: str
    source: str
    open_recall: float
    closed_accuracy: float


LLAVA_MED = "Li et al. 2023, LLaVA-Med (arXiv 2306.00890)"
LLAVA_TRI = "Xie et al. 2024, MedTrinity-25M (arXiv 2408.02900)"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "vqa_rad": (
        Published("LLaVA", LLAVA_MED, 50.00, 65.07),
        Published("LLaVA-Med (from LLaVA)", LLAVA_MED, 61.52, 84.19),
        Published("LLaVA-Med (from Vicuna)", LLAVA_MED, 64.39, 81.98),
        Published("LLaVA-Med (BiomedCLIP)", LLAVA_MED, 64.75, 83.09),
        Published("LLaVA-Tri", LLAVA_TRI, 65.1, 84.9),
    ),
    "slake": (
        Published("LLaVA", LLAVA_MED, 78.18, 63.22),
        Published("LLaVA-Med (from LLaVA)", LLAVA_MED, 83.08, 85.34),
        Published("LLaVA-Med (from Vicuna)", LLAVA_MED, 84.71, 83.17),
        Published("LLaVA-Med (BiomedCLIP)", LLAVA_MED, 87.11, 86.78),
        Published("LLaVA-Tri", LLAVA_TRI, 86.4, 89.2),
    ),
    "path_vqa": (
        Published("LLaVA", LLAVA_MED, 7.74, 63.20),
        Published("LLaVA-Med (from LLaVA)", LLAVA_MED, 37.95, 91.21),
        Published("LLaVA-Med (from Vicuna)", LLAVA_MED, 38.87, 91.65),
        Published("LLaVA-Med (BiomedCLIP)", LLAVA_MED, 39.60, 91.09),
        Published("LLaVA-Tri", LLAVA_TRI, 37.9, 92.7),
    ),
}
_OPEN, _CLOSED = ("answer_type=open", "recall"), ("answer_type=closed", "accuracy")


def published_table(dataset: str, index: RowIndex) -> str:
    """This run's open and closed scores above the published ones; "" where either is missing."""
    own = [
        (name, index.get((_OPEN[0], region, _OPEN[1])), index.get((_CLOSED[0], region, _CLOSED[1])))
        for region, name in (
            ("none", "This run, no region shown"),
            ("right", "This run, right region where there is one"),
        )
    ]
    own = [(name, opened, closed) for name, opened, closed in own if opened or closed]
    if dataset not in PUBLISHED or not own:
        return ""
    lines = [
        f'<tr class="own"><th scope="row">{escape(name)}</th><td class="source">this page</td>'
        f"{_cell(opened)}{_cell(closed)}</tr>"
        for name, opened, closed in own
    ]
    lines.append('<tr class="group"><th colspan="4" scope="rowgroup">Other models, under other protocols</th></tr>')
    lines += [
        f'<tr><th scope="row">{escape(p.model)}</th><td class="source">{escape(p.source)}</td>'
        f"<td>{p.open_recall:.1f}</td><td>{p.closed_accuracy:.1f}</td></tr>"
        for p in PUBLISHED[dataset]
    ]
    heads = ["Model", "Source", "Open, token recall", "Closed, accuracy"]
    return table_html("In percent; intervals were not published", [f'<th scope="col">{h}</th>' for h in heads], lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td>–</td>"
    return f"<td>{percent(row['value'])}<small>{interval_text(row)}</small><small>n {row['n']:,}</small></td>"
