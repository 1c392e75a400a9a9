"""Drawing of the documents: a contract page with clauses, a table, a signature, a stamp, and one part circled.

Every part may stand in any of eight places, and all boxes are drawn from one distribution of sizes: neither where a box
lies nor its shape tells what is in it. A clause has a pictogram, as in contracts written for people who are not
lawyers, so that a model too small to read can tell clauses apart. Text is set in Pillow's built-in face, so nothing
needs to be installed. Nobody is named on a page.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.records import Box

CLAUSES = {
    "Payment": "The buyer shall pay {amount} on receipt of the goods.",
    "Delivery": "Goods come in two weeks. Each late day costs {amount}.",
    "Warranty": "Faults are mended for one year, to a limit of {amount}.",
    "Liability": "Neither side owes the other more than {amount}.",
    "Deposit": "The tenant leaves {amount}, paid back at the end.",
    "Insurance": "Cover of no less than {amount} is kept up by both.",
    "Secrecy": "Whoever tells a third party owes {amount} at once.",
    "Notice": "Leaving early is allowed and costs {amount}.",
}
# What the pictogram of each clause is made of, on a square of 24: filled ellipses (x0, y0, x1, y1), and polygons.
_PICTOGRAMS: dict[str, tuple[tuple[float, ...], ...]] = {
    "Payment": ((1, 1, 23, 23),),
    "Delivery": (
        (0, 5, 15, 5, 15, 17, 0, 17),
        (16, 9, 21, 9, 24, 13, 24, 17, 16, 17),
        (2, 16, 8, 22),
        (16, 16, 22, 22),
    ),
    "Warranty": ((2, 3, 12, 0, 22, 3, 21, 14, 12, 24, 3, 14),),
    "Liability": ((11, 0, 13, 0, 13, 24, 11, 24), (0, 4, 24, 4, 24, 6, 0, 6), (0, 9, 9, 17), (15, 9, 24, 17)),
    "Deposit": ((0, 12, 12, 0, 24, 12), (4, 12, 20, 12, 20, 24, 4, 24)),
    "Insurance": ((0, 12, 4, 4, 12, 1, 20, 4, 24, 12), (11, 12, 13, 12, 13, 24, 11, 24)),
    "Secrecy": (
        (4, 1, 8, 1, 8, 12, 4, 12),
        (16, 1, 20, 1, 20, 12, 16, 12),
        (4, 1, 20, 1, 20, 4, 4, 4),
        (1, 11, 23, 11, 23, 24, 1, 24),
    ),
    "Notice": ((0, 4, 24, 4, 12, 14), (0, 7, 12, 17, 24, 7, 24, 21, 0, 21)),
}
AMOUNTS = ("$50", "$120", "$300", "$480", "$650", "$900", "$1,500", "$2,000", "$7,500")
STAMPS = ("PAID", "DRAFT", "COPY", "VOID")

# Height of the page over its width, and what the drawing is laid out on: pixels of a page 256 wide.
ASPECT = 1.25
_WIDTH, _HEIGHT = 256, 320
_LEFT, _COLUMN, _GAP = 10, 108, 16
_TOP, _ROW, _INSIDE = 34, 70, 60
_PLACES = 8
# Of signatures and stamps; the pen that circles is red.
_BLUE, _GREEN, _RED = (30, 50, 160), (20, 110, 60), (214, 40, 40)
Ink = tuple[int, int, int]


@lru_cache(maxsize=32)
def _face(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@dataclass(frozen=True)
class Page:
    """A drawn page and what is true of it.

    Attributes:
      boxes: of its parts, by label, from top to bottom: "Payment Clause", …, "Table", "Signature", "Stamp".
      amounts: of each clause, by the clause's label.
      circled: the label of the part that a pen has circled.
      stamp: what the stamp says, "" without one.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    boxes: dict[str, Box]
    amounts: dict[str, str]
    circled: str
    stamp: str


def draw_page(rng: np.random.Generator, width: int) -> Page:
    """One page of `width` pixels, `ASPECT` times as high; the generator decides everything."""
    drawing = _Drawing(rng, width)
    drawing.heading()
    places = [int(place) for place in rng.permutation(_PLACES)]
    names = [list(CLAUSES)[i] for i in rng.permutation(len(CLAUSES))[: rng.integers(3, 6)]]
    amounts = dict(zip(names, (AMOUNTS[i] for i in rng.permutation(len(AMOUNTS))), strict=False))
    for name, amount in amounts.items():
        drawing.clause(name, amount, places.pop())
    if rng.random() < 0.6:
        drawing.table(places.pop())
    if rng.random() < 0.5:
        drawing.signature(places.pop())
    stamp = STAMPS[rng.integers(len(STAMPS))] if rng.random() < 0.6 else ""
    if stamp:
        drawing.stamp(stamp, places.pop())
    circled = list(drawing.boxes)[rng.integers(len(drawing.boxes))]
    drawing.circle(circled)
    amounts = {f"{name} Clause": amount for name, amount in amounts.items()}
    return Page(drawing.finished(), drawing.normalised(), amounts, circled, stamp)


class _Drawing:
    """A canvas whose methods speak in pixels of a page 256 wide; `scale` makes them the page's own."""

    def __init__(self, rng: np.random.Generator, width: int):
        self.rng, self.scale = rng, width / _WIDTH
        paper = tuple(int(v) for v in rng.integers(232, 253) + rng.integers(-4, 3, 3))
        self.image = Image.new("RGB", (width, round(width * ASPECT)), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.boxes: dict[str, tuple[float, float, float, float]] = {}

    def text(self, x: float, y: float, text: str, size: float, *, bold: bool = False, ink: Ink = (35, 35, 40)) -> float:
        """Writes a line whose top left corner is (x, y); returns where it ends. Bold is the same, written twice."""
        at = round(x * self.scale), round(y * self.scale)
        self.draw.text(at, text, ink, _face(size * self.scale))
        if bold:
            self.draw.text((at[0] + max(1, round(0.6 * self.scale)), at[1]), text, ink, _face(size * self.scale))
        return x + self.length(text, size)

    def length(self, text: str, size: float) -> float:
        return _face(size * self.scale).getlength(text) / self.scale

    def scaled(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(float(x * self.scale), float(y * self.scale)) for x, y in points]

    def lines(self, points: Iterable[tuple[float, float]], ink: Ink, width: float) -> None:
        self.draw.line(self.scaled(points), ink, max(1, round(width * self.scale)), joint="curve")

    def heading(self) -> None:
        title = ("Agreement", "Contract", "Terms", "Order")[self.rng.integers(4)]
        self.text(_LEFT, 8, f"{title} No. {self.rng.integers(100, 1000)}", 15, bold=True)
        self.lines([(_LEFT, 28), (_WIDTH - _LEFT, 28)], (90, 90, 95), 1)

    def put(self, label: str, place: int) -> tuple[float, float]:
        """Gives a part its box in one of the eight places; returns the top left corner of what is drawn in it."""
        uniform = self.rng.uniform
        left = _LEFT + (place % 2) * (_COLUMN + _GAP) + uniform(-3, 3)
        top = _TOP + (place // 2) * _ROW + uniform(0, 5)
        right, bottom = left + _COLUMN + uniform(0, 3), top + _INSIDE + uniform(0, 2)
        self.boxes[label] = (left - uniform(1, 3), top - uniform(1, 2), right, bottom)
        return left, top

    def clause(self, name: str, amount: str, place: int) -> None:
        """A heading and its text, broken into lines; the amount stands in bold."""
        left, top = self.put(f"{name} Clause", place)
        self.pictogram(name, left, top)
        self.text(left + 27, top + 2, name, 15, bold=True)
        x, y = left, top + 26
        space = self.rng.uniform(2.0, 2.6)
        for word in CLAUSES[name].split():
            bold = word.startswith("{amount}")
            word = word.format(amount=amount)
            size = 10.5 if bold else 9.5
            length = self.length(word, size)
            if x + length > left + _COLUMN:
                x, y = left, y + 11
            self.text(x, y - (1 if bold else 0), word, size, bold=bold)
            x += length + space

    def pictogram(self, name: str, left: float, top: float) -> None:
        for shape in _PICTOGRAMS[name]:
            corners = self.scaled((left + x, top + y) for x, y in zip(shape[::2], shape[1::2], strict=True))
            draw = self.draw.ellipse if len(corners) == 2 else self.draw.polygon
            draw(corners, (35, 35, 40))

    def table(self, place: int) -> None:
        """Ruled, with a shaded first row and numbers in its cells."""
        left, top = self.put("Table", place)
        columns, rows = int(self.rng.integers(3, 5)), int(self.rng.integers(3, 5))
        width, height = _COLUMN - 4, rows * 14.0
        self.draw.rectangle(self.scaled([(left, top), (left + width, top + 14)]), (200, 204, 212))
        for row in range(rows + 1):
            self.lines([(left, top + row * 14), (left + width, top + row * 14)], (60, 60, 65), 1)
        for column in range(columns + 1):
            x = left + width * column / columns
            self.lines([(x, top), (x, top + height)], (60, 60, 65), 1)
        for row in range(rows):
            for column in range(columns):
                self.text(left + width * column / columns + 4, top + row * 14 + 2, str(self.rng.integers(1, 99)), 8.5)

    def signature(self, place: int) -> None:
        """A looping line of ink over a ruled one."""
        left, top = self.put("Signature", place)
        left, base = left + self.rng.uniform(4, 14), top + self.rng.uniform(36, 50)
        self.lines([(left, base), (left + 86, base)], (90, 90, 95), 1)
        t = np.linspace(0, 1, 90)
        turns, phase = self.rng.uniform(4, 7), self.rng.uniform(0, 6)
        x = left + 6 + 70 * t + 7 * np.sin(2 * math.pi * turns * t)
        y = base - 9 - 8 * np.sin(2 * math.pi * turns * t * 0.8 + phase) * (1 - 0.5 * t) - 4 * np.sin(5 * t)
        self.lines(zip(x, y, strict=True), _BLUE, 1.4)

    def stamp(self, says: str, place: int) -> None:
        """Two rings with a word across."""
        left, top = self.put("Stamp", place)
        x, y = left + self.rng.uniform(28, 80), top + self.rng.uniform(27, 33)
        ink = _BLUE if self.rng.random() < 0.5 else _GREEN
        for radius in (25, 21):
            ring = self.scaled([(x - radius, y - radius), (x + radius, y + radius)])
            self.draw.ellipse(ring, outline=ink, width=max(1, round(1.3 * self.scale)))
        self.text(x - self.length(says, 12) / 2, y - 7, says, 12, bold=True, ink=ink)

    def circle(self, label: str) -> None:
        """A pen's stroke once around a part, not quite closed; it belongs to no box."""
        x0, y0, x1, y1 = self.boxes[label]
        angle = np.linspace(0, 2 * math.pi * self.rng.uniform(0.97, 1.08), 80) + self.rng.uniform(0, 6)
        wobble = 1 + 0.03 * np.sin(2 * angle + self.rng.uniform(0, 6))
        # An ellipse through the corners would be 1.41 times the box; this one cuts them a little, as pens do.
        x = (x0 + x1) / 2 + (x1 - x0) / 2 * 1.1 * wobble * np.cos(angle)
        y = (y0 + y1) / 2 + (y1 - y0) / 2 * 1.2 * wobble * np.sin(angle)
        self.lines(zip(np.clip(x, 2, _WIDTH - 2), np.clip(y, 2, _HEIGHT - 2), strict=True), _RED, 2)

    def normalised(self) -> dict[str, Box]:
        """The parts' boxes, from top to bottom."""
        parts = self.boxes.items()
        inside = [(label, (y0 / _HEIGHT, x0 / _WIDTH, y1 / _HEIGHT, x1 / _WIDTH)) for label, (x0, y0, x1, y1) in parts]
        return dict(sorted(inside, key=lambda item: item[1]))

    def finished(self) -> UInt8[np.ndarray, "H W 3"]:
        """The page as a scanner saw it: a slow shade from one side to the other, and noise."""
        pixels = np.asarray(self.image, np.float32)
        height, width, _ = pixels.shape
        shade = np.linspace(1, self.rng.uniform(0.88, 1), width, dtype=np.float32)[None, :, None]
        noise = self.rng.standard_normal((height, width, 1), np.float32) * self.rng.uniform(2, 5)
        return np.clip(pixels * shade + noise, 0, 255).astype(np.uint8)
