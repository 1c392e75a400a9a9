"""ImageCLEF VQA-Med 2019: questions on MedPix images (Ben Abacha et al., CLEF 2019), in its authors' layout.

Lines are `image|question|answer`; in the test set `image|category|question|answer`, where the organisers mark several
right answers by "#" and a part that may be missing by "()".
"""

import logging
import os
import re
from collections.abc import Iterator

from data_pipelines.core.errors import MissingField
from data_pipelines.core.json_files import single_blanks
from data_pipelines.core.text_files import lines_of
from data_pipelines.core.values import is_absent
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import SplitBuilder, answer_type_by_answer, begin_split

logger = logging.getLogger(__name__)

CARD = DataCard(
    name="vqa_med_2019",
    title="VQA-Med 2019 (ImageCLEF)",
    about="Questions about modality, plane, organ system and abnormality on radiology images of MedPix, made from "
    "patterns; the test set was checked by two physicians.",
    paper="Ben Abacha et al., VQA-Med: Overview of the Medical Visual Question Answering Task at ImageCLEF 2019, "
    "CLEF 2019 Working Notes, CEUR-WS 2380 paper 272",
    url="https://zenodo.org/records/10499039",
    licence="CC BY 4.0 (the Zenodo record, since May 2026)",
    layout="ImageClef-2019-VQA-Med-Training/{All_QA_Pairs_train.txt, QAPairsByCategory/C*_train.txt, Train_images/}, "
    "ImageClef-2019-VQA-Med-Validation/{All_QA_Pairs_val.txt, QAPairsByCategory/C*_val.txt, Val_images/}, "
    "VQAMed2019Test/{VQAMed2019_Test_Questions_w_Ref_Answers.txt, VQAMed2019_Test_Images/}; images are NAME.jpg",
    splits={"train": Count(12792, 3200), "val": Count(2000, 500), "test": Count(500, 500)},
    traps=(
        "The images are MedPix's, as VQA-RAD's and MedPix 2.0's are, under the same names (synpic…): compare images "
        "before training on one and testing on another.",
        "The files give no ids: a question's is its split and the number of its line, from 1: vqa_med_2019/test/17.",
        "The test set is published by itself: who has only that prepares it with --splits test.",
        "VQAMed2019_Test_Images comes as an archive within the archive; unpack it too.",
        "A test question may have several right answers: the first, as written, is the answer, and the others, with "
        "and without what stands in brackets, are accepted.",
        "In training and validation answers brackets belong to the answer, e.g. \"ct w/contrast (iv)\".",
        "The files do not say which questions are closed: those answered yes or no are taken to be. Questions that "
        "name their options (\"t1, t2, or flair?\") count as open.",
        "Most questions are fixed phrases, and of the 3,200 training answers about the plane 1,558 are \"axial\".",
    ),
)  # fmt: skip

_CATEGORIES = {"C1_Modality": "modality", "C2_Plane": "plane", "C3_Organ": "organ", "C4_Abnormality": "abnormality"}


# Split → folder, file of questions, and folder of images in it.
_FILES = {
    "train": ("ImageClef-2019-VQA-Med-Training", "All_QA_Pairs_train.txt", "Train_images"),
    "val": ("ImageClef-2019-VQA-Med-Validation", "All_QA_Pairs_val.txt", "Val_images"),
    "test": ("VQAMed2019Test", "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "VQAMed2019_Test_Images"),
}


def load(root: str, split: str) -> SourceSplit:
    """The questions of one split, their category as `content_type`, and their images, which have no regions.

    Left out, counted and named in a logged warning: questions whose image is not in the folder, or without an answer.
    A question that stands in no file of a category keeps an empty one; a warning counts them.

    Raises:
      DataError: no such folder or split; a file that is missing or is not UTF-8.
      MalformedRows: lines that have too few fields, or no question.
    """
    found = begin_split(CARD, root, split)
    folder, questions, pictures = _FILES[split]
    path = os.path.join(root, folder, questions)
    categories = {} if split == "test" else _categories(os.path.join(root, folder), split, found)

    def take(where: str, numbered: tuple[int, str]) -> None:
        number, line = numbered
        name, *category, question, answer = _fields(line, where, 4 if split == "test" else 3)
        if not question:
            raise MissingField(
                f"{where}: the question is empty; fill it in or remove the line", fault="the question is empty"
            )
        file = os.path.join(folder, pictures, f"{name}.jpg")
        answer, accepted = _references(answer) if split == "test" else (answer, ())
        says = {"question": question, "answer_type": answer_type_by_answer(answer), "accepted": accepted}
        says["content_type"] = category[0] if category else categories.get((name, question), "")
        found.ask(os.path.join(root, file), name, f"{split}/{number}", answer=answer, named=file, **says)

    found.each(_lines(path), take)
    if uncategorised := [example.id for example in found.examples if not example.content_type]:
        logger.warning("vqa_med_2019 %s: %d questions stand in no category's file: %s …",
                       split, len(uncategorised), uncategorised[0])  # fmt: skip
    return found.finished()


def _categories(folder: str, split: str, found: SplitBuilder) -> dict[tuple[str, str], str]:
    """(image, question) → category, from the files in which the organisers repeat the questions by category."""
    categories = {}
    for file, category in _CATEGORIES.items():

        def take(where: str, numbered: tuple[int, str], category: str = category) -> None:
            name, question, _ = _fields(numbered[1], where, 3)
            categories[name, question] = category

        found.each(_lines(os.path.join(folder, "QAPairsByCategory", f"{file}_{split}.txt")), take)
    return categories


def _references(written: str) -> tuple[str, tuple[str, ...]]:
    """The first answer as written, and what else is right by the organisers' rules for the test set.

    "#" stands between alternatives, and what "()" encloses "could be ignored" (README-VQA-Med-2019-TestSet.txt).
    """
    alternatives = [answer for part in written.split("#") if (answer := part.strip())]
    shorter = [single_blanks(re.sub(r"\([^()]*\)", " ", answer)) for answer in alternatives]
    right = dict.fromkeys(answer for answer in (*alternatives, *shorter) if answer)
    first, *others = right or {"": None}
    return first, tuple(others)


def _lines(path: str) -> Iterator[tuple[str, tuple[int, str]]]:
    """What names each line in messages, its number from 1, and the line; empty ones are passed over."""
    return ((f"{path}: line {number}", (number, line)) for number, line in lines_of(path))


def _fields(line: str, where: str, count: int) -> list[str]:
    """The fields of a line, blanks made single; the last one may hold a bar. Raises: DataError: they are too few."""
    fields = ["" if is_absent(field) else single_blanks(field) for field in line.split("|", count - 1)]
    if len(fields) < count or not fields[0]:
        raise MissingField(
            f"{where} is {line.strip()[:80]!r}; expected {count} fields with | between them",
            fault=f"a line has fewer than {count} fields",
        )
    return fields


SOURCE = Source(CARD, load)
