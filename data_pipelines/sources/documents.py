"""The generated documents: drawn contract pages with boxes and questions, so that regions are tried outside medicine.

A page depends on the settings' seed, its split and its number alone. Its parts (clauses, a table, a signature, a
stamp) are the boxes from which the region families are rebuilt. Of its own questions some speak of "the marked clause"
and bring its box with them; without it they can only be guessed among three to five clauses.
"""

from collections.abc import Iterator

import numpy as np

from data_pipelines.core.errors import InvalidSetting
from data_pipelines.records import Source, SourceSplit
from data_pipelines.settings import DocumentsConfig
from data_pipelines.sources.document_drawing import Page, draw_page
from data_pipelines.sources.drawn import Asked, Picture, draw_split, drawn_card, side_of, yes_or_no

_DEFAULTS = DocumentsConfig()
CARD = drawn_card(
    "documents",
    "Documents",
    "drawn contract pages with boxes and questions, as the default settings draw them",
    _DEFAULTS,
    "Drawings: what is learnt from them says little about real documents.",
    "Another release of Pillow may set the text a little differently.",
)


def load(config: DocumentsConfig, split: str) -> SourceSplit:
    """Draws the pages of one split and asks each page's questions; those about a marked part have it as their region.

    Raises:
      DataError: no such split, or pages under 160 pixels wide, on which nothing can be read.
    """
    if config.page_width < 160:
        raise InvalidSetting(f"data.documents.page_width is {config.page_width}; words need at least 160 pixels")

    def draw(rng: np.random.Generator) -> Picture:
        page = draw_page(rng, config.page_width)
        return page.pixels, page.boxes, _questions(page, rng)

    return draw_split("documents", config, split, draw, modality="Document")


SOURCE = Source(
    CARD, lambda root, split: load(_DEFAULTS, split), configured=lambda data, split: load(data.documents, split)
)


def _questions(page: Page, rng: np.random.Generator) -> Iterator[Asked]:
    """Everything that is asked about a page. Of its clauses, one is marked and asked for."""
    clauses = list(page.amounts)
    marked = clauses[rng.integers(len(clauses))]
    yield "marked", "Which clause is marked?", _title(marked), "open", "Clause", marked
    yield "amount", "What is the amount in the marked clause?", page.amounts[marked], "open", "Amount", marked
    yield "circled", "Which part is circled?", _title(page.circled), "open", "Mark", ""
    yield "count", "How many clauses does the page have?", str(len(clauses)), "open", "Quantity", ""
    yield "signed", "Has the page been signed?", yes_or_no("Signature" in page.boxes), "closed", "Presence", ""
    if page.stamp:
        yield "stamp", "What does the stamp say?", page.stamp.capitalize(), "open", "Text", ""
    for part in ("Table", "Signature"):
        if part in page.boxes:
            question = f"On which side of the page is the {part.lower()}?"
            yield f"side/{part}", question, side_of(page.boxes[part]), "open", "Position", ""


def _title(label: str) -> str:
    return label.removesuffix(" Clause")
