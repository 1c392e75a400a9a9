"""PMC-VQA: multiple-choice questions on figures of PubMed Central articles (Zhang et al. 2023, arXiv 2305.10415).

Version 1 asks about whole figures, version 2 (the files named `_2`) about the panels into which compound figures were
cut. In version 1 the column `Answer` is the right option's text and `Answer_label` its letter; in version 2 `Answer` is
the letter.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from data_pipelines.core.json_files import single_blanks, text_field
from data_pipelines.core.text_files import numbered_rows
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import begin_split

CARD = DataCard(
    name="pmc_vqa",
    title="PMC-VQA",
    about="Questions with four options on figures of PubMed Central articles, written by a language model from the "
    "figures' captions.",
    paper="Zhang et al., PMC-VQA: Visual Instruction Tuning for Medical Visual Question Answering, arXiv 2305.10415",
    url="https://huggingface.co/datasets/RadGenome/PMC-VQA",
    licence="CC BY-SA (the data set); the articles are under CC0 or CC BY, listed in oa_comm_use_file_list.csv",
    layout="train.csv, test.csv, test_clean.csv with images.zip unpacked to images/; train_2.csv, test_2.csv with "
    "images_2.zip unpacked to figures/",
    splits={
        "train": Count(176948),
        "test": Count(),  # about 50,000
        "test_clean": Count(2000),
        "train_2": Count(152603),
        "test_2": Count(33430),
    },
    traps=(
        "test_clean is the part of test that people checked; the rest, and all training questions, nobody did.",
        "The authors' README calls version 2's files train2.csv and test2.csv; they are train_2.csv and test_2.csv.",
        "Whether version 2 divides the articles between training and test as version 1 does, is not said: do not "
        "train on one and test on the other before comparing the article numbers in the images' names (PMC…).",
        "Questions were written from captions alone, so some ask what the caption tells and the figure does not.",
        "The letter decides which option is right; where it is none of the four, the option that equals the answer's "
        "text. Some rows' letter and text disagree.",
        "The answer is the right option's text, not its letter, and the question names the options in the published "
        "order.",
        "Version 2 carries captions; they are not read.",
    ),
)

_FOLDERS = {"train": "images", "test": "images", "test_clean": "images", "train_2": "figures", "test_2": "figures"}
_LETTERS = ("A", "B", "C", "D")
_COLUMNS = ("Figure_path", "Question", *(f"Choice {letter}" for letter in _LETTERS))
_LABEL = re.compile(r"^[A-D]\s*:\s*")


def load(root: str, split: str) -> SourceSplit:
    """The questions of one split, each with its `choices`, and their images, which have no regions.

    Left out, counted and named in a logged warning: questions without text, that name no option as the right one, or
    whose image is not in the folder. An empty option is no option.

    Raises:
      DataError: no such folder or split; a file that is missing, is not CSV in UTF-8, or lacks a column.
      MalformedRows: rows name no image.
    """
    found = begin_split(CARD, root, split)
    folder = _FOLDERS[split]
    rows = numbered_rows(os.path.join(root, f"{split}.csv"), _COLUMNS, either=("Answer_label", "Answer"))

    def take(where: str, numbered: tuple[int, dict[str, str]]) -> None:
        number, row = numbered
        question = single_blanks(row["Question"])
        options = {letter: _LABEL.sub("", single_blanks(row[f"Choice {letter}"])) for letter in _LETTERS}
        answer = _right_option(row, options)
        if not question or not answer:
            reason = "no option is named as the right one" if question else "no question"
            found.left_out.add(reason, f"pmc_vqa/{split}/{number}")
            return
        choices = tuple(option for option in options.values() if option)
        name = text_field(row, "Figure_path", where)
        file = f"{folder}/{name}"
        question += f" Choose: {'; '.join(choices)}"
        says: dict[str, Any] = {"question": question, "answer": answer, "answer_type": "closed", "choices": choices}
        found.ask(os.path.join(root, file), name, f"{split}/{number}", named=file, **says)

    found.each(((where, (number, row)) for number, (where, row) in enumerate(rows)), take)
    return found.finished()


def _right_option(row: Mapping[str, str], options: Mapping[str, str]) -> str:
    """The option that the letter names, else the one that equals the answer's text, else ""."""
    text = single_blanks(row.get("Answer", ""))
    letter = single_blanks(row.get("Answer_label", "")) or text
    return options[letter] if letter in options else text if text in options.values() else ""


SOURCE = Source(CARD, load)
