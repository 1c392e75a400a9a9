"""Every setting of a run, as frozen dataclasses. `config/loading.py` reads files and overrides into them.

Those of data and regions are declared in `data_pipelines/settings.py`; `rllava_jax.config` exports both.
Durations carry their unit in the text: "1500 steps", "10 epochs", "64000 examples", "5 percent" (of the run).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipelines.settings import DataConfig, RegionConfig, WrongKind

Remat = Literal["none", "attention", "dots", "full"]
Layers = Literal["auto", "scanned", "apart"]
AttentionKind = Literal["xla", "pallas", "cudnn"]
LoraTarget = Literal[
    "q", "k", "v", "o", "gate", "up", "down",
    "vision.q", "vision.k", "vision.v", "vision.o", "vision.fc1", "vision.fc2", "head",
]  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
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
      layers: scanned runs each tower's layers as one loop, so that compile time does not grow with depth; apart writes
        them out one after the other; auto does that on CPU without remat for towers of up to half a gibibyte, which
        are a fifth faster without the loop's copies, and scans all others (the loop also bounds what remat recomputes
        at once).
      attention: xla everywhere; pallas is this project's kernel for TPU, cudnn NVIDIA's for GPU. A fused kernel never
        holds the attention weights of a whole sequence.
    """

    size: str = "tiny"
    dimensions: dict[str, float] = field(default_factory=dict)
    image_size: int = 0
    vocab: int = 0
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Remat = "none"
    layers: Layers = "auto"
    attention: AttentionKind = "xla"


@dataclass(frozen=True)
class InitConfig:
    """Where the parameters start. Regions and adapters that the checkpoint does not have are made fresh.

    Attributes:
      checkpoint: a run's workdir, an imported model or one of their checkpoints/STEP folders; "" starts from random
        weights. Its tokenizer comes with it.
      step: last, best or a number, where `checkpoint` names no step.
    """

    checkpoint: str = ""
    step: str = "last"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) beside frozen projections: `y = x W + alpha / rank · (x A) B`, B from zero.

    MedM's: `LoraConfig(rank=12, alpha=32, targets=("q", "k", "v", "o", "up", "down"))`.

    Attributes:
      rank: 0 is no LoRA.
      alpha: the adapters' sum is scaled by alpha / rank, on every projection.
      targets: projections by name. The decoder's are q, k, v, o, gate, up, down; the vision tower's vision.q, vision.k,
        vision.v, vision.o, vision.fc1, vision.fc2; between them stands head.
    """

    rank: int = 0
    alpha: float = 32.0
    targets: tuple[LoraTarget, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class OptimizerConfig:
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
    learning_rate: float = 1e-3
    learning_rate_scale: dict[str, float] = field(default_factory=dict)
    b1: float = 0.9
    b2: float = 0.999
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 1e-4
    weight_decay_on: tuple[str, ...] = ()
    weight_decay_scale: dict[str, float] = field(default_factory=dict)
    ema: float = 0.0
    warmup: str = "5 percent"
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: float = 1.0
    trainable: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how much at a time, and what is kept.

    Attributes:
      duration: "N steps", "N epochs" or "N examples".
      batch_size: examples per optimiser step, over all devices and hosts.
      accumulate: micro-batches per step; the batch is split into this many, and the result equals the full batch's.
      checkpoint_every, log_every, evaluate_every: durations; "never" for none but the last (not for log_every).
      keep_last: checkpoints kept besides the best.
      best_metric: of the validation rows, as "subset/condition/metric"; higher is better.
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

    duration: str = "1000 steps"
    batch_size: int = 32
    accumulate: int = 1
    log_every: str = "20 steps"
    checkpoint_every: str = "250 steps"
    evaluate_every: str = "never"
    keep_last: int = 2
    best_metric: str = "family=identify/right/accuracy"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    loss_chunk: int = 8
    on_bad_step: Literal["stop", "skip"] = "stop"
    spike_factor: float = 0.0
    max_skipped: int = 10
    data_wait_warning: float = 0.2
    stall_seconds: float = 300.0
    log_examples: bool = False
    wandb_project: str = ""
    compilation_cache: str = "workdir"


@dataclass(frozen=True)
class EvaluationConfig:
    """What is asked after training (test split), and during it (validation split, at most `during_examples`).

    Attributes:
      conditions: right, none, wrong region, and blank image (with the region shown); or controls: noise, shuffled,
        question_only, and corrupted:KIND:LEVEL (`data_pipelines/conditions.py`); detected asks ordinary questions a
        second time, with the box that the model itself finds of the structure they name (`detect {structure}`).
      structures: names that "detected" looks for in a question, e.g. ("liver", "left kidney"); empty takes the labels
        of the boxes among the questions asked.
      families: question families that are evaluated.
      max_examples: at most so many examples per family; 0 asks them all.
      bootstrap: resamples behind each 95 % interval, drawn by image because questions of one image are not independent.
      gallery: example images shown in the report.
    """

    conditions: tuple[str, ...] = ("right", "none", "wrong", "blank")
    structures: tuple[str, ...] = ()
    families: tuple[str, ...] = ("vqa", "identify", "localise", "verify", "choose")
    wrong_kinds: tuple[WrongKind, ...] = ("shifted", "scaled", "another", "mirrored", "random")
    batch_size: int = 64
    max_new_tokens: int = 24
    max_examples: int = 0
    during_examples: int = 200
    bootstrap: int = 1000
    gallery: int = 60


@dataclass(frozen=True)
class MeshConfig:
    """Devices by axis; one of data, fsdp and tensor may be -1 (the rest).

    Attributes:
      data: copies of the model within a slice.
      fsdp: also cuts each parameter, and gathers it where it is used.
      tensor: cuts heads, feed-forward and vocabulary; every example is computed by so many devices together.
      slices: TPU slices (or other groups with a slow network between them); each holds copies of the model, and only
        gradients travel between them. 0 counts them from the devices.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 0


@dataclass(frozen=True)
class Config:
    """One run. A file under `configs/` builds one, or a `Curriculum`, and names it `config`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0


@dataclass(frozen=True)
class Stage:
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
class Curriculum:
    """Runs one after the other, by name. See `config/curriculum.py`."""

    stages: dict[str, Stage]
