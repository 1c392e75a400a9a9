"""A source becomes a prepared data set: loaded, checked against its card, stored, described."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipelines.core.atomic_files import check_destination, write_atomically
from data_pipelines.core.command_line import made_folder
from data_pipelines.core.data_root import DataRoot, NoPlainFile, OutsideRoot
from data_pipelines.core.errors import (
    FileExists,
    InvalidRegion,
    InvalidValue,
    MissingData,
    MissingFile,
    OptionConflict,
    listed,
)
from data_pipelines.images.windows import AUTO, window_of
from data_pipelines.prepared import fields, image_shards, layout
from data_pipelines.prepared.image_shards import ImageShard, Note, masks_of, relative
from data_pipelines.prepared.record_shards import Written, describe, write_records
from data_pipelines.records import (
    AS_FOUND,
    AnnotatedImage,
    BoxReading,
    Count,
    Source,
    SourceSplit,
    VQAExample,
    require_unique_ids,
)
from data_pipelines.regions.box_reading import read_splits
from data_pipelines.regions.detections import attach_detections
from data_pipelines.regions.given_boxes import LOST
from data_pipelines.settings import MAX_IMAGE_PIXELS

logger = logging.getLogger(__name__)

# What a source reads beside images: checksums of all such files under its folder are kept.
_ANNOTATION_FILES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".parquet", ".xlsx")
_UNREADABLE = "image or mask cannot be read"
_REMEDY = "restore the files, or go on without them with --allow-missing"

Splits = dict[str, SourceSplit]
# The finished shards, with what came of them.
Stored = Sequence[tuple[ImageShard, Note]]


@dataclass(frozen=True)
class Detections:
    """A detector's file whose boxes take the place of annotated ones: the arguments of `attach_detections`."""

    path: str
    min_score: float = 0.0
    names_path: str = ""

    def record(self) -> dict[str, Any]:
        """What `prepared.json` says of them: files by name and SHA-256."""
        files = {}
        for name in filter(None, (self.path, self.names_path)):
            files[os.path.basename(name)] = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        return {"sha256": files, "min_score": self.min_score}


def prepare(
    source: Source,
    *,
    root: str,
    out: str,
    splits: Sequence[str] = (),
    allow_missing: bool = False,
    overwrite: bool = False,
    window: str = AUTO,
    max_pixels: int = MAX_IMAGE_PIXELS,
    detections: Detections | None = None,
    reading: BoxReading = AS_FOUND,
    run: Callable[[Sequence[ImageShard]], None],
    command: str = "",
) -> dict[str, Any]:
    """Writes a prepared data set at `out`, which appears when it is whole.

    Until then it grows in `out`.incomplete, where shards of images that are finished stay for the next attempt. The
    result is the same, byte for byte, however often it was stopped and by how many processes it was written.

    Args:
      root: folder of the published files; "" for a source that draws its own.
      splits: of the source; none takes those of its card, or for a general format those that its files have.
      allow_missing: a shortfall against the card, or unreadable images, are a warning and not an error.
      overwrite: a prepared data set at `out` may be replaced.
      window: by which DICOM and NIfTI files become pictures, as `DataConfig.window`.
      max_pixels: larger images are refused, as `DataConfig.max_image_pixels`.
      detections: boxes in place of the annotated ones, in every split.
      reading: of the boxes, those of `detections` where they are given, and of the images' orientation.
      run: hands `write_shard` every shard, as `runners.run_processes` does.
      command: recorded as it is.

    Returns:
      What `prepared.json` says.

    Raises:
      DataError: the source's files are missing or malformed, its splits fall short, or an image cannot be read.
      ConfigError: `out` exists, or lies in the source.
    """
    window_of(window, "--window")
    out = os.path.abspath(out)
    aside = f"{out}.incomplete"
    check_destination(Path(out), source=Path(os.path.abspath(root or aside)), overwrite=overwrite, ours=_is_prepared)
    _check_neighbours(out, aside)
    loaded = _load(source, root, splits, replace(reading, used=not detections))
    _check_counts(source, loaded, root, allow_missing=allow_missing)
    _require_content(source, loaded, root)
    if detections:
        options = {**vars(detections), "reading": reading}
        loaded = {name: attach_detections(split, **options) for name, split in loaded.items()}
    _check_boxes(source, loaded, root, allow_missing=allow_missing)
    shards = image_shards.plan_shards(
        loaded.values(), dataset=source.card.name, root=root, out=aside, window=window, max_pixels=max_pixels
    )
    made_folder(Path(layout.config_folder(aside, layout.IMAGES)))
    run(shards)
    stored = [(shard, _note(shard)) for shard in shards]
    kept = {name: _readable(split, stored) for name, split in loaded.items()}
    if any(note.unreadable for _, note in stored):
        _check_counts(source, kept, root, allow_missing=allow_missing)
    _require_content(source, kept, root)
    _write_records(source, kept, stored, aside)
    _write_checksums(stored, root, aside)
    made = {
        "window": _window_used(window, stored),
        "box_reading": _reading_used(source, reading, detections),
        "detections": detections.record() if detections else None,
    }
    record = _record(source, kept, root, command) | made
    image_shards.remove_notes(shards)
    write_atomically(Path(aside, layout.RECORD_FILE), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    _move(aside, out)
    return record


def _check_neighbours(out: str, aside: str) -> None:
    """The names that preparation takes beside `out` must be free, or hold what an earlier attempt left there."""
    begun = os.path.isdir(os.path.dirname(layout.config_folder(aside, layout.IMAGES)))
    for folder, ours in ((aside, begun), (f"{out}.replaced", _is_prepared(Path(f"{out}.replaced")))):
        if os.path.lexists(folder) and not ours and not (os.path.isdir(folder) and not os.listdir(folder)):
            raise FileExists(
                f"--out {out}: {folder} is in the way, and not of this command's making; move it, or name another"
            )


def _move(aside: str, out: str) -> None:
    """Gives the finished folder its name; what stood there goes last, so that a kill between loses neither."""
    replaced = f"{out}.replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if os.path.exists(out):
        os.rename(out, replaced)
    os.rename(aside, out)
    shutil.rmtree(replaced, ignore_errors=True)


def _is_prepared(folder: Path) -> bool:
    return (folder / layout.RECORD_FILE).is_file()


def _load(source: Source, root: str, splits: Sequence[str], reading: BoxReading) -> Splits:
    card = source.card
    names = list(splits or card.splits or (source.splits(root) if source.splits else ()))
    if not names:
        raise MissingData(f"{card.name}: no split under {root}; its layout is: {card.layout}")
    for name in names:
        layout.check_split_name(name, card.name)
    if len(set(names)) < len(names):
        raise OptionConflict(f"--splits {','.join(names)}: name each split once")
    loaded = read_splits(source, root, names, reading, named=bool(splits))
    for name, split in loaded.items():
        require_unique_ids(split.examples, f"{card.name} {name}")
        if others := [record.split for record in split.records if record.split != name]:
            raise InvalidValue(
                f"{card.name} {name}: has a record of split {others[0]!r}; all must be of split {name!r}"
            )
    return loaded


def _check_counts(source: Source, splits: Splits, root: str, *, allow_missing: bool) -> None:
    """Raises: DataError: a split falls short of the card, and that is not allowed."""
    problems = []
    for name, split in splits.items():
        title, expected = f"{source.card.name} {name}", source.card.splits.get(name, Count())
        short, more = _differences(split, expected)
        # Where the card gives no number, everything that the files name and the split does not hold is missing.
        listed_all = short or expected == Count()
        # Malformed rows are in no card's count.
        always = {_UNREADABLE, *split.malformed}
        missed = {
            why: names for why, names in split.left_out.items() if (listed_all or why in always) and why not in LOST
        }
        if lacking := [*short, *_reasons(missed)]:
            problems.append(relative(f"{title}: {'; '.join(lacking)}", root))
        if more:
            logger.warning("%s: %s: more than the data card says; is it another release?", title, "; ".join(more))
    if problems and not allow_missing:
        raise MissingData(f"{' | '.join(problems)}; {_REMEDY}")
    for problem in problems:
        logger.warning("%s; going on without them, as --allow-missing says", problem)


def _check_boxes(source: Source, splits: Splits, root: str, *, allow_missing: bool) -> None:
    """Raises: DataError: boxes have no place in their images, and leaving them out is not allowed."""
    problems = []
    for name, split in splits.items():
        if lost := _reasons({why: split.left_out.get(why, ()) for why in LOST}):
            problems.append(relative(f"{source.card.name} {name}: {'; '.join(lost)}", root))
    if problems and not allow_missing:
        raise InvalidRegion(f"{' | '.join(problems)}; correct them, or go on without them with --allow-missing")


def _held(split: SourceSplit) -> Count:
    """What a split holds, in the card's terms."""
    return Count(len(split.examples), len({record.image_id for record in split.records}))


def _differences(split: SourceSplit, expected: Count) -> tuple[list[str], list[str]]:
    """What there is less of than expected, and what more: of another release, perhaps."""
    short: list[str] = []
    more: list[str] = []
    held = _held(split)
    for what, field in (("questions", "examples"), ("images", "images")):
        want, have = getattr(expected, field), getattr(held, field)
        if want is not None and want != have:
            (short if have < want else more).append(f"{want:,} {what} expected, {have:,} found")
    return short, more


def _reasons(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Each reason with its number of names, and the first of them; prepared.json has them all."""
    return [f"{reason} ({len(names)}): {listed(names)}" for reason, names in left_out.items() if names]


def _require_content(source: Source, splits: Splits, root: str) -> None:
    """Raises: DataError: no split has anything, which no permission to miss something can mean."""
    if any(split.examples or split.images for split in splits.values()):
        return
    missed = [f"{name}: {reason}" for name, split in splits.items() for reason in _reasons(split.left_out)]
    reasons = relative("; ".join(missed), root) or "all splits are empty"
    raise MissingData(f"{source.card.name}: nothing is left to prepare ({reasons}); restore the files")


def _note(shard: ImageShard) -> Note:
    if (note := image_shards.read_note(shard)) is None:
        raise MissingFile(f"{shard.path}: was not written; do the workers see the folder under this path?")
    return note


def _readable(split: SourceSplit, stored: Stored) -> SourceSplit:
    """The split without what shows an image or a mask that cannot be read, which is named among what is left out."""
    reasons = {shard.items[at].source: why for shard, note in stored for at, why in note.unreadable.items()}
    if not reasons:
        return split

    def problems(record: VQAExample | AnnotatedImage) -> list[str]:
        return [reasons[file] for file in (record.image, *masks_of(record)) if file in reasons]

    found = dict.fromkeys(text for record in split.records for text in problems(record))
    lost = {image.image_id for image in split.images if problems(image)}
    examples = [e for e in split.examples if e.image_id not in lost and not problems(e)]
    images = [image for image in split.images if image.image_id not in lost]
    left_out = {**split.left_out, **({_UNREADABLE: list(found)} if found else {})}
    return replace(split, examples=examples, images=images, left_out=left_out)


def _window_used(window: str, stored: Stored) -> str | None:
    """None where nothing was a scan: pictures that were pictures before have no window, and suit a run with any."""
    if any(note.scans for _, note in stored):
        return window
    if window != AUTO:
        logger.warning("--window %s: changes nothing, since there is no DICOM or NIfTI file among the images", window)
    return None


def _reading_used(source: Source, reading: BoxReading, detections: Detections | None) -> dict[str, str]:
    """What the boxes were taken for, "" where there are none; and the orientation, "" where nobody said."""
    has_boxes = detections is not None or source.has_boxes
    return {"boxes": (reading.boxes or "pixels") if has_boxes else "", "orientation": reading.orientation}


def _write_records(source: Source, splits: Splits, stored: Stored, out: str) -> None:
    """The configurations `questions` and `annotations`, and the descriptions of all three."""
    of_images = {
        name: [(s, note) for s, note in stored if s.masks == (name == layout.MASKS)]
        for name in (layout.PICTURES, layout.MASKS)
    }
    pictures, masks = (image_shards.places(pairs) for pairs in of_images.values())
    kinds: tuple[tuple[str, str, type[VQAExample | AnnotatedImage]], ...] = (
        (layout.QUESTIONS, "examples", VQAExample),
        (layout.ANNOTATIONS, "images", AnnotatedImage),
    )
    for config, held, kind in kinds:
        features = fields.record_features(kind)
        shutil.rmtree(layout.config_folder(out, config), ignore_errors=True)
        written = {}
        for name, split in splits.items():
            records = getattr(split, held)
            rows = (fields.record_fields(record, pictures, masks) for record in records)
            written[name] = write_records(out, config, source.card.name, name, rows, len(records), features)
        describe(out, config, source.card, features, written)
    images = {}
    for name, pairs in of_images.items():
        lengths = tuple(len(shard.items) - len(note.unreadable) for shard, note in pairs)
        images[name] = Written(lengths, sum(note.bytes for _, note in pairs))
    describe(out, layout.IMAGES, source.card, fields.image_features(), images)


def _write_checksums(stored: Stored, root: str, out: str) -> None:
    """SHA-256 of every image, mask and annotation file of the source, in the format of `sha256sum`.

    Where images are `UnnamedFile`s, they and what lies in folders, whose names tell as much, are not listed.
    """
    checksums: dict[str, str] = {}
    unnamed = any(not isinstance(item.source, str | bytes) for shard, _ in stored for item in shard.items)
    for shard, note in stored:
        for item, checksum in zip(shard.items, note.sha256, strict=True):
            if isinstance(item.source, str) and checksum:
                checksums[relative(item.file(), root)] = checksum
    files = DataRoot(root)
    for path in Path(root).glob("*" if unnamed else "**/*") if root else ():
        if path.name.lower().endswith(_ANNOTATION_FILES) and _belongs(files, path):
            with path.open("rb") as file:
                checksums[relative(str(path), root)] = hashlib.file_digest(file, "sha256").hexdigest()
    lines = "".join(f"{checksum}  {name}\n" for name, checksum in sorted(checksums.items()))
    write_atomically(Path(out, layout.CHECKSUMS_FILE), lines)


def _belongs(files: DataRoot, path: Path) -> bool:
    with contextlib.suppress(OutsideRoot, NoPlainFile):
        return bool(files.layout_file(str(path)))
    return False


def _record(source: Source, splits: Splits, root: str, command: str) -> dict[str, Any]:
    described = {}
    for name, split in splits.items():
        held = _held(split)
        described[name] = {
            "questions": held.examples,
            "images": held.images,
            "boxes": sum(len(image.regions) for image in split.images),
            "boxes_clipped": split.clipped,
            "languages": dict(sorted(Counter(example.language for example in split.examples).items())),
            "left_out": {
                why: [relative(text, root) for text in names] for why, names in split.left_out.items() if names
            },
        }
    return {"layout": layout.VERSION, "command": command, "splits": described, "card": dataclasses.asdict(source.card)}
