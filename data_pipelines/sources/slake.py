"""SLAKE: bilingual radiology questions with boxes (Liu et al., ISBI 2021, arXiv 2102.09542).

Layout under the root, as published: `train.json`, `validate.json` (on the hub `validation.json`), `test.json`, and for
each image `imgs/xmlabN/source.jpg`, `detection.json` (boxes, `x,y,w,h` in pixels) and, for CT and MRI, `mask.png`. The
masks' grey levels are named by `mask_labels.json`, or the release's `mask.txt`; without either boxes stay boxes.
"Left" in a label is the patient's left, the image's right.

Each language is split by image, but independently of the other: 84 of the 96 English test images are in the Chinese
training or validation split. `data_pipelines.loading.checks` refuses such a run.
"""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

from data_pipelines.core.data_root import spelled_alike
from data_pipelines.core.errors import MalformedFile, UnknownName, invalid_field
from data_pipelines.core.json_files import read_json, read_list, text_field
from data_pipelines.core.text_files import lines_of
from data_pipelines.records import AS_FOUND, BoxReading, Count, DataCard, MaskFile, Region, Source, SourceSplit
from data_pipelines.sources.split_builder import SplitBuilder, answer_type_field, begin_split, row_object

logger = logging.getLogger(__name__)

LANGUAGES = ("en", "zh")

CARD = DataCard(
    name="slake",
    title="SLAKE 1.0",
    about="questions in English and Chinese on CT, MRI and X-ray, with boxes and masks of organs and findings",
    paper="Liu, Zhan, Xu, Ma, Yang, Wu, ISBI 2021, arXiv 2102.09542",
    url="https://www.med-vqa.com/slake",
    licence="CC BY 4.0 (the authors' release, huggingface.co/datasets/BoKelvin/SLAKE)",
    layout="train.json, validate.json (or validation.json), test.json, "
    "imgs/xmlabN/{source.jpg,detection.json,mask.png} (imgs.zip unpacked), mask.txt or mask_labels.json",
    splits={"train": Count(9834, 586), "validate": Count(2099, 174), "test": Count(2094, 180)},
    traps=(
        "The two languages are split independently: 84 of the 96 English test images are Chinese training or "
        "validation images. Train on one language (data.languages), or the run is refused as leaking.",
        "Boxes belong to images, not to questions; which box goes with a question is found by its label.",
        "Left and right in labels are the patient's: the left kidney lies on the image's right.",
        "Closed questions are not only yes or no.",
        "One English training question has no answer and is left out; two answer types are written 'CLOSED '.",
        "The masks' grey levels are named by mask.txt (lines LEVEL:LABEL), or mask_labels.json (an object of level to "
        "label), which is no part of the release and goes before it; without either regions are boxes.",
        "Many copies lack images: xmlab25 to xmlab40 are often missing.",
    ),
)


def load(root: str, split: str, reading: BoxReading = AS_FOUND, *, languages: Sequence[str] = ("en",)) -> SourceSplit:
    """The questions of one split in the given languages, without regions, and its images with theirs.

    Left out, counted and named in a logged warning: questions whose image is not in the folder (SLAKE copies often
    lack some), questions without an answer (one English training question), and boxes outside their images.

    Raises:
      DataError: no such folder, split or language; a file that is missing or malformed; boxes as `GivenBoxes`.
      MalformedRows: entries or boxes lack a field or have a value that it cannot have.
    """
    found = begin_split(CARD, root, split, reading=reading)
    for language in languages:
        if language not in LANGUAGES:
            raise UnknownName(f"data.languages: no language {language!r} in slake; choose from {', '.join(LANGUAGES)}")
    levels = _mask_levels(root)
    regions_of = functools.cache(lambda file: _regions(found, file, levels))

    def take(where: str, row: Any) -> None:
        text = functools.partial(text_field, row_object(row, where), where=where)
        language = text("q_lang")
        if language not in LANGUAGES:
            raise invalid_field(where, "q_lang", language, f"expected one of {', '.join(LANGUAGES)}")
        if language not in languages:
            return
        name = spelled_alike(text("img_name")).split("/")[0]
        file = found.file(os.path.join(root, "imgs", name, "source.jpg"), name)
        if not file:
            return
        image = found.images.get(name)
        if not image:
            says = {"modality": text("modality"), "body_part": text("location")}
            image = found.image(file, name, regions=regions_of(file), **says)
        key, answer = f"{language}/{text('qid')}", text("answer", may_be_empty=True)
        if found.has_answer(answer, key, reason="question without an answer"):
            says = {"question": text("question"), "content_type": text("content_type"), "language": language}
            found.question(image, key, answer=answer, answer_type=answer_type_field(row, where), **says)

    found.each(read_list(_file(root, split)), take)
    return found.finished()


SOURCE = Source(
    CARD,
    lambda root, split, reading=AS_FOUND: load(root, split, reading, languages=LANGUAGES),
    configured=lambda data, split, reading: load(data.root, split, reading, languages=data.languages),
    has_boxes=True,
)


def _file(root: str, split: str) -> str:
    """The split's file; the authors' hub release calls validate.json validation.json."""
    path = os.path.join(root, f"{split}.json")
    other = os.path.join(root, "validation.json")
    return other if split == "validate" and not os.path.isfile(path) and os.path.isfile(other) else path


def _regions(found: SplitBuilder, image_path: str, levels: dict[str, int]) -> tuple[Region, ...]:
    if not os.path.isfile(image_path):
        return ()
    beside = os.path.join(os.path.dirname(image_path), "detection.json")
    entries = read_list(found.files.file(beside) or beside)
    frame = found.boxes.frame(image_path, image_path) if entries else None
    if frame is None:
        return ()
    mask = found.files.file(os.path.join(os.path.dirname(image_path), "mask.png")) if levels else ""
    regions = []

    def take(where: str, entry: Any) -> None:
        for label, pixels in row_object(entry, where).items():
            outline = MaskFile(mask, levels[label]) if mask and label in levels else None
            if box := found.box(frame, pixels, f"{where}, {label!r}", "box"):
                regions.append(Region(box, label, mask=outline))

    found.each(entries, take)
    return tuple(regions)


def _mask_levels(root: str) -> dict[str, int]:
    """Label → grey level of `mask.png`: of the derived table, else of the release's; empty where neither is there."""
    path, published = os.path.join(root, "mask_labels.json"), os.path.join(root, "mask.txt")
    if os.path.isfile(path):
        table = read_json(path)
        form, example = "an object of grey level → label", '{"70": "Liver"}'
    elif os.path.isfile(published):
        path, table = published, {}
        form, example = "lines LEVEL:LABEL", "70:Liver"
    else:
        logger.info("slake: no %s or mask.txt; regions are boxes without masks", path)
        return {}
    try:
        if path == published:
            pairs = (line.partition(":") for _, line in lines_of(path))
            table = {level: label.strip() for level, _, label in pairs}
        levels = {label: int(level) for level, label in table.items()}
        if not all(isinstance(label, str) and label and 0 <= level < 256 for label, level in levels.items()):
            raise ValueError
        return levels
    except (AttributeError, TypeError, ValueError):
        raise MalformedFile(f"{path}: expected {form}, such as {example}") from None
