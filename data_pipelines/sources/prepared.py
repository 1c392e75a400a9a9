"""A prepared data set (`python -m data_pipelines.prepare`): questions and regions are read at once, pixels later."""

import functools
from collections.abc import Iterator, Sequence

from data_pipelines.core.array_records import read_example, shards
from data_pipelines.core.errors import MalformedFile, SettingConflict, UnknownName, reason_of
from data_pipelines.core.json_files import require_folder
from data_pipelines.images.windows import window_of
from data_pipelines.prepared import fields, layout
from data_pipelines.records import AnnotatedImage, SourceSplit, StoredImage, VQAExample
from data_pipelines.settings import BoxUnit, Orientation


def load(root: str, split: str, *, languages: Sequence[str]) -> SourceSplit:
    """The questions of one split in the given languages, and its images, as their source gave them.

    Where questions of other languages are left out, so are the images that only those ask about: SLAKE's English test
    images stand in its Chinese training split. The images then come in the order of the questions, as the source has
    them that reads one language alone, and images without any question follow.

    Raises:
      DataError: no prepared data set, no such split, no question of these languages, or a damaged shard.
    """
    require_folder(root)
    record = layout.read_record(root)
    described = record.get("splits", {})
    if split not in described:
        raise UnknownName(f"{root}: has no split {split!r}, only {', '.join(described)}; choose one, or prepare it too")
    examples = list(_records(root, layout.QUESTIONS, split, VQAExample))
    images = list(_records(root, layout.ANNOTATIONS, split, AnnotatedImage))
    asked = [example for example in examples if example.language in languages]
    if examples and not asked:
        there = ", ".join(described[split].get("languages", {}))
        raise UnknownName(f"data.languages: {', '.join(languages)}: {root} {split} has questions in {there} alone")
    if len(asked) == len(examples):
        return SourceSplit(examples, images)
    return SourceSplit(asked, _images_of(asked, examples, images))


def check_window(root: str, window: str) -> None:
    """Refuses a run whose window is not the one by which DICOM and NIfTI files became the pictures it learns from.

    Its checkpoints carry `data.window` to prediction, so that a file is shown there as it was in training.

    Raises:
      DataError: they differ, or there is no prepared data set.
    """
    require_folder(root)
    made = layout.read_record(root).get("window")
    if made is not None and window_of(made, root) != window_of(window, "data.window"):
        raise SettingConflict(
            f"data.window = {window!r}: scans in {root} became pictures by {made!r}; set data.window to that, or "
            f"prepare the data set again with --window {window}"
        )


def check_boxes(root: str, boxes: BoxUnit, orientation: Orientation) -> None:
    """Refuses a run that says of a prepared set's boxes and images what was decided otherwise for the set.

    Raises:
      DataError: they differ, or there is no prepared data set.
    """
    require_folder(root)
    made = layout.read_record(root).get("box_reading", {})
    for field, value in (("boxes", boxes), ("orientation", orientation)):
        if value and value != made.get(field, ""):
            raise SettingConflict(
                f"data.{field} = {value!r}: {root} was prepared with {made.get(field, '')!r}; leave it out, or prepare "
                f"the data set again with --{field} {value}"
            )


def _images_of(
    asked: Sequence[VQAExample], examples: Sequence[VQAExample], images: Sequence[AnnotatedImage]
) -> list[AnnotatedImage]:
    by_id = {image.image_id: image for image in images}
    with_questions = {example.image_id for example in examples}
    unasked = [image for image in images if image.image_id not in with_questions]
    return [by_id[name] for name in dict.fromkeys(example.image_id for example in asked)] + unasked


def _records(root: str, config: str, split: str, kind: type[fields.Record]) -> Iterator[fields.Record]:
    from array_record.python.array_record_module import ArrayRecordReader

    reference = functools.partial(StoredImage, layout.config_folder(root, layout.IMAGES))
    for shard in shards(layout.config_folder(root, config), split):
        try:
            reader = ArrayRecordReader(shard.filename)
            records = reader.read_all()
            reader.close()
            if len(records) != shard.take:
                raise ValueError(f"{len(records)} records of {shard.take}")
            for record in records:
                yield fields.record_of(kind, read_example(record), split, reference)
        # array_record reports bad files with many types: RuntimeError, ValueError …
        except Exception as error:
            raise MalformedFile(f"{shard.filename}: cannot be read ({reason_of(error)}); prepare it again") from error
