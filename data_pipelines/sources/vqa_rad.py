"""VQA-RAD: clinicians' questions on radiographs, CT and MRI (Lau et al., Scientific Data 2018). It has no boxes.

Layout under the root, as published: `VQA_RAD Dataset Public.json` and `images/`.

The published split is by question: 202 of the 203 test images are training images too, so a run on it must say
`data.allow_test_images_in_training=True`. There is no published validation split; "validate" is a tenth of the
training images, and "fit" the training questions on the others.
"""

import os
from functools import partial
from typing import Any

from data_pipelines.core.errors import invalid_field
from data_pipelines.core.json_files import read_list, text_field
from data_pipelines.core.seeding import rng_for
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import answer_type_field, begin_split, row_object

QUESTIONS = "VQA_RAD Dataset Public.json"

CARD = DataCard(
    name="vqa_rad",
    title="VQA-RAD",
    about="clinicians' questions on head CT and MRI, chest X-rays and abdominal CT, without boxes",
    paper="Lau, Gayen, Ben Abacha, Demner-Fushman, Scientific Data 5, 180251 (2018), doi:10.1038/sdata.2018.251",
    url="https://osf.io/89kps",
    licence="CC0 1.0",
    layout="VQA_RAD Dataset Public.json, images/synpicN.jpg",
    splits={"train": Count(1797, 313), "test": Count(451, 203), "fit": Count(1661, 288), "validate": Count(136, 25)},
    traps=(
        "The published split is by question: 202 of the 203 test images are training images too, so a run must say "
        "data.allow_test_images_in_training=True.",
        "There is no published validation split: 'validate' is a tenth of the training images, 'fit' the rest.",
        "The often quoted 3,515 questions count 1,267 templated rephrasings that the public file does not ask.",
        "Closed questions are not only yes or no: 21 of the 272 in the test split are not.",
        "Some answers are numbers, two answer types are written 'CLOSED ', and three question types are misspelt.",
        "Many images are MedPix teaching cases with text burnt into them.",
    ),
)

_VALIDATION_SHARE = 0.1
_TEST_PHRASES = ("test_freeform", "test_para")
_TRAIN_PHRASES = ("freeform", "para")
# Misspelt in three entries of the published file.
_QUESTION_TYPES = {"PRSE": "PRES", "ATRIB": "ATTRIB"}


def load(root: str, split: str) -> SourceSplit:
    """The questions of one split and its images, which have no regions.

    Left out, counted and named in a logged warning: questions whose image is not in the folder or without an answer.

    Raises:
      DataError: no such folder or split; a file that is missing or malformed.
      MalformedRows: entries lack a field or have a value that it cannot have.
    """
    found = begin_split(CARD, root, split)

    def take(where: str, row: Any) -> None:
        text = partial(text_field, row_object(row, where), where=where)
        name = text("image_name")
        if split not in _splits_of(text("phrase_type"), name, where):
            return
        file = os.path.join(root, "images", name)
        if not (file := found.file(file, name)):
            return
        image = found.image(file, name, body_part=text("image_organ"))
        key, answer = text("qid"), text("answer", may_be_empty=True)
        if found.has_answer(answer, key, reason="question without an answer"):
            says = {"question": text("question"), "answer": answer, "answer_type": answer_type_field(row, where)}
            found.question(image, key, content_type=_content_type(text("question_type")), **says)

    found.each(read_list(os.path.join(root, QUESTIONS)), take)
    return found.finished()


SOURCE = Source(CARD, load)


def _splits_of(phrase_type: str, image_name: str, where: str) -> tuple[str, ...]:
    if phrase_type in _TEST_PHRASES:
        return ("test",)
    if phrase_type in _TRAIN_PHRASES:
        held_out = rng_for("vqa_rad validate", image_name).random() < _VALIDATION_SHARE
        return ("train", "validate" if held_out else "fit")
    expected = ", ".join(_TRAIN_PHRASES + _TEST_PHRASES)
    raise invalid_field(where, "phrase_type", phrase_type, f"expected one of {expected}")


def _content_type(question_type: str) -> str:
    """Upper case, one spelling, and combined types in one order: "PRES, ATTRIB" and "ATTRIB, PRES" are the same."""
    names = (name.strip().upper() for name in question_type.split(","))
    return ", ".join(sorted(_QUESTION_TYPES.get(name, name) for name in names))
