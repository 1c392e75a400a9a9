"""What the conditions of `conditions.py` make of an example's picture: another one, noise, or a worse one.

The blank picture is not made here: it is a tone of whatever picture there is (`loading/preprocess.py`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from data_pipelines.conditions import ALL, CONTROLS, CORRUPTED, MAIN
from data_pipelines.core.errors import DataError, UnknownName
from data_pipelines.core.seeding import rng_for
from data_pipelines.images.corruptions import corrupted, noise_image
from data_pipelines.records import Region, VQAExample

BLANK = ("blank", "question_only")


def picture_kind(condition: str) -> str:
    """Conditions of one kind show an example the same picture: "own", "blank", or one of its own.

    Raises:
      DataError: no condition of an evaluation.
    """
    if condition not in ALL:
        raise UnknownName(
            f"condition {condition!r}: is none that an evaluation asks; choose of {', '.join((*MAIN, *CONTROLS))} and "
            "corrupted:KIND:LEVEL"
        )
    if condition in BLANK:
        return "blank"
    return condition if condition in (*CONTROLS, *CORRUPTED) else "own"


def changed_picture(image: UInt8[np.ndarray, "H W 3"], condition: str, name: str) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture that a condition shows in place of an image, at its size; None where it shows the image itself.

    Args:
      image: as decoded. Under "shuffled" it is already the other question's (`ShuffledImages`).
      name: the example's id, which decides what is drawn.
    """
    if condition == "noise":
        return noise_image(image, name)
    if condition in CORRUPTED:
        _, kind, level = condition.split(":")
        return corrupted(image, kind, int(level), name)
    return None


class ShuffledImages:
    """Gives each question another question's image of the same split, never one of its own image_id.

    Which one depends on the question's id and on the images of the split, not on which of its questions are asked.
    """

    def __init__(self, examples: Sequence[VQAExample]):
        """Takes the examples of one split, all of them."""
        images = {example.image_id: example.image for example in examples}
        self._images = [images[name] for name in sorted(images)]
        self._place = {name: place for place, name in enumerate(sorted(images))}

    def under(self, example: VQAExample) -> VQAExample:
        """The example with another image. Its regions keep their boxes, and lose outlines that were drawn on its own.

        Raises:
          DataError: the split has no other image.
        """
        own = self._place.get(example.image_id, len(self._images))
        others = len(self._images) - (own < len(self._images))
        if not others:
            raise DataError(
                f"{example.id}: condition 'shuffled' needs another image, and this is the only one of the "
                f"{example.split} split of {example.dataset}; leave the condition out",
                code="image.missing",
            )
        drawn = int(rng_for("shuffled", example.id).integers(others))
        boxes = tuple(Region(region.box, region.label) for region in example.regions)
        return dataclasses.replace(example, image=self._images[drawn + (drawn >= own)], regions=boxes)
