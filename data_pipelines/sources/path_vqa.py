"""PathVQA: questions on pathology figures (He et al. 2020, arXiv 2003.10286), in its authors' layout.

The question files are pickles. They are read with an unpickler that knows no classes: a file that wants one, as any
that would run code does, is refused.
"""

import os
import pickle
from typing import Any

from data_pipelines.core.errors import DataError, MalformedFile, MissingFile, UnreadableFile, reason_of
from data_pipelines.core.json_files import settled_rows, text_field
from data_pipelines.core.text_files import PUBLISHED
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import answer_type_by_answer, begin_split, row_object

CARD = DataCard(
    name="path_vqa",
    title="PathVQA",
    about="Open and yes/no questions on figures of pathology textbooks and of the PEIR digital library, made from "
    "their captions.",
    paper="He et al., PathVQA: 30000+ Questions for Medical Visual Question Answering, arXiv 2003.10286",
    url="https://github.com/UCSD-AI4H/PathVQA",
    licence="MIT (the authors' repository); the copyrights of images and captions stay with the textbooks' publishers "
    "and authors and with the owners of PEIR",
    layout="images/{train,val,test}/NAME.jpg, qas/{train,val,test}/{train,val,test}_qa.pkl (lists of objects with "
    "image, question and answer)",
    splits={"train": Count(19755), "val": Count(6279), "test": Count(6761)},
    traps=(
        "715 of the 5,004 images have no question.",
        "Some questions stand in a split more than once (32,632 of the 32,795 are distinct); they are kept, as the "
        "published scores count them.",
        "The files do not say which questions are closed: those answered yes or no are taken to be.",
        "Questions were generated from captions by rules: some name what only the caption tells, and several are "
        "not grammatical.",
        "qas/*_vqa.pkl holds the same questions with labels of a closed vocabulary, which lacks rare answers; it is "
        "not read.",
    ),
)


def load(root: str, split: str) -> SourceSplit:
    """The questions of one split and their images, which have no regions.

    Left out, counted and named in a logged warning: questions whose image is not in the folder, or without an answer.

    Raises:
      DataError: no such folder or split; a file that is missing, malformed, or a pickle of anything but plain data.
      MalformedRows: entries lack an image's name or a question, or have them as anything but text.
    """
    found = begin_split(CARD, root, split)
    path = os.path.join(root, "qas", split, f"{split}_qa.pkl")

    def take(where: str, numbered: tuple[int, Any]) -> None:
        number, entry = numbered[0], row_object(numbered[1], where)
        name = text_field(entry, "image", where)
        file = f"images/{split}/{name}.jpg"
        answer = text_field(entry, "answer", where, may_be_empty=True)
        says = {"question": text_field(entry, "question", where), "answer_type": answer_type_by_answer(answer)}
        found.ask(os.path.join(root, file), name, f"{split}/{number}", answer=answer, named=file, **says)

    rows = enumerate(settled_rows(_read_entries(path), path))
    found.each(((where, (number, row)) for number, (where, row) in rows), take)
    return found.finished()


class _PlainUnpickler(pickle.Unpickler):
    """Reads text, numbers, lists and dicts. Everything else needs a class, and classes are what can run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise MalformedFile(
            f"it holds {module_name}.{global_name}, which PathVQA's files do not; get them from their authors"
        )


def _read_entries(path: str) -> list[Any]:
    try:
        with open(path, "rb") as file:
            entries = _PlainUnpickler(file, encoding="utf-8").load()
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file; {PUBLISHED}") from None
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error.strerror}); {PUBLISHED}") from None
    except DataError as error:
        raise error.within(f"{path}: not read, as") from None
    # A damaged pickle may raise nearly anything: UnpicklingError, EOFError, KeyError, MemoryError …
    except Exception as error:
        raise MalformedFile(f"{path}: not a whole pickle ({reason_of(error)}); copy the file again") from None
    if not isinstance(entries, list):
        raise MalformedFile(f"{path}: expected a list of objects, found {type(entries).__name__}; {PUBLISHED}")
    return entries


SOURCE = Source(CARD, load)
