"""The data sets that are inspected, each whole: all its splits, in all its languages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.annotated_image import SourceSplit
from data_pipelines.records import DataError
from data_pipelines.sources import phantom, slake, vqa_rad
from rllava_jax.config import PhantomConfig


@dataclass(frozen=True)
class DataSet:
    """A data set by split.

    Attributes:
      name: of the source; with its folder where two of the same source are inspected.
    """

    name: str
    splits: Mapping[str, SourceSplit]


@dataclass(frozen=True)
class _Published:
    """How a source is read: the splits that its authors publish, and those that it forms of them itself."""

    load: Callable[[str, str], SourceSplit]
    splits: tuple[str, ...]
    formed: tuple[str, ...] = ()


_PUBLISHED = {
    "slake": _Published(lambda root, split: slake.load(root, split, languages=slake.LANGUAGES), slake.SPLITS),
    "vqa_rad": _Published(vqa_rad.load, ("train", "test"), ("fit", "validate")),
    "phantom": _Published(lambda _, split: phantom.load(PhantomConfig(), split), ("train", "validate", "test")),
}
SOURCES = tuple(_PUBLISHED)


def read_data_set(root: str, source: str, splits: Sequence[str] = ()) -> DataSet:
    """Reads a published folder.

    Args:
      root: the folder; phantom needs none.
      splits: those to read; none names all that are published.

    Raises:
      DataError: no such source, folder or split; files missing or malformed.
    """
    if source not in _PUBLISHED:
        raise DataError(f"--source: no data set {source!r}; choose {', '.join(SOURCES)}")
    published = _PUBLISHED[source]
    for split in splits:
        if split not in (*published.splits, *published.formed):
            known = ", ".join((*published.splits, *published.formed))
            raise DataError(f"--splits: {source} has no split {split!r}; choose from {known}")
    if source != "phantom" and not os.path.isdir(root):
        raise DataError(f"{root}: no such folder; name the one that holds the published files of {source}")
    return DataSet(source, {split: published.load(root, split) for split in splits or published.splits})


def read_data_sets(roots: Sequence[str], sources: Sequence[str], splits: Sequence[str] = ()) -> list[DataSet]:
    """Reads several, with one source for all or one for each.

    Raises:
      DataError: as `read_data_set`; or another number of sources than of folders.
    """
    if len(sources) not in (1, len(roots)):
        raise DataError(f"--source: {len(sources)} names for {len(roots)} folders; give one, or one for each")
    named = list(sources) * len(roots) if len(sources) == 1 else list(sources)
    read = [read_data_set(root, source, splits) for root, source in zip(roots, named, strict=True)]
    return [
        data_set if named.count(data_set.name) == 1 else DataSet(f"{data_set.name} ({root})", data_set.splits)
        for data_set, root in zip(read, roots, strict=True)
    ]
