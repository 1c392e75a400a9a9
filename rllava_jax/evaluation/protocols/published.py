"""Published test splits by name: `strict`, on every question that a complete copy has, and on no others."""

import dataclasses

from data_pipelines.records import DataCard
from data_pipelines.sources import path_vqa, slake, vqa_rad
from rllava_jax.evaluation.protocols.protocol import Protocol
from rllava_jax.evaluation.protocols.strict import STRICT

# The card counts both languages; 1,033 of its 2,094 test questions are Chinese.
_SLAKE_ENGLISH = 1061


def _published(name: str, card: DataCard, *, expected: int | None = None, faults: tuple[str, ...]) -> Protocol:
    return dataclasses.replace(
        STRICT,
        name=name,
        about=f"strict on the {expected or card.splits['test'].examples:,} questions of {card.title}'s published test "
        "split; refuses where any is missing, unless --allow-missing says how many may be.",
        source=f"{card.paper}; {STRICT.source}",
        faults=(*STRICT.faults, *faults),
        dataset=card.name,
        expected=expected or card.splits["test"].examples,
    )


SLAKE = _published(
    "slake",
    slake.CARD,
    expected=_SLAKE_ENGLISH,
    faults=("English alone, as published tables have it: a model trained on the Chinese training split has seen 84 of "
            "the 96 images.",),
)  # fmt: skip
VQA_RAD = _published(
    "vqa_rad", vqa_rad.CARD, faults=("The split is by question: 202 of the 203 test images are training images too.",)
)
PATH_VQA = _published(
    "pathvqa",
    path_vqa.CARD,
    faults=("Questions were made from captions by rules; some ask what only the caption tells.",
            "The files do not say which questions are closed: those answered yes or no are taken to be."),
)  # fmt: skip
