"""How a prepared data set lies on disk: docs/DATA.md shows it. Writers and readers take every name from here.

OUT/prepared.json                                 card, counts, what is missing, command; written last
OUT/source_files.sha256                           checksums of the files it was made from, for `sha256sum --check`
OUT/{questions,annotations,images}/VERSION/       three TFDS configurations: shards, dataset_info.json, features.json
"""

import os
import re
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

from data_pipelines.core.errors import DataError, InvalidValue, MissingFile
from data_pipelines.core.schemas import file_as

# Raised when the same data would be written otherwise. The first number changes when older readers cannot read it.
VERSION = "1.0.0"

QUESTIONS, ANNOTATIONS, IMAGES = "questions", "annotations", "images"
# Splits of the configuration `images`: pictures and masks are numbered apart, and shared by all splits of the others.
PICTURES, MASKS = "images", "masks"

RECORD_FILE = "prepared.json"
CHECKSUMS_FILE = "source_files.sha256"

# TFDS reads a split's name from the names of its files, and takes "all" for the union of the others.
_SPLIT = re.compile(r"\w+", re.ASCII)


def config_folder(root: str, config: str) -> str:
    """Folder of one TFDS configuration, for `tfds.builder_from_directory`."""
    return os.path.join(root, config, VERSION)


def check_split_name(split: str, where: str) -> None:
    """Raises: DataError: TFDS could not keep a split of this name."""
    if not _SPLIT.fullmatch(split) or split == "all":
        raise InvalidValue(f'{where}: split {split!r}; name it with letters, digits and "_", and not "all"')


class _SplitRecord(TypedDict):
    """What is read of a split's description."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    languages: NotRequired[dict[str, int]]


class _Record(TypedDict):
    """What is read of prepared.json; the rest of it is for people."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    layout: str
    splits: NotRequired[dict[str, _SplitRecord]]
    window: NotRequired[str | None]
    box_reading: NotRequired[dict[str, str]]


def read_record(root: str) -> dict[str, Any]:
    """`prepared.json` of a prepared data set.

    Raises:
      DataError: there is none, or it is of a layout that this version cannot read.
    """
    path = Path(root, RECORD_FILE)
    if not path.exists():
        raise MissingFile(
            f"data.root: {root!r} is no prepared data set (it has no {RECORD_FILE}); name the --out folder of "
            "python -m data_pipelines.prepare, or run it to its end"
        )
    record = file_as(_Record, path, remedy="prepare the data set again")
    version = record["layout"]
    if version.split(".")[0] != VERSION.split(".")[0]:
        raise DataError(
            f"{path}: layout {version}, this version reads {VERSION}; prepare the data set again", code="file.version"
        )
    return dict(record)
