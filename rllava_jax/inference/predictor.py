"""Answers about image files from a checkpoint alone, which holds configuration, tokenizer and preprocessing."""

import dataclasses
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import jax
import numpy as np
from PIL import Image

from data_pipelines.core.errors import DataError, InvalidOption, OptionConflict
from data_pipelines.core.paths import path_of
from data_pipelines.images.orientation import oriented
from data_pipelines.images.reading import image_file
from data_pipelines.images.windows import window_of
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import Box, BoxReading, ImageSource, Region, Task, VQAExample
from data_pipelines.regions.boxes import box_to_pixels, first_box
from data_pipelines.regions.given_boxes import GivenBoxes
from data_pipelines.regions.policy import Shown
from data_pipelines.settings import BoxUnit, Orientation
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config, MeshConfig
from rllava_jax.config.schema import MOST_NEW_TOKENS
from rllava_jax.inference.calibration import Calibration, calibration_of
from rllava_jax.inference.decode import GREEDY, Sampling
from rllava_jax.inference.generator import Generator
from rllava_jax.model.params import Params, abstract
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.model.sharding import make_mesh, sharded_shapes
from rllava_jax.runtime.compilation_cache import keep_compiled_of

logger = logging.getLogger(__name__)


class Predicted(NamedTuple):
    """An answer, and how sure the model is of it.

    Attributes:
      text: up to eos.
      confidence: calibrated where the checkpoint has a calibration that holds for this question, else raw_confidence.
      raw_confidence: probability of the whole answer, eos included.
      log_prob: its natural logarithm.
      finished: false where the answer was cut for length.
      is_calibrated: whether confidence is.
      detected: of `Predictor.ask`, each structure to detect, and its x, y, w, h in pixels, None without a box.
    """

    text: str
    confidence: float
    raw_confidence: float
    log_prob: float
    finished: bool
    is_calibrated: bool
    detected: tuple[tuple[str, tuple[float, ...] | None], ...] = ()

    def __str__(self) -> str:
        return f"{self.text} (confidence {self.confidence:.3f})"


@dataclasses.dataclass(eq=False)
class Predictor:
    """Answers one question at a time, with the very preprocessing of the training run.

    Attributes:
      preprocessor, generator, params: what `evaluation.evaluator.evaluate` answers many questions with.
      checkpoint: the checkpoints/STEP folder that was read.
      config: of the run.
      files: that travel inside the checkpoint.
    """

    preprocessor: Preprocessor
    generator: Generator
    params: Params
    checkpoint: Path
    config: Config
    files: Mapping[str, bytes]

    @classmethod
    def load(
        cls,
        path: Path | OpenedCheckpoint,
        *,
        step: str | None = None,
        new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        window: str | None = None,
        max_pixels: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> Self:
        """Reads a checkpoint.

        Args:
          path: see `manager.find_checkpoint`; or a checkpoint that is open already.
          step: last, best or a number; None takes what the path names.
          new_tokens: the longest answer; None is the run's own.
          window: of DICOM and NIfTI files, as `DataConfig.window`; None is the run's own.
          max_pixels: of an image, as `DataConfig.max_image_pixels`; None is the run's own.
          devices: that share each batch of `generator`, a copy of the model on each; None is one, enough for one
            question at a time.

        Raises:
          CheckpointError: there is none, or it cannot be read.
          ConfigError: more new tokens than a decoder has room for.
          DataError: no such window.
        """
        if new_tokens is not None and not 0 < new_tokens <= MOST_NEW_TOKENS:
            raise InvalidOption(f"new_tokens: {new_tokens} is invalid; write a number from 1 to {MOST_NEW_TOKENS}")
        opened = path if isinstance(path, OpenedCheckpoint) else OpenedCheckpoint.open(path, step)
        config, tokenizer, stored = opened.config, opened.tokenizer, opened.shapes
        keep_compiled_of(config, opened.workdir)
        if window is not None:
            window_of(window, "window")
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, window=window))
        if max_pixels is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, max_image_pixels=max_pixels))
        preprocessor = make_preprocessor(config, tokenizer)
        # Where it was trained there may have been a kernel that is not here; they compute the same.
        plain = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="xla"))
        graphdef, shapes = abstract(plain, vocab=tokenizer.vocab_size)
        # In the types in which they are stored: what training would freeze in bfloat16 may have come in float32.
        shapes = {
            name: jax.ShapeDtypeStruct(shape.shape, stored[name].dtype if name in stored else shape.dtype)
            for name, shape in shapes.items()
        }
        mesh = make_mesh(MeshConfig(), devices or jax.local_devices()[:1])
        with Checkpoints(opened.folder, read_only=True) as checkpoints:
            params = checkpoints.restore_params(opened.step, sharded_shapes(mesh, shapes))
        generator = Generator(
            graphdef, tokenizer, mesh, new_tokens=new_tokens or config.evaluation.max_new_tokens, sampling=sampling
        )
        return cls(preprocessor, generator, params, opened.where, config, opened.files)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What was fitted for this checkpoint, or None.

        Raises:
          CheckpointError: its file is damaged.
        """
        return calibration_of(self.files, checkpoint=self.checkpoint)

    def uncalibrated(self, task: Task = "answer") -> str:
        """Why the calibration says nothing of this predictor's answers, in words; "" where it holds."""
        calibration = self.calibration
        if calibration is None:
            return "the checkpoint has no calibration"
        if self.generator.sampling != GREEDY:
            return "it was measured on greedy answers"
        if self.generator.new_tokens != calibration.max_new_tokens:
            return f"it was measured on answers of at most {calibration.max_new_tokens} tokens"
        family = {"detect": "localise", "caption": "caption"}.get(task)
        if family is not None and family not in calibration.families:
            return f"it was measured on {', '.join(calibration.families)}, without {family}"
        return ""

    def ask(
        self,
        image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray,
        question: str = "",
        *,
        boxes: Iterable[Sequence[float]] = (),
        detect: Iterable[str] = (),
        task: Task = "answer",
        language: str = "en",
        seed: int = 0,
        box_unit: BoxUnit = "",
        orientation: Orientation = "",
    ) -> Predicted:
        """Answers a question about an image, looking at the boxes; printed, it reads "liver (confidence 0.826)".

        Args:
          image: a file, its content, a picture of Pillow's, or its pixels, uint8 [H, W] or [H, W, 3].
          boxes: x, y, w, h in pixels of the original image, or in shares of it. One that leaves it is cut to it.
          detect: structures that the model is asked to find first, whose boxes it is then shown beside `boxes`.
          task: "answer"; "detect" what the question names, or "caption", whose question is "".
          language, seed: of the question, of sampling.
          box_unit: what the boxes are, "pixels" or "normalised"; "" is pixels, unless they look normalised.
          orientation: of a photo with an EXIF orientation: "stored" shows the pixels as they lie in the file, "applied"
            as viewers do; boxes are of that picture. "" is stored, without boxes.

        Raises:
          ImageError: the image is missing or unreadable.
          DataError: a box that is not in the image, or may be meant in two ways; an empty or over-long question; or
            more regions than the model has slots.
          CheckpointError: the calibration is damaged.
        """
        source = oriented(_encoded(image), orientation)
        file = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        height, width, _ = self.preprocessor.cache.image(source, "image").shape
        where = f" on {file}" if file else ""
        regions, given = [], GivenBoxes(BoxReading(box_unit, orientation), file or "image")
        for box in boxes:
            given.shown(source, file or "image")
            said = f"box {','.join(str(number) for number in box)}"
            try:
                x, y, w, h = (float(number) for number in box)
            except ValueError:
                raise InvalidOption(f"{said}: is not x,y,w,h; give four numbers") from None
            if place := given.box((x, y, w, h), (width, height), f"{said}{where}"):
                regions.append(Region(place))
        given.judge(strict=True)
        if not orientation and oriented(source, "applied") != source:
            remedy = "--orientation applied turns it as viewers do"
            logger.warning("%s: has an EXIF orientation and is shown as stored; %s", file or "image", remedy)
        found = {name: self.detect(source, name, seed=seed) for name in detect}
        regions += [Region(box) for box in found.values() if box is not None]
        answer = self.answer(source, question, regions, task=task, language=language, seed=seed)
        pixels = {
            name: None if box is None else tuple(round(n, 1) for n in box_to_pixels(box, width=width, height=height))
            for name, box in found.items()
        }
        return answer._replace(detected=tuple(pixels.items()))

    def detect(self, image: ImageSource, structure: str, *, seed: int = 0) -> Box | None:
        """Where the model finds a structure, by its own task `detect`; None where its answer has no box.

        The name is asked in lower case, as in training. Raises as `answer`.
        """
        return first_box(self.answer(image, structure.lower(), task="detect", seed=seed).text)

    def answer(
        self,
        image: ImageSource,
        question: str,
        regions: Sequence[Region] = (),
        *,
        task: Task = "answer",
        language: str = "en",
        seed: int = 0,
    ) -> Predicted:
        """Answers a question about an image, looking at the marked regions; for task "caption" the question is "".

        Raises:
          ImageError: the image is missing or unreadable.
          DataError: an empty or over-long question, or more regions than the model has slots.
          CheckpointError: the calibration is damaged.
        """
        batch = self.inputs(image, question, regions, task=task, language=language)
        answer = self.generator.answer(self.params, batch, seed=seed)[0]
        raw = math.exp(min(answer.log_prob, 0.0))  # rounding may lift it above 1
        confidence, held = raw, not self.uncalibrated(task)
        if self.calibration is not None and held:
            confidence = float(self.calibration.confidence(np.array([answer.log_prob]))[0])
        return Predicted(answer.text, confidence, raw, answer.log_prob, answer.finished, held)

    def inputs(
        self,
        image: ImageSource,
        question: str,
        regions: Sequence[Region] = (),
        *,
        answer: str | None = None,
        task: Task = "answer",
        language: str = "en",
    ) -> dict[str, np.ndarray]:
        """The arrays of a question, a batch of one: what `answer` and `generator`'s methods for observers take.

        Args:
          answer: stands after the prompt, for `generator.teacher_forced`.

        Raises:
          ImageError, DataError: as `answer`.
        """
        if regions and not self.preprocessor.regions.encoders:
            raise OptionConflict("regions: this model was trained without a region encoder; leave the boxes out")
        example = VQAExample("question", "", "", image, "image", question, answer or "", task=task, language=language)
        shown = Shown(tuple(regions), "right" if regions else "none")
        arrays = self.preprocessor.evaluation(example, shown, answered=answer is not None)
        return {name: value[None] for name, value in arrays.items()}

    @property
    def patches(self) -> int:
        """Image tokens: the first so many keys of the decoder's attention; those of regions and of the text follow."""
        return (self.preprocessor.image_size // self.preprocessor.patch_size) ** 2

    @property
    def most_regions(self) -> int:
        """Regions that can be shown at once; 0 for a model without a region encoder."""
        regions = self.preprocessor.regions
        return regions.max_regions if regions.encoders else 0


def load(path: str | os.PathLike[str], *, step: str | None = None, window: str | None = None) -> Predictor:
    """A model that answers: of a run's workdir, an imported model, or a folder checkpoints/STEP; local or gs://.

    Args:
      step, window: as `Predictor.load`, whose errors it raises.
    """
    return Predictor.load(path_of(path), step=step, window=window)


def _encoded(image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> str | bytes:
    """A file's name, or an image's content as a file would have it."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise DataError(f"image: is an array of {image.dtype}; give uint8, or a file", code="image.unreadable")
        image = Image.fromarray(image)
    image.load()  # Pillow turns TIFF files here, and takes their tag away
    return image_file(image, exif=image.getexif())
