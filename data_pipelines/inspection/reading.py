"""The data sets that are inspected, each whole: all its splits, in all its languages."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.core.errors import MissingFile, OptionConflict
from data_pipelines.prepared import layout
from data_pipelines.records import AS_FOUND, BoxReading, SourceSplit
from data_pipelines.regions.box_reading import read_splits
from data_pipelines.sources import prepared, registry
from data_pipelines.sources.split_builder import require_split

PREPARED = "prepared"
# Formed by `sources/vqa_rad.py` of the published splits, so they would be counted twice.
_FORMED = {"vqa_rad": ("fit", "validate")}


@dataclass(frozen=True)
class DataSet:
    """A data set by split.

    Attributes:
      name: of the source; with its folder where two of the same source are inspected.
    """

    name: str
    splits: Mapping[str, SourceSplit]


def read_data_set(root: str, source: str, splits: Sequence[str] = (), reading: BoxReading = AS_FOUND) -> DataSet:
    """Reads a folder.

    Args:
      root: the folder; drawn sets need none.
      source: the name of a published data set, or "prepared" for what `data_pipelines.prepare` wrote.
      splits: those to read; none names all that are published, or all that were prepared.
      reading: of the boxes of a published data set.

    Raises:
      DataError: no such source, folder or split; files missing or malformed.
    """
    if source not in registry.DRAWN and not os.path.isdir(root):
        raise MissingFile(f"{root}: no such folder; name the one that holds the data set ({source})")
    if source == PREPARED:
        prepared.check_boxes(root, reading.boxes, reading.orientation)
        described = layout.read_record(root)["splits"]
        for split in splits:
            require_split(f"--splits: {source}", split, described)
        languages = {split: tuple(described[split].get("languages", {"en": 0})) for split in splits or described}
        read = {split: prepared.load(root, split, languages=spoken) for split, spoken in languages.items()}
        return DataSet(os.path.basename(os.path.normpath(root)), read)
    found = registry.SOURCES.get(source, setting="--source")
    known = tuple(found.card.splits) or tuple(found.splits(root) if found.splits else ())
    for split in splits:
        require_split(f"--splits: {source}", split, known)
    published = [split for split in known if split not in _FORMED.get(source, ())]
    return DataSet(source, read_splits(found, root, splits or published, reading, named=bool(splits)))


def read_data_sets(
    roots: Sequence[str], sources: Sequence[str], splits: Sequence[str] = (), reading: BoxReading = AS_FOUND
) -> list[DataSet]:
    """Reads several, with one source for all or one for each; without a source they are prepared sets.

    Raises:
      DataError: as `read_data_set`.
      ConfigError: another number of sources than of folders.
    """
    if len(sources) > 1 and len(sources) != len(roots):
        raise OptionConflict(f"--source: {len(sources)} names for {len(roots)} folders; give one, or one for each")
    named = sources if len(sources) > 1 else [*(sources or (PREPARED,))] * len(roots)
    read = [read_data_set(root, source, splits, reading) for root, source in zip(roots, named, strict=True)]
    names = [data_set.name for data_set in read]
    return [
        data_set if names.count(data_set.name) == 1 else DataSet(f"{data_set.name} ({root})", data_set.splits)
        for data_set, root in zip(read, roots, strict=True)
    ]
