"""LLaVA-Med's alignment set: figures with an instruction to describe them, answered by the caption."""

from __future__ import annotations

from functools import partial

from data_pipelines.records import Count, DataCard, Source
from data_pipelines.sources import llava_med

CARD = DataCard(
    name="llava_med_alignment",
    title="LLaVA-Med alignment, 500K",
    about="Figures of PubMed Central articles with an instruction to describe them, answered by the figure's caption.",
    paper=llava_med.PAPER,
    url=llava_med.URL,
    licence=llava_med.LICENCE,
    layout=f"alignment/llava_med_alignment_500k.json, {llava_med.IMAGES}",
    splits={"train": Count()},
    traps=(
        *llava_med.TRAPS,
        "Captions of compound figures describe panels (a, b, c) that a small image does not resolve.",
        "The paper's text speaks of 600,000 pairs; the published file is named for 500,000.",
    ),
)

_FILES = {"train": "alignment/llava_med_alignment_500k.json"}

SOURCE = Source(CARD, partial(llava_med.load, CARD, _FILES, "caption"))
