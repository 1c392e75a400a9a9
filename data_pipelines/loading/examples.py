"""The data sets. `load_examples` is the one door: everything a run is trained or asked on comes through it."""

import logging

from data_pipelines.records import FAMILIES, BoxReading, SourceSplit, VQAExample, require_unique_ids
from data_pipelines.regions.box_reading import oriented_split, read_split, require_boxes
from data_pipelines.regions.named_structures import link_regions
from data_pipelines.regions.questions import region_questions
from data_pipelines.settings import DataConfig
from data_pipelines.sources import registry
from data_pipelines.sources.prepared import check_boxes, check_window
from data_pipelines.sources.prepared import load as load_prepared

logger = logging.getLogger(__name__)


def load_examples(data: DataConfig, split: str, *, seed: int, max_regions: int) -> list[VQAExample]:
    """All questions of one split of the configured source: its own, then the four region families.

    The same arguments give the same list, in the same order, on every machine.

    Args:
      split: a name the source knows, e.g. `data.train_split`.
      seed: of the region questions (wording, negatives, order of choices); the phantom's own stands in its settings.
      max_regions: `RegionConfig.max_regions`. A question that names more boxes than this gets *no* region (how
        many, is logged), since showing some of "the kidneys" would be a wrong hint.

    Raises:
      DataError: the source's files are missing or malformed, or two questions share an id.
    """
    source = load_source(data, split)
    questions, counts = link_regions(
        source.examples, source.images, rule=data.policy.question_regions, max_regions=max_regions
    )
    logger.info(
        "%s %s: %d of %d questions have a region; %d name more than %d boxes and %d would be answered by their box",
        data.source, split, counts.linked, len(questions), counts.too_many, max_regions, counts.revealing,
    )  # fmt: skip
    rebuilt = region_questions(source.images, families=FAMILIES, seed=seed)
    examples = questions + rebuilt
    require_unique_ids(examples, f"{data.source} {split}")
    return examples


def load_source(data: DataConfig, split: str) -> SourceSplit:
    """The split as published: questions without regions, and images with theirs. Raises as `load_examples`."""
    if data.source == "prepared":
        check_window(data.root, data.window)
        check_boxes(data.root, data.boxes, data.orientation)
        return load_prepared(data.root, split, languages=data.languages)
    source = registry.SOURCES.get(data.source, setting="data.source")
    reading = BoxReading(data.boxes, data.orientation)
    if source.configured is None:
        return read_split(source, data.root, split, reading)
    require_boxes(source, reading)
    loaded = source.configured(data, split, *((reading,) if source.has_boxes else ()))
    return oriented_split(loaded, reading.orientation)
