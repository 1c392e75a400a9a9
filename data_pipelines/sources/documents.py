"""The generated documents: drawn contract pages with boxes and questions, so that regions are tried outside medicine.

A page depends on the settings' seed, its split and its number alone. Its parts (clauses, a table, a signature, a
stamp) are the boxes from which the region families are rebuilt. Of its own questions some speak of "the marked clause"
and bring its box with them; without it they can only be guessed among three to five clauses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipelines.core.errors import DataError
from data_pipelines.records import AnnotatedImage, AnswerType, Count, DataCard, Region, Source, SourceSplit, VQAExample
from data_pipelines.settings import DocumentsConfig
from data_pipelines.sources.document_drawing import Page, draw_page
from data_pipelines.sources.drawn import draw_split, png, yes_or_no

MODALITY = "Document"

_DEFAULTS = DocumentsConfig()
CARD = DataCard(
    name="documents",
    title="Documents",
    about="drawn contract pages with boxes and questions, as the default settings draw them",
    paper="none",
    url="none",
    licence="Apache-2.0, as this package",
    layout="",
    splits={
        "train": Count(images=_DEFAULTS.train_images),
        "validate": Count(images=_DEFAULTS.validate_images),
        "test": Count(images=_DEFAULTS.test_images),
    },
    traps=(
        "Drawings: what is learnt from them says little about real documents.",
        "Another release of Pillow may set the text a little differently.",
    ),
)


@dataclass(frozen=True)
class _Question:
    """What is asked of a page; `marked` is the label of the part that the question is about, or "" for the page."""

    name: str
    question: str
    answer: str
    answer_type: AnswerType
    content_type: str
    marked: str = ""


def load(config: DocumentsConfig, split: str) -> SourceSplit:
    """Draws the pages of one split and asks each page's questions; those about a marked part have it as their region.

    Raises:
      DataError: no such split, or pages under 160 pixels wide, on which nothing can be read.
    """
    if config.page_width < 160:
        raise DataError(f"data.documents.page_width is {config.page_width}; words need at least 160 pixels")

    def draw(rng: np.random.Generator, image_id: str) -> tuple[AnnotatedImage, list[VQAExample]]:
        page = draw_page(rng, config.page_width)
        image = AnnotatedImage(
            dataset="documents",
            split=split,
            image=png(page.pixels),
            image_id=image_id,
            regions=tuple(Region(box, label) for label, box in page.boxes.items()),
            modality=MODALITY,
        )
        return image, [_example(image, question) for question in _questions(page, rng)]

    return draw_split("documents", config, split, draw)


SOURCE = Source(CARD, lambda root, split: load(_DEFAULTS, split))


def _example(image: AnnotatedImage, asked: _Question) -> VQAExample:
    return VQAExample(
        id=f"documents/vqa/{image.image_id}/{asked.name}",
        dataset="documents",
        split=image.split,
        image=image.image,
        image_id=image.image_id,
        question=asked.question,
        answer=asked.answer,
        answer_type=asked.answer_type,
        content_type=asked.content_type,
        modality=MODALITY,
        regions=tuple(region for region in image.regions if region.label == asked.marked),
        provenance="annotation" if asked.marked else "",
    )


def _questions(page: Page, rng: np.random.Generator) -> Iterator[_Question]:
    """Everything that is asked about a page; of its clauses, one is marked and asked for."""
    clauses = list(page.amounts)
    marked = clauses[rng.integers(len(clauses))]
    yield _Question("marked", "Which clause is marked?", _title(marked), "open", "Clause", marked)
    yield _Question(
        "amount", "What is the amount in the marked clause?", page.amounts[marked], "open", "Amount", marked
    )
    yield _Question("circled", "Which part is circled?", _title(page.circled), "open", "Mark")
    yield _Question("count", "How many clauses does the page have?", str(len(clauses)), "open", "Quantity")
    yield _Question("signed", "Has the page been signed?", yes_or_no("Signature" in page.boxes), "closed", "Presence")
    if page.stamp:
        yield _Question("stamp", "What does the stamp say?", page.stamp.capitalize(), "open", "Text")
    for part in ("Table", "Signature"):
        if part in page.boxes:
            _, x0, _, x1 = page.boxes[part]
            side = "Left" if x0 + x1 < 1 else "Right"
            question = f"On which side of the page is the {part.lower()}?"
            yield _Question(f"side/{part}", question, side, "open", "Position")


def _title(label: str) -> str:
    return label.removesuffix(" Clause")
