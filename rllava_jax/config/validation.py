"""What must hold between sections of a configuration, and what needs modules that settings do not know.

What one field or section must be stands with its declaration: `schema.py`, `data_pipelines/settings.py`.
"""

import math
from typing import NoReturn

from data_pipelines.core.errors import ConfigError
from data_pipelines.core.registry import nearest
from data_pipelines.images.windows import window_of
from data_pipelines.regions.encoders.protocol import region_encoders
from data_pipelines.sources import registry
from rllava_jax.config import Config, DataConfig, MixPart


def check_sections_agree(config: Config, *, where: str = "") -> None:
    """Checks everything that can be known without the model's size, the data or the devices.

    Raises:
      ConfigError: naming the dotted field, its value and the remedy, for the first setting that is wrong.
    """
    try:
        _check_start(config)
        _check_data(config)
        _check_evaluation(config)
        _check_batch(config)
    except ConfigError as error:
        raise (error.within(where) if where else error) from None


def validate_patches(config: Config, *, patch: int) -> None:
    """Checks the region settings against the vision tower's patch size, in pixels.

    Raises:
      ConfigError: as the configured encoders say.
    """
    for encoder in region_encoders(config.regions):
        encoder.check(config.regions, patch)


def _refuse(field: str, value: object, remedy: str, *, code: str = "config.conflict") -> NoReturn:
    raise ConfigError(f"{field}: {value!r} is not possible; {remedy}", code=code)


def _check_start(config: Config) -> None:
    if config.model.size == "checkpoint" and not config.init.checkpoint:
        _refuse("init.checkpoint", "", 'model.size is "checkpoint", so write --config.init.checkpoint=DIR')
    if config.init.checkpoint and config.data.tokenizer:
        _refuse("data.tokenizer", config.data.tokenizer, "leave it out: the tokenizer comes with init.checkpoint")


def _check_data(config: Config) -> None:
    data, template = config.data, config.data.prompt["answer"]
    _check_place("data", data, data.root)
    for name, part in data.mix.items():
        _check_place(f"data.mix.{name}", part, part.root or (data.root if part.source == data.source else ""))
    window_of(data.window, "data.window")
    for encoder in region_encoders(config.regions):
        if encoder.writes_boxes and "{regions}" not in template:
            remedy = f"the region encoder {encoder.name!r} needs the placeholder {{regions}}"
            _refuse("data.prompt.answer", template, remedy)


def _check_place(field: str, part: DataConfig | MixPart, root: str) -> None:
    sources = ("prepared", *registry.SOURCES)
    if part.source not in sources:
        _refuse(f"{field}.source", part.source, nearest(part.source, sources), code="config.invalid-value")
    if not root and part.source not in registry.DRAWN:
        folder = "of a prepared data set" if part.source == "prepared" else "of its published files"
        _refuse(f"{field}.root", "", f"{part.source} needs the folder {folder}: --config.{field}.root=DIR")


def _check_evaluation(config: Config) -> None:
    if config.train.evaluate_every == "never":
        return
    field, value, evaluation = "train.best_metric", config.train.best_metric, config.evaluation
    subset, condition, _ = value.split("/")
    known = condition in evaluation.conditions or ("wrong" in evaluation.conditions and condition.startswith("wrong:"))
    if not known:
        _refuse(field, value, f"evaluation.conditions has only {', '.join(evaluation.conditions)}")
    if subset.startswith("family=") and subset.removeprefix("family=") not in evaluation.families:
        _refuse(field, value, f"evaluation.families has only {', '.join(evaluation.families)}")


def _check_batch(config: Config) -> None:
    mesh, train = config.mesh, config.train
    # The batch is split over all axes but tensor; what an axis of -1 will be is not known yet.
    shards = math.prod(value for value in (max(mesh.slices, 1), mesh.data, mesh.fsdp) if value != -1)
    micro_batch = train.batch_size // train.accumulate
    if micro_batch % shards:
        remedy = f"its micro-batches of {micro_batch} must divide over the {shards} devices of slices x data x fsdp"
        _refuse("train.batch_size", train.batch_size, remedy)
