"""The report's chapter on the regions that the model found itself."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from data_pipelines.conditions import DETECTED
from rllava_jax.evaluation.detected_regions import NO_BOX, TOO_MANY
from rllava_jax.evaluation.metrics import DETECTED_CONTRASTS, metrics_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.report.names import percent, row_interval
from rllava_jax.report.tables import RowIndex, score_table

_SUBSETS = ("has_region=yes", "family=vqa", "answer_type=closed", "answer_type=open")


def detected(index: RowIndex, predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Accuracy with the right region, none, and the one that the model found; None where it was not evaluated."""
    kinds = Counter(p.shown_kind for p in predictions if p.condition == DETECTED)
    if not kinds:
        return None
    said = (
        f"Of {kinds.total():,} ordinary questions {kinds.total() - kinds['none']:,} name a structure to detect. The "
        f"model was shown its own box with {kinds[DETECTED]:,}; {kinds[NO_BOX]:,} were evaluated without one because "
        f"its answer had no box, and {kinds[TOO_MANY]:,} because they name more structures than it takes regions."
    )
    if row := index.get(("has_region=yes", DETECTED, "box_iou")):
        interval = f" ({row_interval(row)})" if row_interval(row) else ""
        said += (
            f" On the {row['n']:,} of them with annotated boxes, the mean IoU with these is {percent(row['value'])} %"
            f"{interval}, a box that was not found counting as 0."
        )
    table = score_table(
        "Accuracy in percent, with 95 % intervals; differences are taken question by question",
        index,
        [s for s in _SUBSETS if (s, DETECTED, metrics_of(s)[0]) in index],
        conditions=("right", "none", DETECTED),
        pairs=DETECTED_CONTRASTS,
        main_metric_only=True,
    )
    return {"finding": said, "table": table}
