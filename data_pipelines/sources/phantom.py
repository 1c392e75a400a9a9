"""The embedded data set: drawn CT-like slices with boxes and questions, so that a demo needs no download.

An image depends on the settings' seed, its split and its number alone. Without its region, the marked structure can
only be guessed among the five to nine that an image shows.
"""

from collections.abc import Iterator

import numpy as np

from data_pipelines.core.errors import InvalidSetting
from data_pipelines.records import Source, SourceSplit
from data_pipelines.settings import PhantomConfig
from data_pipelines.sources.drawn import Asked, Picture, draw_split, drawn_card, side_of, yes_or_no
from data_pipelines.sources.phantom_drawing import Slice, draw_slice

# What a presence question may ask for.
_FINDINGS = ("Liver Lesion", "Kidney Cyst")
_ASKED_FOR = ("Spleen", "Stomach", "Left Kidney", "Right Kidney", "Pancreas", "Gallbladder", *_FINDINGS)
_ORGANS = ("Liver", "Spleen", "Stomach", "Left Kidney", "Right Kidney")

_DEFAULTS = PhantomConfig()
CARD = drawn_card(
    "phantom",
    "Phantoms",
    "drawn CT-like slices of the abdomen with boxes and questions, as the default settings draw them",
    _DEFAULTS,
    "Drawings: what is learnt from them says nothing about patients.",
)


def load(config: PhantomConfig, split: str) -> SourceSplit:
    """Draws the images of one split and asks each image's questions, without regions.

    Raises:
      DataError: no such split, or an image size under 64 pixels, at which small structures vanish.
    """
    if config.image_size < 64:
        raise InvalidSetting(
            f"data.phantom.image_size is {config.image_size}; small structures need at least 64 pixels"
        )

    def draw(rng: np.random.Generator) -> Picture:
        drawn = draw_slice(rng, config.image_size)
        return drawn.pixels, drawn.boxes, _questions(drawn, rng)

    return draw_split("phantom", config, split, draw, modality="CT", body_part="Abdomen")


SOURCE = Source(
    CARD, lambda root, split: load(_DEFAULTS, split), configured=lambda data, split: load(data.phantom, split)
)


def _questions(drawn: Slice, rng: np.random.Generator) -> Iterator[Asked]:
    """Everything that is asked about a slice, without regions."""
    seen = drawn.boxes
    yield "contrast", "Was a contrast agent given?", yes_or_no(drawn.contrast), "closed", "Modality", ""
    label = _presence_label(drawn, rng)
    question, kind = f"Is there a {label.lower()} in the image?", "Abnormality" if label in _FINDINGS else "Organ"
    yield "presence", question, yes_or_no(label in seen), "closed", kind, ""
    kidneys = sum(kidney in seen for kidney in ("Left Kidney", "Right Kidney"))
    yield "count", "How many kidneys are there in the image?", str(kidneys), "open", "Quantity", ""
    organs = [organ for organ in _ORGANS if organ in seen]
    if organs:
        largest = max(organs, key=lambda organ: drawn.areas[organ])
        yield "largest", "What is the largest organ in the image?", largest, "open", "Size", ""
    for organ in ("Liver", "Spleen", "Stomach"):
        if organ in seen:
            question = f"On which side of the image is the {organ.lower()}?"
            yield f"side/{organ}", question, side_of(seen[organ]), "open", "Position", ""
    for kidney in ("Left Kidney", "Right Kidney"):
        if kidney in seen:
            answer = yes_or_no(kidney in drawn.enlarged)
            yield f"enlarged/{kidney}", f"Is the {kidney.lower()} enlarged?", answer, "closed", "Size", ""
    if drawn.cyst_in and kidneys == 2:
        yield "cyst", "Which kidney has a cyst?", drawn.cyst_in, "open", "Position", ""
    if "Liver Lesion" in seen:
        answer = "Bright" if drawn.lesion_bright else "Dark"
        yield "lesion", "Is the liver lesion bright or dark?", answer, "closed", "Color", ""
    if "Gallbladder" in seen:
        yield "gallbladder", "Is the gallbladder healthy?", yes_or_no(not drawn.stones), "closed", "Abnormality", ""


def _presence_label(drawn: Slice, rng: np.random.Generator) -> str:
    """Something that is there or something that is not, at equal odds."""
    there = [label for label in _ASKED_FOR if label in drawn.boxes]
    absent = [label for label in _ASKED_FOR if label not in drawn.boxes]
    pool = there if (rng.random() < 0.5 and there) or not absent else absent
    return pool[rng.integers(len(pool))]
