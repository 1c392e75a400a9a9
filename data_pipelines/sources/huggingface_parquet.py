"""VQA-RAD, PathVQA and English SLAKE as repackaged on Hugging Face: `data/SPLIT-*.parquet`, images inside.

Rows are `image` (a struct of encoded bytes and a name), `question` and `answer`. The same image stands in every row
that asks about it; here its bytes are kept once, and their hash names it.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from data_pipelines.core.errors import DataError, InvalidValue, MalformedFile, MissingField, MissingFile, reason_of
from data_pipelines.core.json_files import require_folder, text_field
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.core.values import Settled
from data_pipelines.records import Count, DataCard, Source, SourceSplit
from data_pipelines.sources.split_builder import answer_type_by_answer, begin_split

# A row of PathVQA holds about 170 kB of image (5.5 GB in 32,632 rows), so a batch some 11 MB.
_ROWS_AT_ONCE = 64
_SHARD = re.compile(r"^(?P<split>\w+)-(?P<number>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?\.parquet$")
_COLUMNS = ("image", "question", "answer")

_LAYOUT = "data/SPLIT-NNNNN-of-NNNNN.parquet, as downloaded with `hf download --repo-type dataset`"
_TRAPS = (
    "The files do not say which questions are closed: those answered yes or no are taken to be, so closed scores are "
    "not those of the original's answer types.",
    "There are no names: an image is named by the hash of its bytes, a question by its row.",
    "A split's distinct images are held in memory, encoded: of PathVQA's three splits together about 0.8 GB.",
)


def load(card: DataCard, root: str, split: str) -> SourceSplit:
    """The questions of one split and their images as encoded bytes, without regions.

    Left out, counted and named in a logged warning: rows without an image's bytes, or without an answer.

    Raises:
      DataError: no such folder or split; a parquet file that is missing, damaged or lacks a column; pyarrow is missing.
      MalformedRows: rows without a question, or whose question or answer is neither text nor a number.
    """
    found = begin_split(card, root, split)

    def take(where: str, numbered: tuple[int, dict[str, Any]]) -> None:
        number, entry = numbered
        key = f"{split}/{number}"
        content = (entry["image"] or {}).get("bytes")
        answer = text_field(entry, "answer", where, may_be_empty=True)
        if not content:
            found.left_out.add("no image in the row", f"{card.name}/{key}")
        elif found.has_answer(answer, key):
            image = found.image(content, hashlib.sha256(content).hexdigest()[:16])
            question, answer_type = text_field(entry, "question", where), answer_type_by_answer(answer)
            found.question(image, key, question=question, answer=answer, answer_type=answer_type)

    rows = enumerate(_rows(_shards(root, split)))
    found.each(((where, (number, entry)) for number, (where, entry) in rows), take)
    return found.finished()


def _shards(root: str, split: str) -> list[str]:
    """Every shard of the split, in order. Raises DataError where one is missing or the split is there twice."""
    folder = os.path.join(root, "data")
    require_folder(folder, "the folder of parquet files")
    shards = [match for name in sorted(os.listdir(folder)) if (match := _SHARD.match(name)) and match["split"] == split]
    if not shards:
        raise MissingFile(f"{folder}: no {split}-*.parquet; download it from the card's address")
    names, numbers = [shard[0] for shard in shards], {int(shard["number"]) for shard in shards}
    if len(numbers) < len(shards) or len({shard["total"] for shard in shards}) > 1:
        raise DataError(f"{folder}: {', '.join(names)} are of several copies; keep one", code="file.conflict")
    total = int(shards[0]["total"])
    if missing := sorted(set(range(total)) - numbers):
        lacking = ", ".join(map(str, missing))
        raise MissingFile(f"{folder}: of {total} {split} files number {lacking} is missing; download it again")
    return [os.path.join(folder, name) for name in names]


def _rows(paths: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of the rows of all files, a batch at a time in memory."""
    pyarrow = optional_package("pyarrow", "parquet files")
    parquet = optional_package("pyarrow.parquet", "parquet files")
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                _check_columns(path, {field.name: str(field.type) for field in file.schema_arrow})
                batches = file.iter_batches(_ROWS_AT_ONCE, columns=list(_COLUMNS))
                entries = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
                settled = Settled(path)
                for number, entry in enumerate(entries):
                    where = f"{path}: row {number}"
                    yield where, settled.value(entry, where)
                settled.say()
        except (pyarrow.ArrowException, OSError) as error:
            raise MalformedFile(f"{path}: not a whole parquet file ({reason_of(error)}); download it again") from None


def _check_columns(path: str, types: Mapping[str, str]) -> None:
    if lacking := [name for name in _COLUMNS if name not in types]:
        raise MissingField(f"{path}: no column {', '.join(lacking)} among {list(types)}; is it the published file?")
    if "bytes: binary" not in types["image"] and "bytes: large_binary" not in types["image"]:
        raise InvalidValue(f"{path}: column image is {types['image']}; expected a struct with bytes")


def _source(name: str, *, traps: tuple[str, ...], **described: Any) -> Source:
    card = DataCard(name=name, layout=_LAYOUT, traps=(*traps, *_TRAPS), **described)
    return Source(card, partial(load, card))


VQA_RAD_HF = _source(
    "vqa_rad_hf",
    title="VQA-RAD, repackaged by flaviagiammarino",
    about="Clinicians' questions on radiographs, CT and MRI.",
    paper="Lau et al., A dataset of clinically generated visual questions and answers about radiology images, "
    "Scientific Data 2018, doi 10.1038/sdata.2018.251",
    url="https://huggingface.co/datasets/flaviagiammarino/vqa-rad",
    licence="CC0 1.0",
    splits={"train": Count(1793, 313), "test": Count(451, 203)},
    traps=(
        "The split is by question: 202 of the 203 test images are training images too, so a run must say "
        "data.allow_test_images_in_training=True.",
        "Three questions that stand twice in training and one that stands in test too are gone from training (1,793 "
        "of 1,797).",
        "There is no validation split.",
        "Question types, organs and phrasings are gone.",
    ),
)

PATH_VQA_HF = _source(
    "path_vqa_hf",
    title="PathVQA, repackaged by flaviagiammarino",
    about="Open and yes/no questions on figures of pathology textbooks and of the PEIR digital library.",
    paper="He et al., PathVQA: 30000+ Questions for Medical Visual Question Answering, arXiv 2003.10286",
    url="https://huggingface.co/datasets/flaviagiammarino/path-vqa",
    licence="MIT; the copyrights of images and captions stay with the textbooks' publishers and authors and with the "
    "owners of PEIR",
    splits={"train": Count(19654), "validation": Count(6259), "test": Count(6719)},
    traps=(
        "Questions that stood more than once in a split are gone (163 of 32,795), so scores are not quite those on "
        "the authors' files.",
    ),
)

SLAKE_HF = _source(
    "slake_hf",
    title="SLAKE, English questions, repackaged by mdwiratathya",
    about="Questions on CT, MRI and radiographs; without SLAKE's boxes and masks.",
    paper="Liu et al., SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual Question "
    "Answering, ISBI 2021, arXiv 2102.09542",
    url="https://huggingface.co/datasets/mdwiratathya/SLAKE-vqa-english",
    licence="CC BY 4.0 (SLAKE's authors); the repackaging states none",
    splits={"train": Count(4919, 450), "validation": Count(1053, 96), "test": Count(1061, 96)},
    traps=(
        "It has no boxes, masks, modalities or question types: for regions use the authors' archive (source slake); "
        "huggingface.co/datasets/BoKelvin/SLAKE is that archive, with validation.json for validate.json.",
        "Question 1622, which has no answer in the authors' file, was given one.",
        "Counts are those of the English questions in the authors' files.",
    ),
)
