"""A picture of a data set: some of its images with their boxes and labels, and one question under each."""

import contextlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.core.errors import ImageError
from data_pipelines.images.reading import decode
from data_pipelines.inspection.reading import DataSet
from data_pipelines.records import AnnotatedImage, Region, VQAExample
from data_pipelines.regions.boxes import area, box_to_pixels

_COLUMNS = 6
_SIDE = 300  # of a tile's picture, pixels
_GAP = 18
_MARGIN = 28
_TEXT = 98  # below a picture
_HEADER = 64
_LINE = 2  # of a box, with a black one around it
_LEGEND = 2  # lines of labels

_Colour = tuple[int, int, int]
_BACKGROUND, _TILE, _BRIGHT, _DIM = (24, 26, 30), (0, 0, 0), (236, 238, 242), (158, 164, 174)
# Okabe and Ito's colours, told apart by colour-blind readers too, lightened for a dark ground.
_PALETTE: tuple[_Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 190, 140), (240, 228, 66), (70, 140, 240), (235, 110, 40)),
    *((214, 131, 177), (190, 190, 190)),
)


def contact_sheet(data_set: DataSet, *, count: int, seed: int = 0) -> Image.Image:
    """At most `count` images, as various in modality and body part as there are, those with boxes first.

    Unreadable images are passed over. The same arguments draw the same picture.
    """
    tiles: list[Image.Image] = []
    for image, question in _chosen(data_set, seed):
        if len(tiles) == count:
            break
        with contextlib.suppress(ImageError):  # named where all images are read
            tiles.append(_tile(image, question, decode(image.image, image.image_id)))
    columns = min(_COLUMNS, max(1, len(tiles)))
    rows = -(-len(tiles) // columns)
    width = max(2 * _MARGIN + columns * (_SIDE + _GAP) - _GAP, 2 * _MARGIN + 2 * _SIDE)
    sheet = Image.new("RGB", (width, _HEADER + rows * (_SIDE + _TEXT + _GAP) + _MARGIN), _BACKGROUND)
    _header(sheet, data_set, len(tiles))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        sheet.paste(tile, (_MARGIN + column * (_SIDE + _GAP), _HEADER + row * (_SIDE + _TEXT + _GAP)))
    return sheet


def _chosen(data_set: DataSet, seed: int) -> Iterable[tuple[AnnotatedImage, VQAExample | None]]:
    """Images with a question, by turns of modality and body part; in each those with boxes first, else at random."""
    rng = random.Random(seed)
    groups: dict[tuple[str, str], list[AnnotatedImage]] = defaultdict(list)
    questions: dict[tuple[str, str], list[VQAExample]] = defaultdict(list)
    seen = set()
    for split, content in data_set.splits.items():
        for example in content.examples:
            questions[split, example.image_id].append(example)
        for image in content.images:
            if image.image_id not in seen:  # which may stand in several splits
                seen.add(image.image_id)
                groups[image.modality, image.body_part].append(image)
    for images in groups.values():
        rng.shuffle(images)
        images.sort(key=lambda image: not image.regions)
    for turn in itertools.zip_longest(*(groups[key] for key in sorted(groups))):
        for image in filter(None, turn):
            printable = [e for e in questions[image.split, image.image_id] if _printable(e)]
            yield image, rng.choice(printable) if printable else None


def _printable(example: VQAExample) -> bool:
    """Whether the font has its letters, which are Latin, Greek and Cyrillic."""
    return all(ord(letter) < 0x500 for letter in example.question + example.answer)


def _header(sheet: Image.Image, data_set: DataSet, count: int) -> None:
    draw = ImageDraw.Draw(sheet)
    title = _font(24, bold=True)
    draw.text((_MARGIN, 18), data_set.name, _BRIGHT, title)
    sizes = ", ".join(f"{split} {len(content.images):,}" for split, content in data_set.splits.items())
    left = _MARGIN + draw.textlength(data_set.name, title) + 18
    text = f"{count} of its images ({sizes})"
    draw.text((left, 25), _cut(draw, text, _font(16), sheet.width - left - _MARGIN), _DIM, _font(16))


def _tile(image: AnnotatedImage, question: VQAExample | None, pixels: np.ndarray) -> Image.Image:
    labels = Counter(region.label for region in image.regions if region.label)
    colours = {label: _PALETTE[place % len(_PALETTE)] for place, label in enumerate(sorted(labels))}
    tile = Image.new("RGB", (_SIDE, _SIDE + _TEXT), _BACKGROUND)
    tile.paste(_picture(pixels, image.regions, colours), (0, 0))
    draw = ImageDraw.Draw(tile)
    facts = " · ".join(text for text in (image.image_id, image.modality, image.body_part, image.split) if text)
    draw.text((0, _SIDE + 5), _cut(draw, facts, _font(13), _SIDE), _DIM, _font(13))
    below = _legend(draw, _SIDE + 23, labels, colours)
    for line, text in enumerate((question.question, f"→ {question.answer}") if question else ()):
        draw.text((0, below + 18 * line), _cut(draw, text, _font(13), _SIDE), _BRIGHT, _font(13))
    return tile


def _picture(pixels: np.ndarray, regions: Sequence[Region], colours: Mapping[str, _Colour]) -> Image.Image:
    """The image at its own aspect, in the middle of a black square, with its boxes."""
    height, width = pixels.shape[:2]
    size = [max(1, round(side * _SIDE / max(height, width))) for side in (width, height)]
    fitted = Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS)
    left, top = (_SIDE - fitted.width) // 2, (_SIDE - fitted.height) // 2
    square = Image.new("RGB", (_SIDE, _SIDE), _TILE)
    square.paste(fitted, (left, top))
    draw = ImageDraw.Draw(square)
    # The largest first, so that a small one is not hidden.
    for region in sorted(regions, key=lambda region: -area(region.box)):
        x, y, w, h = box_to_pixels(region.box, width=fitted.width, height=fitted.height)
        x0, y0 = round(left + x), round(top + y)
        x1, y1 = max(x0, round(left + x + w) - 1), max(y0, round(top + y + h) - 1)
        draw.rectangle((x0 - _LINE, y0 - _LINE, x1 + _LINE, y1 + _LINE), outline=_TILE)
        colour = colours.get(region.label, _BRIGHT)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=colour, width=_LINE)
    return square


def _legend(draw: ImageDraw.ImageDraw, top: int, labels: Mapping[str, int], colours: Mapping[str, _Colour]) -> int:
    """Writes the labels in the colours of their boxes, beside the pictures and not on them. Returns where it ends."""
    font = _font(12, bold=True)
    x, line = 0.0, 0
    for place, label in enumerate(sorted(labels)):
        text = label if labels[label] == 1 else f"{label} ×{labels[label]}"
        rest = f"+ {len(labels) - place}"
        width = draw.textlength(text, font)
        room = _SIDE - (draw.textlength(rest, font) + 10 if line == _LEGEND - 1 and place < len(labels) - 1 else 0)
        if x and x + width > room:
            if line == _LEGEND - 1:
                draw.text((x, top + 17 * line), rest, _DIM, font)
                break
            x, line = 0.0, line + 1
        draw.text((x, top + 17 * line), _cut(draw, text, font, _SIDE), colours[label], font)
        x += width + 10
    return top + (17 * (line + 1) if labels else 0)


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, its end replaced by … where it is wider than that."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text.rstrip() + "…"


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
