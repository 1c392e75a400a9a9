"""Reading the encoded bytes of one image of a prepared data set, when it is needed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.prepared import layout
from data_pipelines.prepared.tf_example import read_example
from data_pipelines.records import StoredImage

if TYPE_CHECKING:
    from array_record.python.array_record_data_source import ArrayRecordDataSource


def read(image: StoredImage) -> bytes:
    """The encoded bytes of an image or a mask: JPEG or PNG. Safe in threads and in processes that are spawned.

    Raises:
      ImageError: the shard is missing or damaged.
    """
    try:
        record = _source(image.folder, image.split)[image.position]
        return read_example(record)["image"][0]
    except DataError as error:
        raise ImageError(str(error)) from None
    # array_record reports bad files with many types: RuntimeError, ValueError, IndexError …
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"{image}: image cannot be read ({reason}); prepare the data set again") from error


@functools.lru_cache(maxsize=64)
def _source(folder: str, split: str) -> ArrayRecordDataSource:
    # Opens each shard when it is first read, and shares one reader among threads.
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(layout.shards(folder, split))
