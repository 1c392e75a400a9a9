"""LLaVA-Med's instruction sets: conversations of several turns about figures."""

from __future__ import annotations

from functools import partial

from data_pipelines.records import Count, DataCard, Source
from data_pipelines.sources import llava_med

CARD = DataCard(
    name="llava_med_instruct",
    title="LLaVA-Med instruction tuning, 10K, 60K and 60K with inline mentions",
    about="Conversations of several turns about figures of PubMed Central articles, written by GPT-4 from the caption, "
    "and in 60K-IM also from the sentences that mention the figure.",
    paper=llava_med.PAPER,
    url=llava_med.URL,
    licence=llava_med.LICENCE,
    layout=f"instruct/llava_med_instruct_{{10k,60k,60k_inline_mention}}.json, {llava_med.IMAGES}",
    splits={"10k": Count(), "60k": Count(), "60k_inline_mention": Count()},
    traps=(
        *llava_med.TRAPS,
        "The three splits are alternatives, not parts of a whole, and may share figures: train on one.",
        "GPT-4 saw no image: answers tell what the text says, whether or not the figure shows it.",
    ),
)

_FILES = {split: f"instruct/llava_med_instruct_{split}.json" for split in CARD.splits}

SOURCE = Source(CARD, partial(llava_med.load, CARD, _FILES, "vqa"))
