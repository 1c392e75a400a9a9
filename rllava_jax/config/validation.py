"""What must hold between settings, beyond each one's type: checked before any data is read or memory is touched."""

from __future__ import annotations

import difflib
import itertools
import math
import re
import string
from collections.abc import Iterable, Mapping
from typing import get_args

from data_pipelines.conditions import CONTROLS, CORRUPTIONS, DETECTED, MAIN
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.images.windows import window_of
from data_pipelines.loading.controls import ASKED
from data_pipelines.records import FAMILIES, Task
from data_pipelines.settings import PolicyConfig
from data_pipelines.sources import registry
from rllava_jax.config import Config
from rllava_jax.config.durations import Duration

_PLACEHOLDERS = {"language", "regions", "question"}


def validate(config: Config) -> None:
    """Checks everything that can be known without the model's size, the data or the devices.

    Raises:
      ConfigError: naming the dotted field, its value and the remedy, for the first setting that is wrong.
    """
    _require(0 <= config.seed < 2**32, "seed", config.seed, "write a whole number from 0 to 4294967295")
    _require(config.model.image_size >= 0, "model.image_size", config.model.image_size, "write 0 for the size's own")
    _require(config.model.vocab >= 0, "model.vocab", config.model.vocab, "write 0 for the tokenizer's")
    _validate_start(config)
    _validate_regions(config)
    _validate_data(config)
    _validate_policy("data.policy", config.data.policy)
    _validate_augment(config)
    _validate_ranges(config)
    _validate_optimizer(config)
    _validate_train(config)
    _validate_evaluation(config)
    _validate_mesh(config)


def validate_patches(config: Config, *, patch: int) -> None:
    """Checks the region settings against the vision tower's patch size, in pixels.

    Raises:
      ConfigError: the crop is not made of whole patches, or has fewer patches than the tokens it is pooled to.
    """
    if "crop" not in config.regions.encoders:
        return
    size, tokens = config.regions.crop_size, config.regions.tokens
    whole = size % patch == 0
    _require(whole, "regions.crop_size", size, f"write a multiple of the patch, {patch} pixels")
    patches = (size // patch) ** 2
    _require(tokens <= patches, "regions.tokens", tokens, f"a crop of {size} pixels has only {patches} patches")


def _require(holds: bool, field: str, value: object, remedy: str) -> None:
    if not holds:
        raise ConfigError(f"{field}: {value!r} is not possible; {remedy}")


def _at_least(minimum: float, **fields: float) -> None:
    for field, value in fields.items():
        _require(value >= minimum, field.replace("__", "."), value, f"write {minimum} or more")


def _positive(**fields: float) -> None:
    for field, value in fields.items():
        _require(value > 0, field.replace("__", "."), value, "write a number above 0")


def _share(field: str, value: float) -> None:
    _require(0 <= value <= 1, field, value, "write a share between 0 and 1")


def _distinct(field: str, values: tuple[str, ...], *, may_be_empty: bool = False) -> None:
    _require(len(set(values)) == len(values), field, values, "name each one once")
    _require(may_be_empty or bool(values), field, values, "name at least one")


def _known_families(field: str, names: Iterable[str]) -> None:
    for name in names:
        _require(name in FAMILIES, field, name, f"the question families are {', '.join(FAMILIES)}")


def _validate_start(config: Config) -> None:
    model, init, lora = config.model, config.init, config.lora
    remedy = 'model.size is "checkpoint", so write --config.init.checkpoint=DIR'
    _require(model.size != "checkpoint" or bool(init.checkpoint), "init.checkpoint", init.checkpoint, remedy)
    remedy = 'they are those of model.size="custom" and of no other'
    _require(bool(model.dimensions) == (model.size == "custom"), "model.dimensions", model.dimensions, remedy)
    _require(not (init.checkpoint and config.data.tokenizer), "data.tokenizer", config.data.tokenizer,
             "leave it out: the tokenizer comes with init.checkpoint")  # fmt: skip
    alone = init.step != "last" and not init.checkpoint
    _require(not alone, "init.step", init.step, "it is a step of init.checkpoint, which is not set")
    named = init.step in ("last", "best") or init.step.isdigit()
    _require(named, "init.step", init.step, "write last, best or a number")
    _at_least(0, lora__rank=lora.rank)
    _positive(lora__alpha=lora.alpha)
    _distinct("lora.targets", lora.targets)


def _validate_regions(config: Config) -> None:
    regions = config.regions
    _distinct("regions.encoders", regions.encoders, may_be_empty=True)
    _at_least(
        1,
        regions__max_regions=regions.max_regions,
        regions__tokens=regions.tokens,
        regions__crop_size=regions.crop_size,
        regions__crop_context=regions.crop_context,
        regions__crop_min_pixels=regions.crop_min_pixels,
    )
    side = math.isqrt(regions.tokens)
    nearest = f"write a square number, e.g. {side**2} or {(side + 1) ** 2}"
    _require(side**2 == regions.tokens, "regions.tokens", regions.tokens, nearest)


def _validate_data(config: Config) -> None:
    data = config.data
    _validate_place("data", data.source, data.root)
    remedy = "copy it to a local folder (gcloud storage cp -r), or mount its bucket (gcsfuse)"
    _require("://" not in data.tokenizer, "data.tokenizer", data.tokenizer, remedy)
    try:
        window_of(data.window, "data.window")
    except DataError as error:
        raise ConfigError(str(error)) from None
    _distinct("data.languages", data.languages)
    _validate_families("data.families", data.families)
    _validate_mix(config)
    tasks = get_args(Task)
    remedy = f"write one template for each of the tasks {', '.join(tasks)}"
    _require(set(data.prompt) == set(tasks), "data.prompt", sorted(data.prompt), remedy)
    for task, template in data.prompt.items():
        _validate_template(f"data.prompt.{task}", template)
    if "loc" in config.regions.encoders:
        template = data.prompt["answer"]
        remedy = "the region encoder 'loc' needs the placeholder {regions}"
        _require("{regions}" in template, "data.prompt.answer", template, remedy)


def _validate_mix(config: Config) -> None:
    data = config.data
    _at_least(0, data__mix_temperature=data.mix_temperature)
    remedy = "it weighs the parts of data.mix, of which there are none"
    _require(bool(data.mix) or not data.mix_temperature, "data.mix_temperature", data.mix_temperature, remedy)
    for name, part in data.mix.items():
        field = f"data.mix.{name}"
        plain = re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None
        _require(plain, "data.mix", name, "name parts with letters, digits, _ and - alone")
        same = data.root if part.source == data.source else ""
        _validate_place(field, part.source, part.root or same)
        _distinct(f"{field}.languages", part.languages)
        _validate_families(f"{field}.families", part.families, may_be_empty=True)
        if part.policy is not None:
            _validate_policy(f"{field}.policy", part.policy)
        for key, value in (("weight", part.weight), ("epochs", part.epochs)):
            _require(value >= 0, f"{field}.{key}", value, "write 0 or more")
        both = part.weight == 1 or not part.anneal
        _require(both, f"{field}.weight", part.weight, "anneal takes its place; leave one of them out")
        for share, weight in part.anneal:
            _share(f"{field}.anneal", share)
            _require(weight >= 0, f"{field}.anneal", weight, "write weights of 0 or more")
        shares = [share for share, _ in part.anneal]
        rising = all(one < other for one, other in itertools.pairwise(shares))
        _require(
            rising, f"{field}.anneal", part.anneal, "write its points in the order of the run, each later than the last"
        )
    _require(len(data.mix) < 128, "data.mix", len(data.mix), "a mix has at most 127 parts")
    if data.mix:
        drawn = any(weight > 0 for part in data.mix.values() for _, weight in part.anneal or ((0.0, part.weight),))
        _require(drawn, "data.mix", sorted(data.mix), "give one of its parts a weight above 0")


def _validate_place(field: str, source: str, root: str) -> None:
    sources = ("prepared", *registry.MODULES)
    near = difflib.get_close_matches(source, sources, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sources)}"
    _require(source in sources, f"{field}.source", source, remedy)
    if source not in registry.DRAWN:
        folder = "of a prepared data set" if source == "prepared" else "of its published files"
        remedy = f"{source} needs the folder {folder}: --config.{field}.root=DIR"
        _require(bool(root), f"{field}.root", root, remedy)
    remedy = "copy it to a local folder (gcloud storage cp -r), or mount its bucket (gcsfuse)"
    _require("://" not in root, f"{field}.root", root, remedy)


def _validate_families(field: str, families: Mapping[str, float], *, may_be_empty: bool = False) -> None:
    _known_families(field, families)
    for family, weight in families.items():
        _require(weight >= 0, f"{field}.{family}", weight, "write 0 or more")
    drawn = sum(families.values()) > 0 or (may_be_empty and not families)
    _require(drawn, field, dict(families), "give one of them a weight above 0")


def _validate_template(field: str, template: str) -> None:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ConfigError(f"{field}: {template!r} is not a template: {error}") from None
    _require(names <= _PLACEHOLDERS, field, template, "the placeholders are {language}, {regions} and {question}")
    if not field.endswith(".caption"):  # whose examples ask nothing
        _require("question" in names, field, template, "it must contain {question}")
    _require("\n" not in template, field, template, "leave the newline out: it is added after the prompt")


def _validate_policy(field: str, policy: PolicyConfig) -> None:
    _share(f"{field}.shown", policy.shown)
    _share(f"{field}.wrong", policy.wrong)
    _known_families(f"{field}.shown_by_family", policy.shown_by_family)
    for family, share in policy.shown_by_family.items():
        _share(f"{field}.shown_by_family.{family}", share)
    _distinct(f"{field}.wrong_kinds", policy.wrong_kinds, may_be_empty=policy.wrong == 0)


def _validate_augment(config: Config) -> None:
    augment = config.data.augment
    _require(0 <= augment.crop < 1, "data.augment.crop", augment.crop, "write a share from 0 to below 1")
    _at_least(
        0,
        data__augment__box_jitter=augment.box_jitter,
        data__augment__brightness=augment.brightness,
        data__augment__contrast=augment.contrast,
    )


def _validate_ranges(config: Config) -> None:
    data, phantom, documents, evaluation = config.data, config.data.phantom, config.data.documents, config.evaluation
    _at_least(
        0,
        data__workers=data.workers,
        data__image_cache_mb=data.image_cache_mb,
        data__long_examples_allowed=data.long_examples_allowed,
        data__corrupt_images_allowed=data.corrupt_images_allowed,
        data__phantom__seed=phantom.seed,
        data__documents__seed=documents.seed,
        evaluation__max_examples=evaluation.max_examples,
        evaluation__gallery=evaluation.gallery,
    )
    _at_least(
        1,
        data__tokenizer_vocab=data.tokenizer_vocab,
        data__text_length=data.text_length,
        data__threads=data.threads,
        data__prefetch=data.prefetch,
        data__phantom__train_images=phantom.train_images,
        data__phantom__validate_images=phantom.validate_images,
        data__phantom__test_images=phantom.test_images,
        data__phantom__image_size=phantom.image_size,
        data__documents__train_images=documents.train_images,
        data__documents__validate_images=documents.validate_images,
        data__documents__test_images=documents.test_images,
        data__documents__page_width=documents.page_width,
        evaluation__batch_size=evaluation.batch_size,
        evaluation__max_new_tokens=evaluation.max_new_tokens,
        evaluation__during_examples=evaluation.during_examples,
        evaluation__bootstrap=evaluation.bootstrap,
        train__batch_size=config.train.batch_size,
        train__accumulate=config.train.accumulate,
        train__keep_last=config.train.keep_last,
        train__loss_chunk=config.train.loss_chunk,
        train__max_skipped=config.train.max_skipped,
    )


def _validate_optimizer(config: Config) -> None:
    optimizer = config.optimizer
    _positive(optimizer__learning_rate=optimizer.learning_rate, optimizer__clip_norm=optimizer.clip_norm)
    _at_least(0, optimizer__weight_decay=optimizer.weight_decay)
    for field, value in (("optimizer.b1", optimizer.b1), ("optimizer.b2", optimizer.b2)):
        _require(0 <= value < 1, field, value, "write a share from 0 to below 1")
    _distinct("optimizer.trainable", optimizer.trainable, may_be_empty=True)
    for field, patterns in (("trainable", optimizer.trainable), ("weight_decay_on", optimizer.weight_decay_on)):
        for pattern in patterns:
            _regular_expression(f"optimizer.{field}", pattern)
    for field, scales in (
        ("learning_rate_scale", optimizer.learning_rate_scale),
        ("weight_decay_scale", optimizer.weight_decay_scale),
    ):
        for pattern, scale in scales.items():
            _regular_expression(f"optimizer.{field}", pattern)
            _require(scale >= 0, f"optimizer.{field}.{pattern}", scale, "write a factor of 0 or more")
    unused = optimizer.moment_dtype != "float32" and optimizer.name != "adamw"
    remedy = f"{optimizer.name} has no such moment; leave it out"
    _require(not unused, "optimizer.moment_dtype", optimizer.moment_dtype, remedy)
    for name, default in (("b1", 0.9), ("b2", 0.999)):
        unused = optimizer.name != "adamw" and getattr(optimizer, name) != default
        remedy = f"{optimizer.name} has no {name}; write {default}, its default"
        _require(not unused, f"optimizer.{name}", getattr(optimizer, name), remedy)
    for name in ("weight_decay_on", "weight_decay_scale"):
        value = getattr(optimizer, name)
        _require(not value or optimizer.weight_decay > 0, f"optimizer.{name}", value, "optimizer.weight_decay is 0")
    _require(0 <= optimizer.ema < 1, "optimizer.ema", optimizer.ema, "write a decay from 0 (none) to below 1")
    warmup = Duration.parse(optimizer.warmup, field="optimizer.warmup")
    _require(warmup is not None, "optimizer.warmup", optimizer.warmup, 'write "0 steps" for none')


def _regular_expression(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{field}: {pattern!r} is not a regular expression: {error}") from None


def _validate_train(config: Config) -> None:
    train = config.train
    duration = Duration.parse(train.duration, field="train.duration")
    relative = duration is None or duration.unit == "percent"
    _require(not relative, "train.duration", train.duration, "write steps, epochs or examples")
    for name in ("duration", "log_every", "checkpoint_every", "evaluate_every"):
        field, text = f"train.{name}", getattr(train, name)
        interval = Duration.parse(text, field=field)
        _require(interval is None or interval.amount > 0, field, text, "write an amount above 0")
    _require(train.log_every != "never", "train.log_every", train.log_every, "write how often to log")
    remedy = f"it must divide into train.accumulate={train.accumulate} equal micro-batches"
    _require(train.batch_size % train.accumulate == 0, "train.batch_size", train.batch_size, remedy)
    smoothing = train.label_smoothing
    _require(0 <= smoothing < 1, "train.label_smoothing", smoothing, "write a share from 0 to below 1")
    _at_least(0, train__z_loss=train.z_loss)
    spike = train.spike_factor
    _require(spike == 0 or spike > 1, "train.spike_factor", spike, "write a factor above 1, or 0 for none")
    _share("train.data_wait_warning", train.data_wait_warning)
    _positive(train__stall_seconds=train.stall_seconds)
    if train.evaluate_every != "never":
        _validate_best_metric(config)


def _validate_best_metric(config: Config) -> None:
    field, value = "train.best_metric", config.train.best_metric
    parts = value.split("/")
    _require(len(parts) == 3 and all(parts), field, value, 'write "subset/condition/metric"')
    subset, condition, _ = parts
    conditions = config.evaluation.conditions
    asked = condition in conditions or (condition.startswith("wrong:") and "wrong" in conditions)
    _require(asked, field, value, f"evaluation.conditions asks only for {', '.join(conditions)}")
    if subset.startswith("family="):
        families = config.evaluation.families
        asked = subset.removeprefix("family=") in families
        _require(asked, field, value, f"evaluation.families asks only for {', '.join(families)}")


def _validate_evaluation(config: Config) -> None:
    evaluation = config.evaluation
    conditions = evaluation.conditions
    _distinct("evaluation.conditions", conditions)
    names = (*ASKED, DETECTED)
    for condition in conditions:
        near = difflib.get_close_matches(condition, names, n=1)
        known = (
            f"{', '.join((*MAIN, *CONTROLS, DETECTED))}, and corrupted:KIND:LEVEL of {', '.join(CORRUPTIONS)}, 1 to 5"
        )
        remedy = f"did you mean {near[0]!r}? There are {known}" if near else f"there are {known}"
        _require(condition in names, "evaluation.conditions", condition, remedy)
    detects = DETECTED in conditions
    remedy = "add none, with which the detected box is compared"
    _require(not detects or "none" in conditions, "evaluation.conditions", conditions, remedy)
    _distinct("evaluation.structures", evaluation.structures, may_be_empty=True)
    for name in evaluation.structures:
        _require(bool(name.strip()), "evaluation.structures", name, "write the name of a structure, or leave it out")
    remedy = 'they are what the condition "detected" looks for; add it to evaluation.conditions, or leave them out'
    _require(detects or not evaluation.structures, "evaluation.structures", evaluation.structures, remedy)
    _distinct("evaluation.families", evaluation.families)
    _known_families("evaluation.families", evaluation.families)
    _distinct("evaluation.wrong_kinds", evaluation.wrong_kinds, may_be_empty="wrong" not in evaluation.conditions)


def _validate_mesh(config: Config) -> None:
    mesh, train = config.mesh, config.train
    axes = {"mesh.data": mesh.data, "mesh.fsdp": mesh.fsdp, "mesh.tensor": mesh.tensor}
    for field, value in axes.items():
        _require(value >= 1 or value == -1, field, value, "write the number of devices, or -1 for the rest")
    rest = [field for field, value in axes.items() if value == -1]
    remedy = f"only one axis may be -1, the rest of the devices, and {rest[0] if rest else ''} is; write a number there"
    _require(len(rest) < 2, rest[-1] if rest else "", -1, remedy)
    _at_least(0, mesh__slices=mesh.slices)
    # The batch is split over all axes but tensor; what an axis of -1 will be is not known yet.
    shards = math.prod(value for value in (max(mesh.slices, 1), mesh.data, mesh.fsdp) if value != -1)
    micro_batch = train.batch_size // train.accumulate
    remedy = f"its micro-batches of {micro_batch} must divide over the {shards} devices of slices x data x fsdp"
    _require(micro_batch % shards == 0, "train.batch_size", train.batch_size, remedy)
