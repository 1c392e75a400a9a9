"""Captions of a prepared data set (`data_pipelines.prepare`), and its images as files beside the questions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import made_folder
from data_pipelines.core.errors import MissingData
from data_pipelines.generation.captions import Caption
from data_pipelines.images.reading import fetched
from data_pipelines.prepared import layout
from data_pipelines.records import StoredImage
from data_pipelines.sources.prepared import load

IMAGES = "images"


@dataclass(frozen=True)
class PreparedCaptions:
    """Attributes:
    captions: of the splits in their order; `image` is "" until `with_files` has written it.
    images: caption id → its image.
    name: of the set: a hash of its record, which has the checksums of what it was made of.
    """

    captions: list[Caption]
    images: dict[str, StoredImage]
    name: str


def read_prepared(root: str, splits: Sequence[str] = ()) -> PreparedCaptions:
    """The captions of a prepared data set: its questions of task `caption`.

    Args:
      splits: of the set; none are all of them.

    Raises:
      DataError: no prepared data set, no such split, or no captions in it.
    """
    record = layout.read_record(root)
    described = record["splits"]
    captions: list[Caption] = []
    images: dict[str, StoredImage] = {}
    for split in splits or described:
        languages = list(described.get(split, {}).get("languages", ()))
        for example in load(root, split, languages=languages).examples:
            if example.task == "caption":
                said = {"caption": example.answer, "modality": example.modality, "split": split}
                captions.append(Caption(id=example.id, image="", image_id=example.image_id, **said))
                assert isinstance(example.image, StoredImage)  # as of every prepared set
                images[example.id] = example.image
    if not captions:
        there = ", ".join(splits or described)
        raise MissingData(
            f"{root}: holds no captions in {there}; name a prepared data set that has some, e.g. roco_v2's"
        )
    name = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    return PreparedCaptions(captions, images, name)


def with_files(captions: Sequence[Caption], source: PreparedCaptions, folder: Path) -> list[Caption]:
    """The captions with their images written below `folder`, as `images/SET-NUMBER.png` or `.jpg`; those there stay.

    The number is the image's place in the prepared set, so that captions share images and further starts find them.

    Raises:
      DataError: an image cannot be read, or the folder cannot be written.
    """
    made_folder(folder / IMAGES)
    wanted = dict.fromkeys(source.images[caption.id] for caption in captions)
    shown = tqdm(wanted, desc="images", unit="image", disable=None, leave=False)
    names = {image: _written(image, source.name, folder) for image in shown}
    return [replace(caption, image=names[source.images[caption.id]]) for caption in captions]


def _written(image: StoredImage, name: str, folder: Path) -> str:
    stem = f"{IMAGES}/{name}-{image.position:08d}"
    for ending in (".png", ".jpg"):
        if (folder / (stem + ending)).exists():
            return stem + ending
    content = fetched(image)
    assert isinstance(content, bytes)  # as of every prepared set
    file = stem + (".png" if content.startswith(b"\x89PNG") else ".jpg")
    write_atomically(folder / file, content)
    return file
