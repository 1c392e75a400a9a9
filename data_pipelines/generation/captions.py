"""The captions that questions are written from: a JSON Lines file, an object a line."""

from dataclasses import dataclass

from data_pipelines.core.errors import DuplicateId, MissingData
from data_pipelines.core.json_files import json_lines, text_field


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
