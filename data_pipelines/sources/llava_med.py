"""Reading LLaVA-Med's training files: captions asked for by an instruction, and conversations (Li et al. 2023).

Records `{id, image, domain, conversations: [{from: human|gpt, value}]}`; `<image>` stands before or after the first
question and is taken out, since the prompt template has the image's place. A conversation of several turns is one
example: its last question and answer, the earlier ones in `turns`.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from data_pipelines.core.json_files import inner_path, read_list, single_blanks, text_field
from data_pipelines.records import Count, DataCard, Family, Source, SourceSplit, Turn
from data_pipelines.sources.split_builder import begin_split, row_object

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

    Left out, counted and named in a logged warning: conversations without an image or with several, whose image is not
    in the folder, that are empty or do not alternate between human and gpt, beginning with human and ending with gpt,
    or that have an empty question or answer. Where several have one identifier, the second is named …/2, and so on.

    Args:
      files: split → JSON file, which is also found without its folder.
      family: of all the file's examples.

    Raises:
      DataError: no such folder or split; a file that is missing or is not a list.
      MalformedRows: entries are not objects with an id, or name an image by anything but text.
    """
    found = begin_split(card, root, split, files)
    flat = os.path.join(root, os.path.basename(files[split]))
    path = flat if os.path.isfile(flat) else os.path.join(root, files[split])
    seen: Counter[str] = Counter()

    def take(where: str, row: Any) -> None:
        entry = row_object(row, where)
        key = f"{split}/{text_field(entry, 'id', where)}"
        turns = _turns(entry.get("conversations", entry.get("conversatons")))
        names = entry.get("image")
        if isinstance(names, list) and len(names) == 1:
            (names,) = names
        several = isinstance(names, list) and names
        if isinstance(turns, str) or not names or several:
            why = turns if isinstance(turns, str) else "several images" if several else "no image"
            found.left_out.add(why, f"{card.name}/{key}")
            return
        name = inner_path(text_field({"image": names}, "image", where), where, "image")
        file = os.path.join(root, "images", name)
        if not (file := found.file(file, name)):
            return
        image = found.image(file, name, modality=_modality(entry.get("domain")))
        seen[key] += 1
        numbered = key if seen[key] == 1 else f"{key}/{seen[key]}"
        found.question(image, numbered, **dataclasses.asdict(turns[-1]), family=family, turns=turns[:-1])

    found.each(read_list(path), take)
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


def _source(
    name: str, title: str, about: str, *, files: Mapping[str, str], layout: str, family: Family, traps: tuple[str, ...]
) -> Source:
    """One of the two data sets, with what they have in common."""
    card = DataCard(
        name=name,
        title=title,
        about=about,
        paper="Li et al., LLaVA-Med, NeurIPS 2023 Datasets and Benchmarks, arXiv 2306.00890",
        url="https://github.com/microsoft/LLaVA-Med",
        licence="CC BY-NC 4.0, for research alone, and further restricted by the terms of LLaMA, Vicuna and GPT-4; "
        "the figures have their articles' licences",
        layout=f"{layout}, images/*.jpg (from llava_med_image_urls.jsonl by the authors' download_images.py)",
        splits={split: Count() for split in files},
        traps=(
            "The figures are PubMed Central's: they overlap with ROCOv2 and PMC-VQA. Compare images before testing on "
            "those.",
            "The link to the image archive in the authors' script has expired, and articles move: images that are "
            "missing are left out with their conversations.",
            'Copies differ in the spelling of the field: "conversations", and "conversatons".',
            "All of it is for training; the 50 conversations for evaluation are another file.",
            *traps,
        ),
    )
    return Source(card, partial(load, card, files, family))


ALIGNMENT = _source(
    "llava_med_alignment",
    "LLaVA-Med alignment, 500K",
    "Figures of PubMed Central articles with an instruction to describe them, answered by the figure's caption.",
    files={"train": "alignment/llava_med_alignment_500k.json"},
    layout="alignment/llava_med_alignment_500k.json",
    family="caption",
    traps=(
        "Captions of compound figures describe panels (a, b, c) that a small image does not resolve.",
        "The paper's text speaks of 600,000 pairs; the published file is named for 500,000.",
    ),
)
INSTRUCT = _source(
    "llava_med_instruct",
    "LLaVA-Med instruction tuning, 10K, 60K and 60K with inline mentions",
    "Conversations of several turns about figures of PubMed Central articles, written by GPT-4 from the caption, "
    "and in 60K-IM also from the sentences that mention the figure.",
    files={split: f"instruct/llava_med_instruct_{split}.json" for split in ("10k", "60k", "60k_inline_mention")},
    layout="instruct/llava_med_instruct_{10k,60k,60k_inline_mention}.json",
    family="vqa",
    traps=(
        "The three splits are alternatives, not parts of a whole, and may share figures: train on one.",
        "GPT-4 saw no image: answers tell what the text says, whether or not the figure shows it.",
    ),
)
