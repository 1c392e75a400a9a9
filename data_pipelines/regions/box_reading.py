"""A split as a user wants its boxes read: the one way to call a source's `load`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from data_pipelines.core.errors import MissingFile, OptionConflict
from data_pipelines.images.orientation import oriented
from data_pipelines.records import AS_FOUND, BoxReading, MalformedRows, Source, SourceSplit
from data_pipelines.settings import Orientation


def read_split(source: Source, root: str, split: str, reading: BoxReading = AS_FOUND, **options: Any) -> SourceSplit:
    """A split of a data set, with its boxes read and its images turned as `reading` says.

    Args:
      options: further ones of the source's `load`.

    Raises:
      DataError: as the source; boxes that are not what they are taken for (`regions/given_boxes.py`).
      ConfigError: a reading is named for a data set that has nothing to read so.
    """
    require_boxes(source, reading)
    taken = (reading,) if source.has_boxes else ()
    return oriented_split(source.load(root, split, *taken, **options), reading.orientation)


def read_splits(
    source: Source, root: str, names: Sequence[str], reading: BoxReading = AS_FOUND, *, named: bool
) -> dict[str, SourceSplit]:
    """Several splits of a data set, without their malformed rows, which are among what is left out.

    Args:
      named: whether a person chose the splits; else one whose files are missing is an error that names the others.

    Raises:
      DataError: as `read_split`, but not `MalformedRows`.
      ConfigError: as `read_split`.
    """
    loaded: dict[str, SourceSplit] = {}
    missing = None
    for name in names:
        try:
            loaded[name] = read_split(source, root, name, reading)
        except MalformedRows as error:
            loaded[name] = oriented_split(error.rest, reading.orientation)
        except MissingFile as error:
            if named:
                raise
            missing = missing or error
    if missing and loaded:
        raise MissingFile(f"{missing}, or take only what is there: --splits {','.join(loaded)}")
    if missing:
        raise missing
    return loaded


def require_boxes(source: Source, reading: BoxReading) -> None:
    """Raises: ConfigError: `reading` says of a data set's boxes or images what it has none of."""
    name = source.card.name
    if reading.boxes and reading.used and not source.has_boxes:
        raise OptionConflict(f"boxes: {reading.boxes!r}: the files of {name} give no boxes; leave it out")
    if reading.orientation and not source.card.layout:
        raise OptionConflict(f"orientation: {reading.orientation!r}: {name} is drawn, not photographed; leave it out")


def oriented_split(split: SourceSplit, orientation: Orientation) -> SourceSplit:
    """The split with every image as stored, or with its EXIF orientation applied; itself where neither was said."""
    if not orientation:
        return split
    shown = {image: oriented(image, orientation) for image in dict.fromkeys(record.image for record in split.records)}
    return replace(
        split,
        examples=[replace(example, image=shown[example.image]) for example in split.examples],
        images=[replace(image, image=shown[image.image]) for image in split.images],
    )
