"""The captions that questions are written from: a JSON Lines file, or a prepared data set (`data_pipelines.prepare`).

Of a prepared data set the images are written as files beside the questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import made_folder
from data_pipelines.core.errors import DuplicateId, MissingData
from data_pipelines.core.json_files import digest_of, json_lines, text_field
from data_pipelines.images.reading import fetched
from data_pipelines.prepared import layout
from data_pipelines.records import StoredImage
from data_pipelines.sources.prepared import load


@dataclass(frozen=True)
class Caption:
    """A figure's image and text.

    Attributes:
      id: unique in its file; the ids of the questions begin with it.
      image: path of the image file, handed on as it is.
      image_id: names the image; `image` where the file has no such field.
      context: what else is known of the figure, e.g. the sentences of the paper that mention it.
      split: of the data set that the questions become, "" for the command line's.
    """

    id: str
    image: str
    image_id: str
    caption: str
    context: str = ""
    modality: str = ""
    split: str = ""


_NEEDED, _MAY_BE_EMPTY = ("id", "image", "caption"), ("context", "modality", "split")
_FIELDS = (*_NEEDED, "image_id", *_MAY_BE_EMPTY)


def read_captions(path: str) -> list[Caption]:
    """The captions of a file in its order. Fields of other names are passed over, and so are blank lines.

    Raises:
      DataError: no such file; a line that is not an object, lacks id, image or caption, or repeats an id; no captions.
    """
    captions: dict[str, tuple[str, Caption]] = {}
    for where, entry in json_lines(path, remedy="name a JSON Lines file", unique_keys=True):
        given = [name for name in _FIELDS if name in _NEEDED or entry.get(name) is not None]
        texts = {name: text_field(entry, name, where, may_be_empty=name in _MAY_BE_EMPTY) for name in given}
        caption = Caption(**{"image_id": texts["image"], **texts})
        before, _ = captions.setdefault(caption.id, (where, caption))
        if before != where:
            raise DuplicateId(f"{where}: field 'id' is {caption.id!r} as in {before}; make ids unique")
    if not captions:
        raise MissingData(f"{path}: holds no captions; write one object a line with id, image and caption")
    return [caption for _, caption in captions.values()]


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
    return PreparedCaptions(captions, images, digest_of(record)[:8])


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
