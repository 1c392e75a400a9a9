"""What the data sets that are drawn have in common: a picture depends on the seed, its split and its number alone."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from PIL import Image

from data_pipelines.core.seeding import rng_for
from data_pipelines.images.reading import image_file
from data_pipelines.records import AnswerType, Box, Count, DataCard, Region, SourceSplit
from data_pipelines.settings import DocumentsConfig, PhantomConfig
from data_pipelines.sources.split_builder import SplitBuilder, require_split

Drawn = PhantomConfig | DocumentsConfig
# Key, question, answer, answer type, content type, and the label of the part it is about, "" of none.
Asked = tuple[str, str, str, AnswerType, str, str]
# Pixels, boxes by what they hold, and what is asked.
Picture = tuple[np.ndarray, Mapping[str, Box], Iterable[Asked]]


def _sizes(config: Drawn) -> dict[str, int]:
    return {"train": config.train_images, "validate": config.validate_images, "test": config.test_images}


def drawn_card(name: str, title: str, about: str, config: Drawn, *traps: str) -> DataCard:
    """The card of a drawn data set; `config` holds the default settings."""
    return DataCard(
        name=name,
        title=title,
        about=about,
        paper="none",
        url="none",
        licence="Apache-2.0, as this package",
        layout="",
        splits={split: Count(images=size) for split, size in _sizes(config).items()},
        traps=traps,
    )


def draw_split(
    name: str, config: Drawn, split: str, draw: Callable[[np.random.Generator], Picture], **shows: str
) -> SourceSplit:
    """The pictures of one split with the questions about each; those about a part have it as their region.

    Args:
      name: of the data set.
      draw: draws one of them.
      shows: modality and body part of all.

    Raises:
      DataError: no such split.
    """
    require_split(name, split, sizes := _sizes(config))
    found = SplitBuilder(name, split)
    for index in range(sizes[split]):
        pixels, boxes, questions = draw(rng_for(name, config.seed, split, index))
        parts = {label: Region(box, label) for label, box in boxes.items()}
        # Packed lightly: it is drawn anew in every run.
        file = image_file(Image.fromarray(pixels), compress_level=1)
        image = found.image(file, f"{split}-{index:05d}", regions=tuple(parts.values()), **shows)
        for key, question, answer, answer_type, content_type, label in questions:
            marks = {"regions": (parts[label],), "provenance": "annotation"} if label else {}
            says = {"question": question, "answer": answer, "answer_type": answer_type, "content_type": content_type}
            found.question(image, f"vqa/{image.image_id}/{key}", **says, **marks)
    return found.finished()


def side_of(box: Box) -> str:
    """On which side of the picture a box lies."""
    return "Left" if box[1] + box[3] < 1 else "Right"


def yes_or_no(fact: bool) -> str:
    """The answer to a closed question."""
    return "Yes" if fact else "No"
