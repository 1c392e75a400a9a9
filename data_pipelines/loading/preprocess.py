"""One example becomes the arrays that the model reads: pixels, regions, tokens. All shapes are static.

Letters: S image side, T text length, R region slots.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from data_pipelines.core.errors import DataError, InvalidRegion
from data_pipelines.images import pixels
from data_pipelines.images.corruptions import MID_GREY
from data_pipelines.images.reading import ImageCache
from data_pipelines.loading.controls import changed_picture, picture_kind
from data_pipelines.records import Box, MaskFile, Region, Task, VQAExample
from data_pipelines.regions import boxes
from data_pipelines.regions.encoders.protocol import MarkedImage, MarkedRegion, RegionEncoder, region_encoders
from data_pipelines.regions.policy import Shown, choose_regions
from data_pipelines.settings import DataConfig, PolicyConfig, RegionConfig
from data_pipelines.text.prompt import count_tokens, encode_conversation, format_prefix
from data_pipelines.text.tokenizer import Tokenizer

Arrays = dict[str, np.ndarray]

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_SAME_TONE = np.arange(256, dtype=np.uint8)
# Every grey level becomes mid-grey: the control of a model that may not read its image.
_BLANK = np.full(256, MID_GREY, np.uint8)


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Examples to arrays, for training and for evaluation alike. Pickles without its cache of decoded images.

    The arrays of one example:
      image           uint8[S, S, 3]
      text, mask_ar, mask_loss, mask_input   int32[T]; see `prompt.Tokens`
      regions         float32[R, 4], boxes normalised to `image`; zeros in empty slots
      region_valid    bool[R]
      region_…        [R, …], what the region encoders want (`regions/encoders/`); zeros in empty slots

    Attributes:
      image_size: S, pixels.
      patch_size: of the vision encoder, pixels.
    """

    image_size: int
    patch_size: int
    regions: RegionConfig
    data: DataConfig
    tokenizer: Tokenizer
    cache: ImageCache = field(init=False, repr=False)
    encoders: tuple[RegionEncoder, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoders", region_encoders(self.regions))
        object.__setattr__(
            self, "cache", ImageCache(self.data.image_cache_mb, self.data.window, self.data.max_image_pixels)
        )

    def training(self, example: VQAExample, rng: np.random.Generator, *, policy: PolicyConfig | None = None) -> Arrays:
        """Arrays to learn from: regions drawn by the policy, the image augmented, prompt and answer.

        A `detect` example keeps the whole image, because its answer is a place in it.

        Args:
          policy: of the example's part of a mix; None is `data.policy`.

        Raises:
          DataError: a text too long, more regions than slots, a mask that does not fit.
          ImageError: an unreadable image.
        """
        augment = self.data.augment
        original = self.cache.image(example.image, example.id)
        shown = choose_regions(example, policy or self.data.policy, rng).regions
        drawn = [_jittered(region.box, augment.box_jitter, rng) for region in shown]
        marked = [self._marked(region, original, example, box) for region, box in zip(shown, drawn, strict=True)]
        whole = augment.crop == 0 or example.task == "detect"
        view = _WHOLE if whole else _random_view([m.box for m in marked], augment.crop, rng)
        tone = _random_tone(augment.brightness, augment.contrast, rng)
        height, width = original.shape[:2]
        window = (view[0] * height, view[1] * width, view[2] * height, view[3] * width)
        image = self._resized(example) if view == _WHOLE else pixels.resample(original, window, self.image_size)
        return self._arrays(example, image, MarkedImage(original, marked, tone, view), answered=True, rng=rng)

    def evaluation(
        self, example: VQAExample, shown: Shown, *, condition: str = "right", answered: bool = False
    ) -> Arrays:
        """Arrays to answer from: the prompt alone, the whole image, nothing random.

        Of a conversation the earlier turns, with their answers, are part of the prompt.

        Args:
          shown: the regions to show, whatever the example's own.
          condition: what becomes of the picture, see `conditions.py`: image and crops are mid-grey (127) everywhere
            under "blank", noise under "noise", worse under "corrupted:…". The regions are those of `shown` all the
            same, and the image is the example's own ("shuffled" comes with another from `ShuffledImages`).

          answered: with the example's answer after the prompt, to be read in one pass.

        Raises:
          DataError, ImageError: as `training`; DataError too for an unknown condition.
        """
        tone = _BLANK if picture_kind(condition) == "blank" else _SAME_TONE
        own = self.cache.image(example.image, example.id)
        changed = changed_picture(own, condition, example.id)
        original = own if changed is None else changed
        image = self._resized(example) if changed is None else pixels.resize(changed, self.image_size)
        marked = [self._marked(region, original, example, region.box) for region in shown.regions]
        return self._arrays(example, image, MarkedImage(original, marked, tone, _WHOLE), answered=answered, rng=None)

    def _resized(self, example: VQAExample) -> UInt8[np.ndarray, "S S 3"]:
        return self.cache.resized(example.image, example.id, self.image_size)

    def prompt_tokens(self, example: VQAExample, shown: Shown) -> int:
        """Tokens of the text that `evaluation` writes, before padding. Raises DataError."""
        turns = self.turns(example, [region.box for region in shown.regions])
        return count_tokens(self.tokenizer, turns, answered=False)

    def turns(self, example: VQAExample, shown_boxes: Sequence[Box]) -> list[tuple[str, str]]:
        """Prefix and answer of each turn; most examples have one. Raises DataError.

        Where an encoder writes boxes, they stand as loc tokens in the first prefix, which every turn sees.
        """
        asked: list[tuple[str, str, Task]] = [(turn.question, turn.answer, "answer") for turn in example.turns]
        asked.append((example.question, example.answer, example.task))
        boxes_in_prompt = shown_boxes if any(encoder.writes_boxes for encoder in self.encoders) else ()
        turns: list[tuple[str, str]] = []
        for question, answer, task in asked:
            fields = {"question": question, "language": example.language, "where": example.id}
            prefix = format_prefix(self.data.prompt, task, boxes_in_prompt=() if turns else boxes_in_prompt, **fields)
            turns.append((prefix, answer))
        return turns

    def _arrays(
        self,
        example: VQAExample,
        image: UInt8[np.ndarray, "S S 3"],
        picture: MarkedImage,
        *,
        answered: bool,
        rng: np.random.Generator | None,
    ) -> Arrays:
        slots, marked = self.regions.max_regions, picture.regions
        if (count := len(marked)) > slots:
            raise DataError(
                f"{example.id}: {count} regions, but the model has regions.max_regions = {slots}; show fewer, or train "
                f"with {count}",
                code="data.too-many-regions",
            )
        image = picture.tone[image]
        for encoder in self.encoders:
            image = encoder.draw(image, picture, rng)
        seen = [boxes.within_view(m.box, picture.view) for m in marked]
        turns, length = self.turns(example, seen), self.data.text_length
        tokens = encode_conversation(self.tokenizer, turns, length, example.id, answered=answered)
        region_boxes = np.zeros((slots, 4), np.float32)
        region_boxes[: len(seen)] = np.reshape(seen, (-1, 4))
        arrays = {
            "image": image,
            **tokens._asdict(),
            "regions": region_boxes,
            "region_valid": np.arange(slots) < len(marked),
        }
        for encoder in self.encoders:
            specs = encoder.specs(self.regions, self.patch_size)
            arrays |= {name: np.zeros((slots, *spec.shape), spec.dtype) for name, spec in specs.items()}
            for slot, m in enumerate(marked):
                for name, array in encoder.arrays(picture, m, self.regions, self.patch_size).items():
                    arrays[name][slot] = array
        return arrays

    def _marked(
        self, region: Region, original: UInt8[np.ndarray, "H W 3"], example: VQAExample, box: Box
    ) -> MarkedRegion:
        height, width = original.shape[:2]
        outline = region.mask or region.polygon
        if not self.regions.outlines or outline is None:
            return MarkedRegion(box, None, region.box)
        if isinstance(outline, MaskFile):
            inside, source = self.cache.mask(outline, example.id), str(outline)
        else:
            inside, source = _fill(outline, height, width), f"{example.id}: polygon"
        if inside.shape != (height, width):
            raise InvalidRegion(
                f"{source}: mask of {inside.shape[1]} x {inside.shape[0]} pixels for an image of {width} x {height} "
                f"({example.id}); give a mask of the image's size"
            )
        if not pixels.cell_coverage(inside, (0.0, 0.0, float(height), float(width)), 1, box=region.box).any():
            raise InvalidRegion(
                f"{source}: nothing is marked inside the box of {region.label!r} ({example.id}); correct one of them"
            )
        return MarkedRegion(box, inside, region.box)


def _jittered(box: Box, deviation: float, rng: np.random.Generator) -> Box:
    """The box as an imprecise hand would draw it: moved and scaled, at most two deviations of either."""
    if deviation == 0:
        return box
    draws = np.clip(rng.normal(size=4), -2, 2) * deviation
    low, high = np.array(box[:2]), np.array(box[2:])
    middle = (low + high) / 2 + draws[:2] * (high - low)
    half = (high - low) / 2 * np.exp(draws[2:])
    moved = boxes.clip((*(middle - half), *(middle + half)))
    return moved if boxes.area(moved) > 0 else box


def _random_view(shown: Sequence[Box], crop: float, rng: np.random.Generator) -> Box:
    """A window of the image of its own aspect, normalised, that holds every shown box."""
    side = rng.uniform(1 - crop, 1)
    low = np.min([box[:2] for box in shown], axis=0) if shown else np.ones(2)
    high = np.max([box[2:] for box in shown], axis=0) if shown else np.zeros(2)
    extent = np.maximum(side, high - low)
    least, most = np.maximum(0, high - extent), np.minimum(low, 1 - extent)
    start = least + rng.random(2) * np.maximum(0, most - least)
    return boxes.clip((*start, *(start + extent)))


def _random_tone(brightness: float, contrast: float, rng: np.random.Generator) -> UInt8[np.ndarray, " 256"]:
    """A table of grey levels, one for image and crops, so that a crop keeps the tone of its image."""
    if brightness == 0 and contrast == 0:
        return _SAME_TONE
    gain = math.exp(rng.uniform(-contrast, contrast))
    offset = 255 * rng.uniform(-brightness, brightness)
    return np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)


def _fill(polygon: Sequence[tuple[float, float]], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    layer = Image.new("1", (width, height))
    # Pillow fills the pixel that holds each vertex; vertices are given by pixel edges.
    ImageDraw.Draw(layer).polygon([(x * width - 0.5, y * height - 0.5) for y, x in polygon], fill=1)
    return np.asarray(layer)
