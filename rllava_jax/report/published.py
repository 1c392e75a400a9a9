"""Scores that others have published, to stand beside a run's own: of other models, under other protocols.

Fine-tuned on each data set's training split. "Open" is token recall, "closed" accuracy over all closed questions. The
evaluators behind such numbers differ from each other, and some count a repeated word of the answer again and again,
which can only raise recall (docs/REPORT.md).
"""

from typing import Any

from rllava_jax.report.tables import Cell, PageTable, RowIndex, value_cell

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
