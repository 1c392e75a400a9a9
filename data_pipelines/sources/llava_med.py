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

from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import read_objects, require_folder, text_field
from data_pipelines.records import AnnotatedImage, DataCard, Family, SourceSplit, Turn, VQAExample
from data_pipelines.sources.left_out import LeftOut

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
    require_folder(root, f"{card.name} root")
    if split not in files:
        raise DataError(f"{card.name}: no split {split!r}; choose one of {', '.join(files)}")
    flat = os.path.join(root, os.path.basename(files[split]))
    path = flat if os.path.isfile(flat) else os.path.join(root, files[split])
    images: dict[str, AnnotatedImage] = {}
    examples: list[VQAExample] = []
    seen: Counter[str] = Counter()
    left_out = LeftOut()
    for number, entry in enumerate(read_objects(path)):
        where = f"{path}: entry {number}"
        example_id = f"{card.name}/{split}/{text_field(entry, 'id', where)}"
        name = text_field(entry, "image", where)
        if os.path.basename(name) != name:
            raise DataError(f"{where}: field 'image' is {name!r}; expected the name of a file in images/")
        turns = _turns(entry.get("conversations", entry.get("conversatons")))
        if isinstance(turns, str):
            left_out.add(turns, example_id)
            continue
        image_path = os.path.join(root, "images", name)
        if name not in images:
            if not os.path.isfile(image_path):
                left_out.add("image not in the folder", name)
                continue
            images[name] = AnnotatedImage(
                card.name, split, image_path, name, regions=(), modality=_modality(entry.get("domain"))
            )
        seen[example_id] += 1
        example = VQAExample(
            id=example_id if seen[example_id] == 1 else f"{example_id}/{seen[example_id]}",
            dataset=card.name,
            split=split,
            image=image_path,
            image_id=name,
            question=turns[-1].question,
            answer=turns[-1].answer,
            family=family,
            modality=images[name].modality,
            turns=turns[:-1],
        )
        examples.append(example)
    return SourceSplit(examples, list(images.values()), left_out.reported(f"{card.name} {split}"))


def _turns(messages: Any) -> tuple[Turn, ...] | str:
    """The questions with their answers, or why they are none."""
    if not isinstance(messages, list) or not messages:
        return "no conversation"
    texts = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("from") != ("human", "gpt")[place % 2]:
            return "human and gpt do not alternate"
        value = message.get("value")
        text = " ".join(value.replace(_IMAGE_TOKEN, " ").split()) if isinstance(value, str) else ""
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
