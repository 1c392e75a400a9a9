"""Data cards: what a published data set is, whose it is, what it should contain, and what to beware of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.annotated_image import SourceSplit


@dataclass(frozen=True)
class Count:
    """What a split should contain; None where its authors do not say.

    Attributes:
      examples: questions, captions or conversations that have an image and an answer.
      images: distinct ones.
    """

    examples: int | None = None
    images: int | None = None


@dataclass(frozen=True)
class DataCard:
    """A data set as its authors publish it.

    Attributes:
      name: as in `data.source` and on the command line, e.g. "path_vqa".
      title: its published name.
      about: what it contains, in a sentence.
      paper: authors, place, arXiv number or DOI.
      url: where it is published.
      licence: as its authors state it.
      layout: files and folders under the root that `prepare` is pointed at.
      splits: expected counts by split; a data set of unknown size (the general formats) has none.
      traps: what its users have stumbled over, a sentence each.
    """

    name: str
    title: str
    about: str
    paper: str
    url: str
    licence: str
    layout: str
    splits: Mapping[str, Count]
    traps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set that can be loaded: its card, and `load(root, split) -> SourceSplit`.

    `load` raises DataError where files are missing or malformed, logs what it leaves out with names, and gives the same
    records in the same order on every machine.

    Attributes:
      splits: for a general format, whose card has none: the splits that the files under a root have.
    """

    card: DataCard
    load: Callable[[str, str], SourceSplit]
    splits: Callable[[str], Sequence[str]] | None = None
