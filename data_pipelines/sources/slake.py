"""SLAKE: bilingual radiology questions with boxes (Liu et al., ISBI 2021, arXiv 2102.09542).

Layout under the root, as published: `train.json`, `validate.json`, `test.json`, and for each image
`imgs/xmlabN/source.jpg`, `detection.json` (boxes, `x,y,w,h` in pixels) and, for CT and MRI, `mask.png`. A file
`mask_labels.json`, which maps the masks' grey levels to labels, is used where it exists; without it boxes stay boxes.
"Left" in a label is the patient's left, the image's right.

Each language is split by image, but independently of the other: 84 of the 96 English test images are in the Chinese
training or validation split. `data_pipelines.loading.checks` refuses such a run.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial

from data_pipelines.core.errors import MalformedFile, UnknownName
from data_pipelines.core.json_files import read_json, read_objects, text_field
from data_pipelines.records import AS_FOUND, BoxReading, Count, DataCard, MaskFile, Region, Source, SourceSplit
from data_pipelines.sources.split_builder import SplitBuilder, answer_type_field, begin_split

logger = logging.getLogger(__name__)

LANGUAGES = ("en", "zh")

CARD = DataCard(
    name="slake",
    title="SLAKE 1.0",
    about="questions in English and Chinese on CT, MRI and X-ray, with boxes and masks of organs and findings",
    paper="Liu, Zhan, Xu, Ma, Yang, Wu, ISBI 2021, arXiv 2102.09542",
    url="https://www.med-vqa.com/slake",
    licence="CC BY 4.0 (the authors' release, huggingface.co/datasets/BoKelvin/SLAKE)",
    layout="train.json, validate.json, test.json, imgs/xmlabN/{source.jpg,detection.json,mask.png}, mask_labels.json",
    splits={"train": Count(9834, 586), "validate": Count(2099, 174), "test": Count(2094, 180)},
    traps=(
        "The two languages are split independently: 84 of the 96 English test images are Chinese training or "
        "validation images. Train on one language (data.languages), or the run is refused as leaking.",
        "Boxes belong to images, not to questions; which box goes with a question is found by its label.",
        "Left and right in labels are the patient's: the left kidney lies on the image's right.",
        "Closed questions are not only yes or no.",
        "One English training question has no answer and is left out; two answer types are written 'CLOSED '.",
        "mask_labels.json (grey level to label) is no part of the release; without it regions are boxes.",
        "Many copies lack images: xmlab25 to xmlab40 are often missing.",
    ),
)


def load(root: str, split: str, reading: BoxReading = AS_FOUND, *, languages: Sequence[str] = ("en",)) -> SourceSplit:
    """The questions of one split in the given languages, without regions, and its images with theirs.

    Left out, counted and named in a logged warning: questions whose image is not in the folder (SLAKE copies often
    lack some), questions without an answer (one English training question), and boxes outside their images.

    Raises:
      DataError: no such folder, split or language; a file that is missing or malformed; boxes as `GivenBoxes`.
    """
    found = begin_split(CARD, root, split, reading=reading)
    for language in languages:
        if language not in LANGUAGES:
            raise UnknownName(f"data.languages: no language {language!r} in slake; choose from {', '.join(LANGUAGES)}")
    levels = _mask_levels(root)
    for where, entry in read_objects(os.path.join(root, f"{split}.json")):
        text = partial(text_field, entry, where=where)
        language = text("q_lang")
        if language not in languages:
            continue
        name = text("img_name").split("/")[0]
        file = found.file(os.path.join(root, "imgs", name, "source.jpg"), name)
        if not file:
            continue
        image = found.images.get(name)
        if not image:
            says = {"modality": text("modality"), "body_part": text("location")}
            image = found.image(file, name, regions=_regions(found, file, levels), **says)
        key, answer = f"{language}/{text('qid')}", text("answer", may_be_empty=True)
        if found.has_answer(answer, key, reason="question without an answer"):
            says = {"question": text("question"), "content_type": text("content_type"), "language": language}
            found.question(image, key, answer=answer, answer_type=answer_type_field(entry, where), **says)
    return found.finished()


SOURCE = Source(
    CARD,
    lambda root, split, reading=AS_FOUND: load(root, split, reading, languages=LANGUAGES),
    configured=lambda data, split, reading: load(data.root, split, reading, languages=data.languages),
    has_boxes=True,
)


def _regions(found: SplitBuilder, image_path: str, levels: dict[str, int]) -> tuple[Region, ...]:
    if not os.path.isfile(image_path):
        return ()
    beside = os.path.join(os.path.dirname(image_path), "detection.json")
    entries = read_objects(found.files.file(beside) or beside)
    frame = found.boxes.frame(image_path, image_path) if entries else None
    if frame is None:
        return ()
    mask = found.files.file(os.path.join(os.path.dirname(image_path), "mask.png")) if levels else ""
    regions = []
    for where, entry in entries:
        for label, pixels in entry.items():
            outline = MaskFile(mask, levels[label]) if mask and label in levels else None
            if box := found.box(frame, pixels, f"{where}, {label!r}", "box"):
                regions.append(Region(box, label, mask=outline))
    return tuple(regions)


def _mask_levels(root: str) -> dict[str, int]:
    """Label → grey level of `mask.png`; empty where the derived table is not there."""
    path = os.path.join(root, "mask_labels.json")
    if not os.path.isfile(path):
        logger.info("slake: no %s; regions are boxes without masks", path)
        return {}
    table = read_json(path)
    try:
        return {label: int(level) for level, label in table.items()}
    except (AttributeError, TypeError, ValueError):
        raise MalformedFile(f'{path}: expected an object of grey level → label, such as {{"70": "Liver"}}') from None
