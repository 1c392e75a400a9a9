"""Reading LLaVA-Med's training files: captions asked for by an instruction, and conversations (Li et al. 2023).

Records `{id, image, domain, conversations: [{from: human|gpt, value}]}`; `<image>` stands before or after the first
question and is taken out, since the prompt template has the image's place. A conversation of several turns is one
example: its last question and answer, the earlier ones in `turns`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_pipelines.core.errors import invalid_field
from data_pipelines.core.json_files import read_objects, single_blanks, text_field
from data_pipelines.records import DataCard, Family, SourceSplit, Turn
from data_pipelines.sources.split_builder import begin_split

PAPER = "Li et al., LLaVA-Med, NeurIPS 2023 Datasets and Benchmarks, arXiv 2306.00890"
URL = "https://github.com/microsoft/LLaVA-Med"
LICENCE = (
    "CC BY-NC 4.0, for research alone, and further restricted by the terms of LLaMA, Vicuna and GPT-4; "
    "the figures have their articles' licences"
)
IMAGES = "images/*.jpg (from llava_med_image_urls.jsonl by the authors' download_images.py)"
TRAPS = (
    "The figures are PubMed Central's: they overlap with ROCOv2 and PMC-VQA. Compare images before testing on those.",
    "The link to the image archive in the authors' script has expired, and articles move: images that are missing are "
    "left out with their conversations.",
    'Copies differ in the spelling of the field: "conversations", and "conversatons".',
    "All of it is for training; the 50 conversations for evaluation are another file.",
)

_IMAGE_TOKEN = "<image>"
# The five domains; a figure of none or several has no modality.
_MODALITIES = {
    "chest_xray": "X-Ray",
    "ct_scan": "CT",
    "mri": "MRI",
    "histology": "Histology",
    "gross": "Gross pathology",
}


def load(card: DataCard, files: Mapping[str, str], family: Family, root: str, split: str) -> SourceSplit:
    """The conversations of one file, and their images, which have no regions.

    Left out, counted and named in a logged warning: conversations whose image is not in the folder, that are empty
    or do not alternate between human and gpt, beginning with human and ending with gpt, or that have an empty question
    or answer. Where several conversations have one identifier, the second is named …/2, and so on.

    Args:
      files: split → JSON file, which is also found without its folder.
      family: of all the file's examples.

    Raises:
      DataError: no such folder or split; a file that is missing or is not a list of objects with id and image.
    """
    found = begin_split(card, root, split, files)
    flat = os.path.join(root, os.path.basename(files[split]))
    path = flat if os.path.isfile(flat) else os.path.join(root, files[split])
    seen: Counter[str] = Counter()
    for number, entry in enumerate(read_objects(path)):
        where = f"{path}: entry {number}"
        key = f"{split}/{text_field(entry, 'id', where)}"
        name = text_field(entry, "image", where)
        if os.path.basename(name) != name:
            raise invalid_field(where, "image", name, "expected the name of a file in images/")
        turns = _turns(entry.get("conversations", entry.get("conversatons")))
        if isinstance(turns, str):
            found.left_out.add(turns, f"{card.name}/{key}")
            continue
        file = os.path.join(root, "images", name)
        if not found.has_file(file, name):
            continue
        image = found.image(file, name, modality=_modality(entry.get("domain")))
        seen[key] += 1
        found.question(
            image,
            key if seen[key] == 1 else f"{key}/{seen[key]}",
            question=turns[-1].question,
            answer=turns[-1].answer,
            family=family,
            turns=turns[:-1],
        )
    return found.finished()


def _turns(messages: Any) -> tuple[Turn, ...] | str:
    """The questions with their answers, or why they are none."""
    if not isinstance(messages, list) or not messages:
        return "no conversation"
    texts = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("from") != ("human", "gpt")[place % 2]:
            return "human and gpt do not alternate"
        value = message.get("value")
        text = single_blanks(value.replace(_IMAGE_TOKEN, " ")) if isinstance(value, str) else ""
        if not text:
            return "an empty question or answer"
        texts.append(text)
    if len(texts) % 2:
        return "a question without an answer"
    return tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True))


def _modality(domain: Any) -> str:
    """The one domain that is true in `{"chest_xray": false, "ct_scan": true, …}`."""
    flags = domain if isinstance(domain, dict) else {}
    named = [modality for name, modality in _MODALITIES.items() if flags.get(name)]
    return named[0] if len(named) == 1 else ""
