"""Images, questions and marked regions to the model's inputs, exactly as in training; and the answers back to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

# Every file that is needed is imported here: from a folder, transformers 4 copies none that another one imports.
from .marking_rllava import Marked, box_to_loc_tokens, mark, region_arrays
from .overlay import draw_outlines
from .pixels import resize, sample_mask, to_rgb

IMAGE_TOKEN = "<image>"
_NEWLINE = "\n"
_TOKEN_ENCODERS = ("crop", "align")
_IGNORED = -100  # a label that is not learnt


class RllavaInputs(BatchFeature):
    """The processor's arrays. `to(dtype=…)` leaves the boxes in float32: a bfloat16 box is off by up to 1/512."""

    def to(self, *args: Any, **kwargs: Any) -> RllavaInputs:
        """As `BatchFeature.to`."""
        boxes = self.get("regions")
        super().to(*args, **kwargs)
        if boxes is not None:
            self["regions"] = boxes.to(self["regions"].device)
        return self


class RllavaProcessor(ProcessorMixin):
    """Prepares inputs for `RllavaPaliGemmaForConditionalGeneration`.

    It prepares pixels itself, with the code that training used (`pixels.py`), and no image processor.
    """

    # Read by transformers 4; transformers 5 goes by the arguments of __init__.
    attributes = ["tokenizer"]  # noqa: RUF012
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer: Any = None, chat_template: Any = None, rllava: dict[str, Any] | None = None):
        """Builds from a tokenizer and the settings; `AutoProcessor.from_pretrained` reads both from a folder.

        Args:
          rllava: see `RllavaConfig.rllava`.
        """
        if rllava is None:
            raise ValueError("processor_config.json: section 'rllava' is missing; load the exported model's folder")
        super().__init__(tokenizer, chat_template=chat_template)
        self.rllava = rllava
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.image_seq_length = (rllava["image_size"] // rllava["patch_size"]) ** 2

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        regions: Sequence[Any] | None = None,
        *,
        task: str = "answer",
        language: str = "en",
        template: bool = True,
        suffix: str | Sequence[str] | None = None,
        padding: bool = True,
        return_tensors: str | None = None,
    ) -> RllavaInputs:
        """Prepares one question about one image, or a batch.

        Args:
          images: a PIL image or an array ([H, W, 3] or [H, W]), or a list of them. Give the pixels as stored: no
            rotation by EXIF, no resizing, since boxes are in their pixels.
          text: the question, or one for each image.
          regions: of one image, a list of boxes (x, y, w, h) in pixels of the image, (x, y) being the top-left corner,
            and of masks, boolean arrays of the image's height and width. Of a list of images, a list of such lists
            (None for none).
          task: "answer" a question, or "detect" the thing that `text` names; chooses the template of the prompt.
          language: of the question; fills the template.
          template: put `text` into the model's own prompt template. False: `text` is a finished prefix.
          suffix: the expected answer, or one for each image, to train on: adds `labels`.
          padding: batches are always padded, on the left.
          return_tensors: "pt" for tensors; None gives NumPy arrays.

        Raises:
          ValueError: the inputs do not fit one another or the model; the message says which and what to do.
        """
        images, texts, regions, suffixes = _as_batch(images, text, regions, suffix)
        rows = []
        for number, (image, question) in enumerate(zip(images, texts, strict=True)):
            at = f"[{number}]" if len(images) > 1 else ""
            pixels = _pixels(image, f"images{at}")
            marked = self._marked(regions[number], pixels, f"regions{at}")
            prefix = self.prefix(question, marked, task=task, language=language, at=at) if template else question
            tokens = self._tokens(prefix, len(marked), None if suffixes is None else suffixes[number], f"text{at}")
            rows.append((pixels, marked, tokens))
        data = _padded([tokens for _, _, tokens in rows], self.tokenizer.pad_token_id, labels=suffixes is not None)
        data["pixel_values"] = _normalised(np.stack([self._model_image(pixels, marked) for pixels, marked, _ in rows]))
        if self._tokens_per_region and any(marked for _, marked, _ in rows):
            data |= _stacked([region_arrays(pixels, marked, self.rllava) for pixels, marked, _ in rows])
        return RllavaInputs(data, tensor_type=return_tensors)

    def prefix(
        self, question: str, marked: Sequence[Marked] = (), *, task: str = "answer", language: str = "en", at: str = ""
    ) -> str:
        """The prompt's text, from the template that the model was trained with.

        Raises:
          ValueError: an empty question, or no such task.
        """
        templates = self.rllava["prompt"]
        if not question.strip():
            raise ValueError(f"text{at}: question is empty; ask something, or give a whole prefix with template=False")
        if task not in templates:
            raise ValueError(f"task: {task!r} is none of the model's; use one of {', '.join(map(repr, templates))}")
        boxes = [region.box for region in marked] if "loc" in self.rllava["regions"]["encoders"] else []
        written = "".join(box_to_loc_tokens(box) for box in boxes)
        return templates[task].format(
            language=language, question=question.strip(), regions=written + " " if written else ""
        )

    def answers(self, generated: Any, inputs: Any) -> list[str]:
        """The answers in what `generate` returned: without the prompt, up to the end token.

        Args:
          generated: token ids [B, S + new].
          inputs: what `generate` was given.
        """
        prompt = inputs["input_ids"].shape[1]
        return [self._text([int(token) for token in row[prompt:]]) for row in generated]

    def _text(self, ids: list[int]) -> str:
        tokenizer = self.tokenizer
        if tokenizer.eos_token_id in ids:
            ids = ids[: ids.index(tokenizer.eos_token_id)]
        silent = {tokenizer.pad_token_id, tokenizer.bos_token_id, self.image_token_id}
        # Not `skip_special_tokens`: an answer may be a place, written in loc tokens.
        kept = [token for token in ids if token not in silent]
        return tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False).strip()

    @property
    def model_input_names(self) -> list[str]:
        """What the model may be given."""
        crop = ["region_pixels", "region_crop_coverage"]
        regions = ["regions", "region_valid", *crop, "region_align_coverage"]
        return ["input_ids", "attention_mask", "token_type_ids", "pixel_values", *regions]

    @property
    def _tokens_per_region(self) -> int:
        config = self.rllava["regions"]
        return config["tokens"] * sum(name in config["encoders"] for name in _TOKEN_ENCODERS)

    def _marked(self, regions: Sequence[Any] | None, pixels: np.ndarray, where: str) -> list[Marked]:
        config = self.rllava["regions"]
        if regions is None:
            return []
        first = np.asarray(regions[0]) if len(regions) else None
        if first is not None and (first.ndim == 0 or (first.ndim == 1 and first.dtype == bool)):
            raise ValueError(f"{where}: a single region; give a list of boxes and masks for an image")
        count, slots = len(regions), config["max_regions"]
        if count and not config["encoders"]:
            raise ValueError(f"{where}: this model was trained without a region encoder; leave the regions out")
        if count > slots:
            raise ValueError(f"{where}: {count} regions, but the model has regions.max_regions = {slots}; show fewer")
        height, width = pixels.shape[:2]
        return [
            mark(region, width=width, height=height, outlines=config["outlines"], where=f"{where}[{number}]")
            for number, region in enumerate(regions)
        ]

    def _model_image(self, original: np.ndarray, marked: Sequence[Marked]) -> np.ndarray:
        """The square image that the model sees, uint8 [S, S, 3]; the encoder `overlay` draws outlines into it."""
        size = self.rllava["image_size"]
        image = resize(original, size)
        if "overlay" not in self.rllava["regions"]["encoders"]:
            return image
        outlines = [
            box if inside is None else sample_mask(inside, size, view=(0.0, 0.0, 1.0, 1.0), limit=box)
            for box, inside in marked
        ]
        return draw_outlines(image, outlines)

    def _tokens(self, prefix: str, regions: int, suffix: str | None, where: str) -> tuple[list[int], list[int]]:
        """Prompt and answer. Prefix, newline and suffix are tokenised apart: together, they could merge otherwise."""
        tokenizer = self.tokenizer
        prefix_ids = tokenizer.encode(prefix, add_special_tokens=False)
        if self.image_token_id in prefix_ids:
            raise ValueError(f"{where}: holds {IMAGE_TOKEN!r}; leave it out, the processor writes the image's tokens")
        newline = tokenizer.encode(_NEWLINE, add_special_tokens=False)
        images = [self.image_token_id] * (self.image_seq_length + regions * self._tokens_per_region)
        answer = []
        if suffix is not None:
            answer = [*tokenizer.encode(suffix, add_special_tokens=False), tokenizer.eos_token_id]
        return [*images, tokenizer.bos_token_id, *prefix_ids, *newline], answer


def _as_batch(images: Any, text: Any, regions: Any, suffix: Any) -> tuple[list[Any], list[str], list[Any], Any]:
    """One example as a batch of one; and whether there are as many of everything."""
    if images is None or text is None:
        raise ValueError("images and text: give both, an image and a question about it")
    if not isinstance(images, (list, tuple)):
        for name, value in (("text", text), ("suffix", suffix)):
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name}: {len(value)} for one image; give a list of images, or a single string")
        images, text, regions = [images], [text], [regions]
        suffix = None if suffix is None else [suffix]
    for name, values in (("text", text), ("regions", regions), ("suffix", suffix)):
        if isinstance(values, str) or (values is not None and len(values) != len(images)):
            count = "a single string" if isinstance(values, str) else len(values)
            raise ValueError(f"{name}: {count} for a list of {len(images)} images; give one for each image")
    return list(images), list(text), list([None] * len(images) if regions is None else regions), suffix


def _pixels(image: Any, where: str) -> np.ndarray:
    """uint8 [H, W, 3]."""
    if isinstance(image, np.ndarray):
        grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16, np.int32, np.float32)
        if not grey and not (image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8):
            raise ValueError(
                f"{where}: array of {image.dtype} {list(image.shape)}; give uint8 [height, width, 3], a grey uint8, "
                "uint16, int32 or float32 [height, width], or a PIL image"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"{where}: {type(image).__name__}; give a PIL image or a NumPy array")
    return np.asarray(to_rgb(image))


def _padded(rows: Sequence[tuple[list[int], list[int]]], pad: int, *, labels: bool) -> dict[str, np.ndarray]:
    """Left-padded arrays of the rows' prompts and answers."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    data = {
        "input_ids": np.full((len(rows), length), pad, np.int64),
        "attention_mask": np.zeros((len(rows), length), np.int64),
        "token_type_ids": np.zeros((len(rows), length), np.int64),
    }
    for row, (prompt, answer) in enumerate(rows):
        used = len(prompt) + len(answer)
        data["input_ids"][row, length - used :] = prompt + answer
        data["attention_mask"][row, length - used :] = 1
        data["token_type_ids"][row, length - len(answer) :] = 1
    if labels:
        data["labels"] = np.where(data["token_type_ids"] == 1, data["input_ids"], _IGNORED)
    return data


def _normalised(pixels: np.ndarray) -> np.ndarray:
    """uint8 [..., Y, X, 3] to float32 [..., 3, Y, X] in −1…1."""
    return np.moveaxis(pixels.astype(np.float32) / np.float32(127.5) - 1, -1, -3)


def _stacked(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if "region_pixels" in stacked:
        stacked["region_pixels"] = _normalised(stacked["region_pixels"])
    return stacked
