"""Questions and annotated images into shards, and the descriptions by which TFDS opens all three configurations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from data_pipelines.core.array_records import in_one_order, shard_name
from data_pipelines.prepared.layout import VERSION, config_folder
from data_pipelines.records import DataCard

# Records of text are small: so many of them are some tens of MB.
_RECORDS_IN_SHARD = 65536


@dataclass(frozen=True)
class Written:
    """A split of one configuration as it was written: records by shard, and bytes in all."""

    shard_lengths: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class ShardedSplit:
    """A split of one configuration that is to be written: where, under which names, and of how many records."""

    out: str
    config: str
    dataset: str
    split: str
    total: int

    def paths(self) -> list[str]:
        """Its files, in order."""
        count = -(-self.total // _RECORDS_IN_SHARD)
        folder = config_folder(self.out, self.config)
        return [os.path.join(folder, shard_name(self.dataset, self.split, i, count)) for i in range(count)]


def write_records(into: ShardedSplit, records: Iterable[Mapping[str, Any]], features: dict[str, Any]) -> Written:
    """Writes the records of one split in their order."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.features import FeaturesDict

    serialise = FeaturesDict(features).serialize_example
    os.makedirs(config_folder(into.out, into.config), exist_ok=True)
    lengths, size = [], 0
    bar = tqdm(records, f"writing {into.config} of {into.split}", into.total, unit="record", disable=None)
    waiting = iter(bar)
    for path in into.paths():
        writer, length = ArrayRecordWriter(path, "group_size:1"), 0
        for record in itertools.islice(waiting, _RECORDS_IN_SHARD):
            serialised = in_one_order(serialise(record))
            size, length = size + len(serialised), length + 1
            writer.write(serialised)
        writer.close()
        lengths.append(length)
    bar.close()
    return Written(tuple(lengths), size)


def describe(out: str, config: str, card: DataCard, features: dict[str, Any], splits: Mapping[str, Written]) -> None:
    """Writes dataset_info.json and features.json of one configuration; splits without a record do not stand there."""
    from etils import epath
    from tensorflow_datasets.core import dataset_info, naming, utils
    from tensorflow_datasets.core import splits as tfds_splits
    from tensorflow_datasets.core.features import FeaturesDict
    from tensorflow_datasets.core.file_adapters import FileFormat

    folder = config_folder(out, config)
    os.makedirs(folder, exist_ok=True)
    identity = dataset_info.DatasetIdentity(
        name=card.name, version=utils.Version(VERSION), data_dir=folder, module_name="", config_name=config
    )
    info = dataset_info.DatasetInfo(
        builder=identity,
        features=FeaturesDict(features),
        description=f"{card.title}: {card.about}",
        homepage=card.url,
        citation=card.paper,
        license=card.licence,
        disable_shuffling=True,  # the order is the source's
    )
    info.set_file_format(FileFormat.ARRAY_RECORD)
    template = naming.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name=card.name,
        filetype_suffix="array_record",
        template=naming.DEFAULT_FILENAME_TEMPLATE,
    )
    info.set_splits(tfds_splits.SplitDict(list(_split_infos(splits, template, tfds_splits.SplitInfo))))
    info.write_to_directory(folder)


def _split_infos(splits: Mapping[str, Written], template: Any, split_info: Any) -> Iterable[Any]:
    for name, written in splits.items():
        if sum(written.shard_lengths):
            yield split_info(
                name=name,
                shard_lengths=list(written.shard_lengths),
                num_bytes=written.bytes,
                filename_template=template.replace(split=name),
            )
