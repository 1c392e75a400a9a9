"""Every setting of a run, as frozen dataclasses. `config/loading.py` reads files and overrides into them.

Those of data and regions are declared in `data_pipelines/settings.py`; `rllava_jax.config` exports both.
Durations carry their unit in the text: "1500 steps", "10 epochs", "64000 examples", "5 percent" (of the run).
What a field may hold, and what changing it has an effect on (`Effect`), stands in its annotation.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from data_pipelines.conditions import ASKED, CONTROLS, CORRUPTIONS, DETECTED, MAIN
from data_pipelines.core.registry import nearest
from data_pipelines.settings import (
    FAMILIES,
    DataConfig,
    Distinct,
    Effect,
    FamilyName,
    FileOrFolder,
    NotEmpty,
    RegionConfig,
    Settings,
    Share,
    ShareBelowOne,
    WrongKind,
    conflict,
    require,
)
from rllava_jax.config.durations import amount_and_unit

Remat = Literal["none", "attention", "dots", "full"]
Layers = Literal["auto", "scanned", "unrolled"]
AttentionKind = Literal["xla", "pallas", "cudnn"]
LoraTarget = Literal[
    "q", "k", "v", "o", "gate", "up", "down",
    "vision.q", "vision.k", "vision.v", "vision.o", "vision.fc1", "vision.fc2", "head",
]  # fmt: skip

# Gemma's context; room for every token is taken before the first is decoded.
MOST_NEW_TOKENS = 8192


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is not a regular expression: {error}") from None
    return text


def _condition(name: str) -> str:
    if name not in (*ASKED, DETECTED):
        corrupted = f"corrupted:KIND:LEVEL of {', '.join(CORRUPTIONS)}, 1 to 5"
        listed = f"{', '.join((*MAIN, *CONTROLS, DETECTED))}, and {corrupted}"
        raise ValueError(nearest(name, (*ASKED, DETECTED), listed=listed))
    return name


Pattern = Annotated[str, AfterValidator(_pattern)]
DurationText = Annotated[str, require(amount_and_unit, "write a duration")]
Interval = Annotated[DurationText, require(lambda text: not re.match(r"0+(\.0+)? ", text), "write an amount above 0")]
NotNever = require(lambda text: text != "never", 'write an amount and a unit, e.g. "20 steps"')
ConditionName = Annotated[str, AfterValidator(_condition)]
Devices = Annotated[int, require(lambda number: number >= 1 or number == -1, "write a number, or -1 for the rest")]


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Which PaliGemma. The named sizes stand in `model/sizes.py`.

    Attributes:
      size: tiny, paligemma-3b-{224,448,896}, paligemma2-{3b,10b,28b}-{224,448,896}; "checkpoint" takes the size of
        `init.checkpoint`; "custom" the numbers in `dimensions`.
      dimensions: of size "custom": every number of `model/sizes.py`'s SiglipConfig and GemmaConfig (vocab apart), e.g.
        {"vision.width": 32, "decoder.heads": 4, …}. An imported model of no named size is recorded so.
      image_size: pixels on a side; 0 takes the size's own.
      vocab: rows of the token table; 0 takes the tokenizer's ids, or the rows that `init.checkpoint` has.
      compute_dtype: auto is bfloat16 on accelerators and float32 on CPU.
      param_dtype: of trained parameters; frozen ones take frozen_dtype.
      frozen_dtype: auto is bfloat16 where LoRA trains beside a frozen base, else float32.
      remat: what the backward pass recomputes of each layer: none keeps every activation; attention recomputes the
        attention weights, the part that grows with the square of the sequence; dots keeps only the outputs of the
        projections; full keeps only each layer's input (least memory, a third more arithmetic). A fused attention
        never keeps its weights, so with one "attention" is "none".
      layers: scanned runs each tower's layers as one loop, so that compile time does not grow with depth; unrolled
        writes them out one after the other; auto does that on CPU without remat for towers of up to half a gibibyte,
        which are a fifth faster without the loop's copies, and scans all others (the loop also bounds what remat
        recomputes at once).
      attention: xla everywhere; pallas is this project's kernel for TPU, cudnn NVIDIA's for GPU. A fused kernel never
        holds the attention weights of a whole sequence.
    """

    size: Annotated[str, Effect.SCALE] = "tiny"
    dimensions: Annotated[dict[str, float], Effect.SCALE] = field(default_factory=dict)
    image_size: NonNegativeInt = 0
    vocab: NonNegativeInt = 0
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Annotated[Remat, Effect.NOTHING] = "none"
    layers: Annotated[Layers, Effect.NOTHING] = "auto"
    attention: Annotated[AttentionKind, Effect.NOTHING] = "xla"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.dimensions) != (self.size == "custom"):
            raise conflict("dimensions", self.dimensions, 'they are those of size="custom" and of no other')
        return self


@dataclass(frozen=True)
class InitConfig(Settings):
    """Where the parameters start. Regions and adapters that the checkpoint does not have are made fresh.

    Attributes:
      checkpoint: a run's workdir, an imported model or one of their checkpoints/STEP folders; "" starts from random
        weights. Its tokenizer comes with it.
      step: last, best or a number, where `checkpoint` names no step.
    """

    checkpoint: FileOrFolder = ""
    step: Annotated[str, Field(pattern=r"^(last|best|\d+)$")] = "last"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.step != "last" and not self.checkpoint:
            raise conflict("step", self.step, "it is a step of checkpoint, which is not set")
        return self


@dataclass(frozen=True)
class LoraConfig(Settings):
    """Low-rank adapters (arXiv 2106.09685) beside frozen projections: `y = x W + alpha / rank · (x A) B`, B from zero.

    MedM's: `LoraConfig(rank=12, alpha=32, targets=("q", "k", "v", "o", "up", "down"))`.

    Attributes:
      rank: 0 is no LoRA.
      alpha: the adapters' sum is scaled by alpha / rank, on every projection.
      targets: projections by name. The decoder's are q, k, v, o, gate, up, down; the vision tower's vision.q, vision.k,
        vision.v, vision.o, vision.fc1, vision.fc2; between them stands head.
    """

    rank: NonNegativeInt = 0
    alpha: PositiveFloat = 32.0
    targets: Annotated[tuple[LoraTarget, ...], Distinct, NotEmpty] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """AdamW as in the published PaliGemma transfers (clip 1, b2 0.999, cosine with 5 % warm-up), or Adafactor.

    Attributes:
      name: adafactor (arXiv 1804.04235, without momentum) keeps factored second moments: almost no optimiser memory.
      b1, b2, moment_dtype: of AdamW; the type is that of its first moment.
      learning_rate_scale: parameter-name pattern (a regular expression) → factor on the learning rate, e.g.
        {"img/.*": 0.1}. The first pattern that matches a parameter holds; the others have 1.
      weight_decay: per step, relative to the peak learning rate: `p -= lr_t / lr * weight_decay * p`.
      weight_decay_on: parameter-name patterns that decay; empty is big_vision's rule, the kernels of SigLIP and of the
        region branch, as far as they train.
      weight_decay_scale: parameter-name pattern → factor on the decay, as learning_rate_scale.
      ema: decay of an exponential moving average of the trained parameters, e.g. 0.999; 0 is none. Evaluation, export
        and prediction then use the average.
      schedule: the learning rate after warm-up.
      trainable: parameter-name patterns that train; everything else is frozen and holds no optimiser state. Empty is
        everything, or with LoRA the adapters and the region branch.
    """

    name: Literal["adamw", "adafactor"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    learning_rate_scale: dict[Pattern, NonNegativeFloat] = field(default_factory=dict)
    b1: ShareBelowOne = 0.9
    b2: ShareBelowOne = 0.999
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: NonNegativeFloat = 1e-4
    weight_decay_on: tuple[Pattern, ...] = ()
    weight_decay_scale: dict[Pattern, NonNegativeFloat] = field(default_factory=dict)
    ema: ShareBelowOne = 0.0
    warmup: Annotated[DurationText, NotNever] = "5 percent"
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: PositiveFloat = 1.0
    trainable: Annotated[tuple[Pattern, ...], Distinct] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name != "adamw":
            for name, default in (("b1", 0.9), ("b2", 0.999), ("moment_dtype", "float32")):
                if getattr(self, name) != default:
                    raise conflict(name, getattr(self, name), f"{self.name} has none; write {default}, its default")
        for name in ("weight_decay_on", "weight_decay_scale"):
            if getattr(self, name) and not self.weight_decay:
                raise conflict(name, getattr(self, name), "weight_decay is 0; leave it out")
        return self


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The loop: how long, how much at a time, and what is kept.

    Attributes:
      duration: "N steps", "N epochs" or "N examples".
      batch_size: examples per optimiser step, over all devices and hosts.
      accumulate: micro-batches per step; the batch is split into this many, and the result equals the full batch's.
      checkpoint_every, log_every, evaluate_every: durations; "never" for none but the last (not for log_every).
      keep_last: checkpoints kept besides the best.
      best_metric: of the validation rows, as "subset/condition/metric"; higher is better.
      losses: name → weight of each loss of `training/losses`; the sum is minimised.
      label_smoothing: share of the target's probability that is spread over the vocabulary.
      z_loss: weight of the squared log of the softmax's normaliser, which keeps logits from drifting (PaLM: 1e-4).
      loss_chunk: answer positions of each example whose logits are held at once.
      on_bad_step: what follows a loss or gradient that is not finite, or a spike: stop the run, or skip the batch and
        go on. Either way the parameters stay as they were, and the log names the examples.
      spike_factor: a loss above so many times its running mean is a spike; 0 looks only for what is not finite.
      max_skipped: more skipped batches in a row than so many stop the run.
      data_wait_warning: share of the time between two logged steps spent waiting for input, above which the log warns.
      stall_seconds: a step that takes longer is named in the log, with what the run is waiting for.
      log_examples: write the ids of every step's examples to examples.jsonl, to find those behind a change of the loss.
      wandb_project: also log to this project of Weights & Biases; "" does not. Needs the extra `wandb`.
      compilation_cache: folder of compiled programs, so that a second start need not compile; "workdir" keeps it in
        the run's own, "" keeps none.
    """

    duration: Annotated[
        Interval,
        require(lambda text: text != "never" and "percent" not in text, "write steps, epochs or examples"),
        Effect.SCALE,
    ] = "1000 steps"
    batch_size: PositiveInt = 32
    accumulate: Annotated[PositiveInt, Effect.NOTHING] = 1
    log_every: Annotated[Interval, NotNever, Effect.NOTHING] = "20 steps"
    checkpoint_every: Annotated[Interval, Effect.NOTHING] = "250 steps"
    evaluate_every: Annotated[Interval, Effect.SCALE] = "never"
    keep_last: Annotated[PositiveInt, Effect.NOTHING] = 2
    best_metric: Annotated[str, Effect.SCALE] = "family=identify/right/accuracy"
    losses: Annotated[dict[str, PositiveFloat], NotEmpty] = field(default_factory=lambda: {"cross_entropy": 1.0})
    label_smoothing: ShareBelowOne = 0.0
    z_loss: NonNegativeFloat = 0.0
    loss_chunk: Annotated[PositiveInt, Effect.NOTHING] = 8
    on_bad_step: Annotated[Literal["stop", "skip"], Effect.NOTHING] = "stop"
    spike_factor: Annotated[float, require(lambda factor: factor == 0 or factor > 1, "write one above 1, or 0")] = 0.0
    max_skipped: Annotated[PositiveInt, Effect.NOTHING] = 10
    data_wait_warning: Annotated[Share, Effect.NOTHING] = 0.2
    stall_seconds: Annotated[PositiveFloat, Effect.NOTHING] = 300.0
    log_examples: Annotated[bool, Effect.NOTHING] = False
    wandb_project: Annotated[str, Effect.NOTHING] = ""
    compilation_cache: Annotated[FileOrFolder, Effect.NOTHING] = "workdir"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.accumulate:
            remedy = f"it must divide into accumulate={self.accumulate} equal micro-batches"
            raise conflict("batch_size", self.batch_size, remedy)
        parts = self.best_metric.split("/")
        if self.evaluate_every != "never" and not (len(parts) == 3 and all(parts)):
            raise conflict("best_metric", self.best_metric, 'write "subset/condition/metric"')
        return self


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What is evaluated after training (test split), and during it (validation split, at most `during_examples`).

    Attributes:
      conditions: right, none, wrong region, and blank image (with the region shown); or controls: noise, shuffled,
        question_only, and corrupted:KIND:LEVEL (`data_pipelines/conditions.py`); detected asks ordinary questions a
        second time, with the box that the model itself finds of the structure they name (`detect {structure}`).
      structures: names that "detected" looks for in a question, e.g. ("liver", "left kidney"); empty takes the labels
        of the boxes among the evaluated questions.
      families: question families that are evaluated.
      max_examples: at most so many examples per family; 0 asks them all.
      bootstrap: resamples behind each 95 % interval, drawn by image because questions of one image are not independent;
        0 leaves the intervals out.
      gallery: example images shown in the report.
    """

    conditions: Annotated[tuple[ConditionName, ...], Distinct, NotEmpty] = ("right", "none", "wrong", "blank")
    structures: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Distinct] = ()
    families: Annotated[tuple[FamilyName, ...], Distinct, NotEmpty] = FAMILIES[:-1]  # all but caption
    wrong_kinds: Annotated[tuple[WrongKind, ...], Distinct] = ("shifted", "scaled", "another", "mirrored", "random")
    batch_size: PositiveInt = 64
    max_new_tokens: Annotated[PositiveInt, Field(le=MOST_NEW_TOKENS)] = 24
    max_examples: NonNegativeInt = 0
    during_examples: PositiveInt = 200
    bootstrap: NonNegativeInt = 1000
    gallery: Annotated[NonNegativeInt, Effect.NOTHING] = 60

    @model_validator(mode="after")
    def _check(self) -> Self:
        detects = DETECTED in self.conditions
        if detects and "none" not in self.conditions:
            raise conflict("conditions", self.conditions, "add none, with which the detected box is compared")
        if self.structures and not detects:
            remedy = 'the condition "detected" looks for them; add it to conditions, or leave them out'
            raise conflict("structures", self.structures, remedy)
        if "wrong" in self.conditions and not self.wrong_kinds:
            raise conflict("wrong_kinds", self.wrong_kinds, "name at least one, or leave wrong out of conditions")
        return self


@dataclass(frozen=True)
class MeshConfig(Settings):
    """Devices by axis; one of data, fsdp and tensor may be -1 (the rest).

    Attributes:
      data: copies of the model within a slice.
      fsdp: also cuts each parameter, and gathers it where it is used.
      tensor: cuts heads, feed-forward and vocabulary; every example is computed by so many devices together.
      slices: TPU slices (or other groups with a slow network between them); each holds copies of the model, and only
        gradients travel between them. 0 counts them from the devices.
    """

    data: Devices = -1
    fsdp: Devices = 1
    tensor: Devices = 1
    slices: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        rest = [name for name in ("data", "fsdp", "tensor") if getattr(self, name) == -1]
        if len(rest) > 1:
            remedy = f"only one axis may be -1, the rest of the devices, and {rest[0]} is; write a number"
            raise conflict(rest[-1], -1, remedy)
        return self


@dataclass(frozen=True)
class Config(Settings):
    """One run. A file under `configs/` builds one, or a `Curriculum`, and names it `config`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: Annotated[EvaluationConfig, Effect.EVALUATION] = field(default_factory=EvaluationConfig)
    mesh: Annotated[MeshConfig, Effect.NOTHING] = field(default_factory=MeshConfig)
    seed: Annotated[int, Field(ge=0, lt=2**32), Effect.SCALE] = 0


@dataclass(frozen=True)
class Stage(Settings):
    """A run of a curriculum, and the parameters that it starts from.

    Attributes:
      config: all its settings; what it shares with the other stages is written once, by `dataclasses.replace`.
      starts_from: "previous" is the stage before, for the first one `config.init`; else the name of an earlier stage;
        or "init", `config.init` again. An earlier stage's tokenizer comes with its parameters.
      step: which checkpoint of that stage.
      evaluate: ask the test split and write the report when it is trained. The last stage always does.
    """

    config: Config
    starts_from: str = "previous"
    step: Literal["last", "best"] = "last"
    evaluate: bool = False


@dataclass(frozen=True)
class Curriculum(Settings):
    """Runs one after the other, by name. See `config/curriculum.py`."""

    stages: dict[str, Stage]
