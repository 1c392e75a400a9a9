"""The settings of data and regions, as frozen dataclasses; those of a model and its training: `rllava_jax/config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Condition = Literal["right", "none", "wrong", "blank"]
RegionEncoder = Literal["crop", "align", "overlay", "loc"]
WrongKind = Literal["shifted", "scaled", "another", "mirrored", "random"]


@dataclass(frozen=True)
class PolicyConfig:
    """Which regions a training example is shown. See `data_pipelines/regions/policy.py`.

    Attributes:
      shown: probability that an example which has a region is shown one (R-LLaVA: one third).
      shown_by_family: replaces `shown` for the named question families, e.g. {"identify": 0.9}.
      wrong: share of the shown ones that are wrong on purpose, label unchanged.
      wrong_kinds: drawn from uniformly; a kind that an example cannot have (nothing to mirror) falls to the next.
      question_regions: which box belongs to an ordinary question. "question": the one whose label the question names.
        "answer": also the one whose label the answer names. That leaks the answer; it exists to measure the leak.
        "none": ordinary questions have no region.
    """

    shown: float = 1 / 3
    shown_by_family: dict[str, float] = field(default_factory=dict)
    wrong: float = 0.1
    wrong_kinds: tuple[WrongKind, ...] = ("shifted", "scaled", "another", "mirrored", "random")
    question_regions: Literal["question", "answer", "none"] = "question"


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images; all off at 0. No flips: left and right carry meaning in medicine.

    Attributes:
      crop: the random window's side is drawn from [1 - crop, 1] of the image's; a shown region is never cut away.
      box_jitter: standard deviation of the shift and log-scale of a shown box, as a share of its sides.
      brightness: additive, share of full scale.
      contrast: multiplicative, as log-scale.
    """

    crop: float = 0.0
    box_jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0


@dataclass(frozen=True)
class PhantomConfig:
    """The embedded data set: procedurally drawn CT-like slices (`data_pipelines/sources/phantom.py`)."""

    train_images: int = 600
    validate_images: int = 60
    test_images: int = 120
    image_size: int = 160
    seed: int = 0


@dataclass(frozen=True)
class MixPart:
    """One source of a training mix. See `data_pipelines/loading/mixture.py`.

    Attributes:
      source, root, languages, split: as `data.source`, `data.root`, `data.languages`, `data.train_split`. A part of the
        same source as `data.source` needs no root of its own.
      families: mixing weights of its question families, within the part. Empty goes through all its examples, of
        whatever family, once in each of its epochs.
      weight: of this part among the others; 0 leaves it out.
      anneal: weight over the run, piecewise linear, in place of `weight`: points (share of the run, weight), constant
        before the first and after the last. ((0.8, 0), (1, 0.5)) splices the part into the last fifth.
      epochs: how often its examples are gone through before it ends and the others share its weight; 0 never ends it.
      policy: which regions its examples are shown; None is `data.policy`.
    """

    source: str = "phantom"
    root: str = ""
    languages: tuple[str, ...] = ("en",)
    split: str = "train"
    families: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    anneal: tuple[tuple[float, float], ...] = ()
    epochs: float = 0.0
    policy: PolicyConfig | None = None


@dataclass(frozen=True)
class DocumentsConfig:
    """The drawn contract pages (`data_pipelines/sources/documents.py`); `page_width` is in pixels."""

    train_images: int = 600
    validate_images: int = 60
    test_images: int = 120
    page_width: int = 256
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they become batches.

    Attributes:
      source: prepared, or the name of a data set (`python -m data_pipelines.prepare --list`) to read as published.
      root: what `python -m data_pipelines.prepare` wrote (prepared), or the folder of the published files; phantom and
        documents are drawn and need none.
      languages: of the questions, where a data set asks in several: SLAKE in "en" and "zh".
      families: mixing weights of the question families in training; a family of weight 0 is left out.
      train_split, validation_split, test_split: names of the source's splits.
      mix: name → source, where a run is trained on several; source, root, families and train_split then say nothing of
        training, but the validation and test questions are still this source's.
      mix_temperature: multiplies each part's weight by its number of examples to the power of 1 / temperature: at 1
        every example counts alike, the higher it is the more every source does. 0 takes the weights alone.
      allow_test_images_in_training: train although test images occur in the training split.
      prompt: task → prefix template; the newline and the special tokens are added by the tokeniser stage.
      tokenizer: a SentencePiece file or a tokenizer.json (PaliGemma's own, say); "" takes init.checkpoint's, or without
        one trains a small one on the training text.
      tokenizer_vocab: pieces of the trained one, beside the 1024 loc and 128 seg tokens.
      window: what of a DICOM or NIfTI file becomes black to white (`images/windows.py`): auto is the file's own window,
        else its least to greatest value; minmax; percentile; a CT preset such as lung; or CENTRE:WIDTH.
      text_length: T, tokens of prefix, suffix and eos together, of all turns of a conversation. A longer example is an
        error that names it, unless long_examples_allowed.
      workers: processes that decode; 0 decodes in threads of the training process.
      threads: decoding threads of each process.
      prefetch: batches held ready.
      image_cache_mb: decoded originals kept in memory by each process.
      long_examples_allowed: training examples too long for text_length that are left out, counted and listed before the
        run stops.
      corrupt_images_allowed: unreadable images that are skipped, counted and listed before the run stops.
    """

    source: str = "phantom"
    root: str = ""
    languages: tuple[str, ...] = ("en",)
    families: dict[str, float] = field(
        default_factory=lambda: {"vqa": 0.4, "identify": 0.3, "localise": 0.1, "verify": 0.1, "choose": 0.1}
    )
    train_split: str = "train"
    validation_split: str = "validate"
    test_split: str = "test"
    mix: dict[str, MixPart] = field(default_factory=dict)
    mix_temperature: float = 0.0
    allow_test_images_in_training: bool = False
    prompt: dict[str, str] = field(
        default_factory=lambda: {
            "answer": "answer {language} {regions}{question}",
            "detect": "detect {question}",
            "caption": "caption {language}",
        }
    )
    tokenizer: str = ""
    tokenizer_vocab: int = 2000
    window: str = "auto"
    text_length: int = 40
    workers: int = 0
    threads: int = 2
    prefetch: int = 2
    image_cache_mb: int = 1024
    long_examples_allowed: int = 0
    corrupt_images_allowed: int = 0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)


@dataclass(frozen=True)
class RegionConfig:
    """How a marked region reaches the model.

    Attributes:
      encoders: any combination of
        crop (the region's original pixels through the same SigLIP), align (RoIAlign over the image's features),
        overlay (the outline drawn into the pixels), loc (four loc tokens in the prefix).
      max_regions: R, slots per image. More regions than slots is an error, never a silent cut.
      tokens: K, tokens per region and encoder; a square number.
      crop_size: side of the crop fed to SigLIP, in pixels; a multiple of the patch size.
      crop_context: side of the crop window over the longer side of the box; 3 is Describe Anything's choice.
      crop_min_pixels: the window is never smaller, in pixels of the original image.
      outlines: show the mask or polygon of a region that has one; off, every region is its box. Off by default because
        right regions often have an outline and wrong ones never do, so the outline itself would tell them apart.
    """

    encoders: tuple[RegionEncoder, ...] = ("crop",)
    max_regions: int = 1
    tokens: int = 16
    crop_size: int = 112
    crop_context: float = 1.5
    crop_min_pixels: int = 48
    outlines: bool = False
