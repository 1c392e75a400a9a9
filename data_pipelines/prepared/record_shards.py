"""Questions and annotated images into shards, and the descriptions by which TFDS opens all three configurations."""

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


def write_records(
    out: str, config: str, dataset: str, split: str, records: Iterable[Mapping[str, Any]], total: int, features: Any
) -> Written:
    """Writes the `total` records of one split of a configuration in their order, in TFDS's `features`."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.features import FeaturesDict

    serialise = FeaturesDict(features).serialize_example
    os.makedirs(folder := config_folder(out, config), exist_ok=True)
    lengths, size, count = [], 0, -(-total // _RECORDS_IN_SHARD)
    bar = tqdm(records, f"writing {config} of {split}", total, unit="record", disable=None)
    waiting = iter(bar)
    for number in range(count):
        writer = ArrayRecordWriter(os.path.join(folder, shard_name(dataset, split, number, count)), "group_size:1")
        sizes = []
        for record in itertools.islice(waiting, _RECORDS_IN_SHARD):
            writer.write(serialised := in_one_order(serialise(record)))
            sizes.append(len(serialised))
        writer.close()
        lengths.append(len(sizes))
        size += sum(sizes)
    bar.close()
    return Written(tuple(lengths), size)


def describe(out: str, config: str, card: DataCard, features: dict[str, Any], splits: Mapping[str, Written]) -> None:
    """Writes dataset_info.json and features.json of one configuration; splits without a record do not stand there."""
    from etils import epath
    from tensorflow_datasets.core import dataset_info, naming, utils
    from tensorflow_datasets.core.features import FeaturesDict
    from tensorflow_datasets.core.file_adapters import FileFormat
    from tensorflow_datasets.core.splits import SplitDict, SplitInfo

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
    template = naming.ShardedFileTemplate(epath.Path(folder), dataset_name=card.name, filetype_suffix="array_record")
    infos = []
    for name, written in splits.items():
        if sum(lengths := list(written.shard_lengths)):
            of_split = template.replace(split=name)
            infos.append(
                SplitInfo(name=name, shard_lengths=lengths, num_bytes=written.bytes, filename_template=of_split)
            )
    info.set_splits(SplitDict(infos))
    info.write_to_directory(folder)
