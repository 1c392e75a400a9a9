"""The captions that questions are written from: a JSON Lines file, an object a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_pipelines.core.errors import DataError
from data_pipelines.core.json_files import parse_json, text_field


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


def read_captions(path: str) -> list[Caption]:
    """The captions of a file in its order. Fields of other names are passed over, and so are blank lines.

    Raises:
      DataError: no such file; a line that is not an object, lacks id, image or caption, or repeats an id; no captions.
    """
    captions: list[Caption] = []
    lines: dict[str, int] = {}
    for number, entry in json_lines(path):
        where = f"{path}: line {number}"
        caption = _caption(entry, where)
        if caption.id in lines:
            raise DataError(
                f"{where}: field 'id' is {caption.id!r}, which line {lines[caption.id]} has too; make ids unique"
            )
        lines[caption.id] = number
        captions.append(caption)
    if not captions:
        raise DataError(f"{path}: holds no captions; write one object a line with id, image and caption")
    return captions


def json_lines(path: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers, from 1. Blank lines are passed over.

    Raises:
      DataError: the file cannot be read, is not UTF-8, or has a line that is not an object.
    """
    objects = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}: line {number}"
                entry = parse_json(line, where, remedy="write one object a line", unique_keys=True)
                if not isinstance(entry, dict):
                    raise DataError(
                        f"{path}: line {number} is {type(entry).__name__}, not an object; write one object a line"
                    )
                objects.append((number, entry))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a JSON Lines file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason}); save it as UTF-8") from None
    return objects


def _caption(entry: dict[str, Any], where: str) -> Caption:
    image = text_field(entry, "image", where)
    optional = {
        name: text_field(entry, name, where, may_be_empty=True)
        for name in ("context", "modality", "split")
        if entry.get(name) is not None
    }
    return Caption(
        id=text_field(entry, "id", where),
        image=image,
        image_id=image if entry.get("image_id") is None else text_field(entry, "image_id", where),
        caption=text_field(entry, "caption", where),
        **optional,
    )
