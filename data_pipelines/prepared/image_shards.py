"""Images and masks into shards: which shards there are, and writing one, which is all that is done in parallel.

Which file lies where depends on the source alone, not on how many processes work or how often they were stopped. A
shard is finished when the note beside it stands; a note tells what it was made of, so that a shard whose files have
changed since, or which another source left, is written again.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from data_pipelines.core.array_records import in_one_order, shard_name
from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import ImageError, InvalidValue
from data_pipelines.images import reading
from data_pipelines.images.medical import is_scan
from data_pipelines.images.scan_parts import split_part
from data_pipelines.images.windows import AUTO
from data_pipelines.prepared.fields import Places, image_features
from data_pipelines.prepared.image_bytes import storable
from data_pipelines.prepared.layout import IMAGES, MASKS, PICTURES, VERSION, config_folder
from data_pipelines.records import (
    AnnotatedImage,
    ImageSource,
    SourceSplit,
    StoredImage,
    TurnedImage,
    UnnamedFile,
    VQAExample,
)
from data_pipelines.settings import MAX_IMAGE_PIXELS

# A shard holds about so many bytes of files at most, TFDS's own limit; smaller sets are cut for parallel work.
_LARGEST, _SMALL, _SHARDS_OF_SMALL = 2**30, 2**22, 16
# Images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class StoredItem:
    """An image or a mask to store, and the image_id that it is stored under."""

    source: str | bytes | UnnamedFile | TurnedImage
    image_id: str

    @property
    def original(self) -> str | bytes | UnnamedFile:
        """The source as it came, not turned."""
        return self.source.source if isinstance(self.source, TurnedImage) else self.source

    def file(self) -> str:
        """Path of the file that it is in, whole where the source names a part of one; "" where it is in none."""
        source = self.original
        if isinstance(source, bytes):
            return ""
        return source.path if isinstance(source, UnnamedFile) else split_part(source)[0]

    def size(self) -> int:
        """Bytes of its file, or of itself; 0 where the file is missing."""
        if isinstance(self.original, bytes):
            return len(self.original)
        return os.path.getsize(self.file()) if os.path.isfile(self.file()) else 0


@dataclass(frozen=True)
class ImageShard:
    """A shard to be written: a pure function of this gives the file `path`, and the note beside it.

    Attributes:
      root: folder of the source; what is written names files relative to it.
      masks: whether the items are masks.
      window: by which DICOM and NIfTI files become pictures, as `DataConfig.window`.
      max_pixels: of an image, as `DataConfig.max_image_pixels`.
    """

    path: str
    root: str
    masks: bool
    items: tuple[StoredItem, ...]
    window: str = AUTO
    max_pixels: int = MAX_IMAGE_PIXELS


@dataclass(frozen=True)
class Note:
    """What came of a shard.

    Attributes:
      identity: of the files that it was made of.
      sha256: of each item's file or bytes; "" where the file cannot be read.
      unreadable: place among the items → why.
      bytes: of what is stored.
      scans: how many of the items are DICOM or NIfTI files, which `ImageShard.window` is for.
    """

    identity: str
    sha256: tuple[str, ...]
    unreadable: dict[int, str]
    bytes: int
    scans: int


def plan_shards(
    splits: Iterable[SourceSplit],
    *,
    dataset: str,
    root: str,
    out: str,
    window: str = AUTO,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> list[ImageShard]:
    """The shards of every image and mask of some splits, each file once, in the order in which they are first used.

    Raises:
      DataError: an image is in another prepared data set already.
    """
    pictures: dict[ImageSource, str] = {}
    masks: dict[ImageSource, str] = {}
    for split in splits:
        for record in split.records:
            pictures.setdefault(record.image, record.image_id)
            for mask in masks_of(record):
                masks.setdefault(mask, record.image_id)
    folder = config_folder(out, IMAGES)
    shards = []
    for name, found in ((PICTURES, pictures), (MASKS, masks)):
        parts = _cut([_item(source, image_id) for source, image_id in found.items()])
        for number, items in enumerate(parts):
            path = os.path.join(folder, shard_name(dataset, name, number, len(parts)))
            shards.append(ImageShard(path, root, name == MASKS, tuple(items), window, max_pixels))
    return shards


def masks_of(record: VQAExample | AnnotatedImage) -> list[ImageSource]:
    """The mask files of a question's or an image's regions."""
    regions = (*record.regions, *(record.distractors if isinstance(record, VQAExample) else ()))
    return [region.mask.path for region in regions if region.mask is not None]


def _item(source: ImageSource, image_id: str) -> StoredItem:
    if isinstance(source, StoredImage):
        raise InvalidValue(f"{source}: is in a prepared data set already; prepare from the published files")
    return StoredItem(source, image_id)


def _cut(items: Sequence[StoredItem]) -> list[Sequence[StoredItem]]:
    """Runs of equally many items: cut by their sizes, all would move when one damaged file is replaced."""
    if not items:
        return []
    total = sum(item.size() for item in items)
    count = min(max(-(-total // _LARGEST), min(_SHARDS_OF_SMALL, total // _SMALL), 1), len(items))
    ends = [len(items) * (number + 1) // count for number in range(count)]
    return [items[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def write_shard(shard: ImageShard) -> None:
    """Writes a shard and then its note, each whole or not at all; nothing where both stand already.

    An image that cannot be read is left out of the shard and named in the note.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.features import FeaturesDict

    identity = _identity(shard)
    if (note := read_note(shard)) is not None and note.identity == identity and os.path.isfile(shard.path):
        return
    features = FeaturesDict(image_features())
    of_window = functools.partial(reading.decode, window=shard.window, max_pixels=shard.max_pixels)
    decode: Callable[[ImageSource, str], np.ndarray] = reading.decode_grey if shard.masks else of_window
    checksums, unreadable, stored, scans = [], {}, 0, 0
    partial = f"{shard.path}.{os.getpid()}.partial"
    writer = ArrayRecordWriter(partial, _WRITER_OPTIONS)
    for place, item in enumerate(shard.items):
        checksums.append(_sha256(item))
        scans += not shard.masks and is_scan(item.original if isinstance(item.original, bytes) else item.file())
        try:
            encoded = storable(item.source, item.image_id, decode)
        except ImageError as error:
            unreadable[place] = relative(str(error).split(";")[0], shard.root)
            continue
        writer.write(in_one_order(features.serialize_example({"image_id": item.image_id, "image": encoded})))
        stored += len(encoded)
    writer.close()
    os.replace(partial, shard.path)
    note = Note(identity, tuple(checksums), unreadable, stored, scans)
    write_atomically(_note_path(shard), json.dumps(asdict(note)))


def read_note(shard: ImageShard) -> Note | None:
    """The note of a finished shard; None where there is none, or none that can be read."""
    try:
        return TypeAdapter(Note).validate_json(_note_path(shard).read_bytes())
    except (OSError, ValueError):
        return None


def remove_notes(shards: Sequence[ImageShard]) -> None:
    """Ends the work: removes the notes, and the shards that an attempt on other files left in the folder."""
    kept = {os.path.basename(shard.path) for shard in shards}
    for folder in {Path(shard.path).parent for shard in shards}:
        for path in folder.glob("*.array_record-*"):
            if path.name not in kept:
                path.unlink()


def places(stored: Iterable[tuple[ImageShard, Note]]) -> Places:
    """Where each item of these shards is stored; those that could not be read have no place."""
    readable = (
        item.source for shard, note in stored for at, item in enumerate(shard.items) if at not in note.unreadable
    )
    return {source: place for place, source in enumerate(readable)}


def relative(text: str, root: str) -> str:
    """A path or message without the source's folder, which says where somebody keeps their files."""
    return text.replace(os.path.join(root, ""), "") if root else text


def _identity(shard: ImageShard) -> str:
    """Changes with the layout, the window and any file: its name, size or time, or the bytes where it is no file."""
    parts: list[object] = [VERSION, shard.masks, shard.window]
    if shard.max_pixels != MAX_IMAGE_PIXELS:
        parts.append(shard.max_pixels)
    for item in shard.items:
        parts.append(item.image_id)
        if isinstance(item.source, TurnedImage):
            parts.append(item.source.turn)
        if isinstance(item.original, bytes):
            parts.append(_sha256(item))
        else:
            parts.append(relative(str(item.original), shard.root))
            if os.path.isfile(item.file()):
                status = os.stat(item.file())
                parts += [status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _sha256(item: StoredItem) -> str:
    if isinstance(item.original, bytes):
        return hashlib.sha256(item.original).hexdigest()
    try:
        with open(item.file(), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _note_path(shard: ImageShard) -> Path:
    return Path(f"{shard.path}.note.json")
