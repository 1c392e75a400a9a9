"""The settings of data and regions, as frozen dataclasses; those of a model and its training: `rllava_jax/config`.

A field declares beside its type what it may hold and what changing it has an effect on. Nothing is checked when a
section is made, so that a configuration file may complete it by `dataclasses.replace`: `rllava_jax/config/loading.py`
has pydantic check the whole, once, when the file and the command line have said all they have to say.
"""

import enum
import itertools
import math
import re
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from data_pipelines.core.paths import expanded
from data_pipelines.core.registry import nearest

Condition = Literal["right", "none", "wrong", "blank"]
WrongKind = Literal["shifted", "scaled", "another", "mirrored", "random"]
# `vqa` is a question or conversation of the data set, `caption` its caption; the other four are rebuilt from its boxes.
Family = Literal["vqa", "identify", "localise", "verify", "choose", "caption"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Task = Literal["answer", "detect", "caption"]
# What the numbers of boxes in files are, and which picture they were drawn on; "" is not said, and refused if unclear.
BoxUnit = Literal["", "pixels", "normalised"]
Orientation = Literal["", "stored", "applied"]

# Pillow's own bound, above which it takes a file for a decompression bomb.
MAX_IMAGE_PIXELS = 178_956_970

T = TypeVar("T")


LONGEST_TEXT = 8192  # tokens: the context of Gemma 1 and 2


class Effect(enum.Enum):
    """What a setting has an effect on, declared in its annotation; one without a mark has an effect on the parameters.

    NOTHING: how the same numbers are computed, fetched, kept or reported. Sharing sums among devices in another way
      moves float32 numbers by rounding. A resumed run may change it.
    EVALUATION: how a trained model is evaluated. A run that is evaluated again may change it.
    SCALE: size, duration and chance, in which the runs of one scaling law differ; also what decides which checkpoint
      is the best.
    """

    NOTHING = enum.auto()
    EVALUATION = enum.auto()
    SCALE = enum.auto()


class Settings:
    """A section. A stored or written value must have the very type of its field, and no other field is allowed."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def conflict(field: str, value: object, remedy: str) -> PydanticCustomError:
    """What a section's validator raises where `field` has a value that does not go with another field's."""
    return PydanticCustomError("config.conflict", "{remedy}", {"field": field, "value": value, "remedy": remedy})


def require(holds: Callable[[Any], bool], remedy: str) -> AfterValidator:
    """Marks a field whose values satisfy `holds`; `remedy` says in the error line what to write instead."""

    def check(value: T) -> T:
        if not holds(value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


def one_of(names: Collection[str]) -> AfterValidator:
    """Marks a field that holds one of these names; the error line names the nearest, or all of them."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(nearest(name, names))
        return name

    return AfterValidator(check)


Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Distinct = require(lambda values: len(set(values)) == len(values), "name each one once")
NotEmpty = require(bool, "name at least one")
FamilyName = Annotated[str, one_of(FAMILIES)]
TaskName = Annotated[str, one_of(get_args(Task))]
Weights = dict[FamilyName, NonNegativeFloat]
AnyWeight = require(lambda weights: sum(weights.values()) > 0, "give one of them a weight above 0")
NoneOrAnyWeight = require(lambda weights: not weights or sum(weights.values()) > 0, "give one of them a weight above 0")
Rising = require(
    lambda points: all(one < other for (one, _), (other, _) in itertools.pairwise(points)),
    "write its points in the order of the run, each later than the last",
)
Square = require(lambda number: math.isqrt(number) ** 2 == number, "write a square number, e.g. 9 or 16")
Local = require(
    lambda path: "://" not in path, "copy it to a local folder (gcloud storage cp -r), or mount its bucket (gcsfuse)"
)
FileOrFolder = Annotated[str, AfterValidator(expanded)]
PartName = Annotated[str, require(re.compile(r"[A-Za-z0-9_-]+").fullmatch, "use letters, digits, _ and - alone")]


@dataclass(frozen=True)
class PolicyConfig(Settings):
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

    shown: Share = 1 / 3
    shown_by_family: dict[FamilyName, Share] = field(default_factory=dict)
    wrong: Share = 0.1
    wrong_kinds: Annotated[tuple[WrongKind, ...], Distinct] = ("shifted", "scaled", "another", "mirrored", "random")
    question_regions: Literal["question", "answer", "none"] = "question"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.wrong and not self.wrong_kinds:
            raise conflict("wrong_kinds", self.wrong_kinds, "name at least one, or write wrong=0")
        return self


@dataclass(frozen=True)
class AugmentConfig(Settings):
    """Random changes of training images; all off at 0. No flips: left and right carry meaning in medicine.

    Attributes:
      crop: the random window's side is drawn from [1 - crop, 1] of the image's; a shown region is never cut away.
      box_jitter: standard deviation of the shift and log-scale of a shown box, as a share of its sides.
      brightness: additive, share of full scale.
      contrast: multiplicative, as log-scale.
    """

    crop: ShareBelowOne = 0.0
    box_jitter: NonNegativeFloat = 0.0
    brightness: NonNegativeFloat = 0.0
    contrast: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class PhantomConfig(Settings):
    """The embedded data set: procedurally drawn CT-like slices (`data_pipelines/sources/phantom.py`)."""

    train_images: PositiveInt = 600
    validate_images: PositiveInt = 60
    test_images: PositiveInt = 120
    image_size: PositiveInt = 160
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class MixPart(Settings):
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
      boxes, orientation: as `data.boxes` and `data.orientation`, of this part's files.
      policy: which regions its examples are shown; None is `data.policy`.
    """

    source: str = "phantom"
    root: Annotated[FileOrFolder, Local, Effect.NOTHING] = ""
    languages: Annotated[tuple[str, ...], Distinct, NotEmpty] = ("en",)
    split: str = "train"
    boxes: BoxUnit = ""
    orientation: Orientation = ""
    families: Annotated[Weights, NoneOrAnyWeight] = field(default_factory=dict)
    weight: NonNegativeFloat = 1.0
    anneal: Annotated[tuple[tuple[Share, NonNegativeFloat], ...], Rising] = ()
    epochs: NonNegativeFloat = 0.0
    policy: PolicyConfig | None = None

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Its weight over the run: pairs of progress and weight, as `anneal` has them."""
        return self.anneal or ((0.0, self.weight),)

    @property
    def drawn(self) -> bool:
        """Whether it has a weight above 0 at any time."""
        return any(weight > 0 for _, weight in self.points)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.anneal and self.weight != 1:
            raise conflict("weight", self.weight, "anneal takes its place; leave one of them out")
        return self


@dataclass(frozen=True)
class DocumentsConfig(Settings):
    """The drawn contract pages (`data_pipelines/sources/documents.py`); `page_width` is in pixels."""

    train_images: PositiveInt = 600
    validate_images: PositiveInt = 60
    test_images: PositiveInt = 120
    page_width: PositiveInt = 256
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class DataConfig(Settings):
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
      boxes: what the numbers of boxes in published files are: pixels, or normalised (shares of the image). "" is
        pixels, and refuses files whose boxes do not look like it (`data_pipelines/regions/given_boxes.py`).
      orientation: of photos that an EXIF tag turns: stored leaves the pixels as they lie in the file, applied turns
        every image as its tag says; boxes are read on that picture. "" refuses boxes on an image with a tag.
      text_length: T, tokens of prefix, suffix and eos together, of all turns of a conversation. A longer example is an
        error that names it, unless long_examples_allowed.
      workers: processes that decode; 0 decodes in threads of the training process.
      threads: decoding threads of each process.
      prefetch: batches held ready.
      max_image_pixels: a larger image is refused before it is decoded, since a small file may claim any size. Raise it
        for slides and film scans that you trust; a pixel takes 8 bytes of memory or so.
      image_cache_mb: decoded originals kept in memory by each process.
      long_examples_allowed: training examples too long for text_length that are left out, counted and listed before the
        run stops.
      corrupt_images_allowed: unreadable images that are skipped, counted and listed before the run stops.
    """

    source: str = "phantom"
    root: Annotated[FileOrFolder, Local, Effect.NOTHING] = ""
    languages: Annotated[tuple[str, ...], Distinct, NotEmpty] = ("en",)
    families: Annotated[Weights, AnyWeight] = field(
        default_factory=lambda: {"vqa": 0.4, "identify": 0.3, "localise": 0.1, "verify": 0.1, "choose": 0.1}
    )
    train_split: str = "train"
    validation_split: str = "validate"
    test_split: str = "test"
    mix: Annotated[dict[PartName, MixPart], Field(max_length=127)] = field(default_factory=dict)
    mix_temperature: NonNegativeFloat = 0.0
    allow_test_images_in_training: bool = False
    prompt: dict[TaskName, str] = field(
        default_factory=lambda: {
            "answer": "answer {language} {regions}{question}",
            "detect": "detect {question}",
            "caption": "caption {language}",
        }
    )
    tokenizer: Annotated[FileOrFolder, Local] = ""
    tokenizer_vocab: PositiveInt = 2000
    window: str = "auto"
    boxes: BoxUnit = ""
    orientation: Orientation = ""
    text_length: Annotated[PositiveInt, Field(le=LONGEST_TEXT)] = 40
    workers: Annotated[NonNegativeInt, Effect.NOTHING] = 0
    threads: Annotated[PositiveInt, Effect.NOTHING] = 2
    prefetch: Annotated[PositiveInt, Effect.NOTHING] = 2
    max_image_pixels: Annotated[PositiveInt, Effect.NOTHING] = MAX_IMAGE_PIXELS
    image_cache_mb: Annotated[NonNegativeInt, Effect.NOTHING] = 1024
    long_examples_allowed: NonNegativeInt = 0
    corrupt_images_allowed: NonNegativeInt = 0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mix_temperature and not self.mix:
            raise conflict("mix_temperature", self.mix_temperature, "it weighs the parts of mix, which is empty")
        if self.mix and not any(part.drawn for part in self.mix.values()):
            raise conflict("mix", sorted(self.mix), "give one of its parts a weight above 0")
        if missing := [task for task in get_args(Task) if task not in self.prompt]:
            raise conflict("prompt", sorted(self.prompt), f"write a template for {', '.join(missing)} too")
        for task, template in self.prompt.items():
            if remedy := _template_fault(task, template):
                raise conflict(f"prompt.{task}", template, remedy)
        return self


@dataclass(frozen=True)
class RegionConfig(Settings):
    """How a marked region reaches the model.

    Attributes:
      encoders: any combination of the names in `data_pipelines/regions/encoders/`:
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

    encoders: Annotated[tuple[str, ...], Distinct] = ("crop",)
    max_regions: PositiveInt = 1
    tokens: Annotated[PositiveInt, Square] = 16
    crop_size: PositiveInt = 112
    crop_context: Annotated[float, Field(ge=1)] = 1.5
    crop_min_pixels: PositiveInt = 48
    outlines: bool = False


# A layout may neither look anything up, as {question:{question.__class__}} would, nor pad without end.
_LAYOUT = re.compile(r"([^{}]?[<>^])?\d{0,3}(\.\d{1,3})?")


def _template_fault(task: str, template: str) -> str:
    """What to change in a prompt template; empty for a valid one."""
    try:
        fields = [found[1:] for found in string.Formatter().parse(template) if found[1] is not None]
    except ValueError as error:
        return f"it is not a template: {error}"
    names = {name for name, _, _ in fields}
    if not names <= {"language", "regions", "question"}:
        return "the placeholders are {language}, {regions} and {question}"
    if any(conversion or not _LAYOUT.fullmatch(layout or "") for _, layout, conversion in fields):
        return "write the placeholders bare, or with a width of at most 999, as in {question:.200}"
    if task != "caption" and "question" not in names:
        return "it must contain {question}"
    return "leave the newline out: it is added after the prompt" if "\n" in template else ""
