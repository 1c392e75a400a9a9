"""Draws one CT-like axial slice of the abdomen, as a radiologist sees it: the patient's right is the image's left.

No two slices share a shape: every organ is an ellipse whose outline wavers by a few random harmonics, displaced within
the body; later organs cover earlier ones. Grey values of different organs overlap, so that an organ is told by its
surroundings as much as by its brightness. Some organs are missing, one patient in ten has all but the kidneys' names on
the other side (situs inversus), and half of them have had a contrast agent.

The body fills a varying part of the image, lies anywhere in it, and on its back, its face or a side. Without that the
place of a box alone would name what is in it. Its size and shape still tell much, as they do in real scans: the control
with a blank image shows how much.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.records import Box
from data_pipelines.regions.boxes import box_from_mask

# Probability that a structure is in the slice (the findings are drawn given the organ they lie in); mean grey value
# without and with contrast agent, and its spread over patients. A lesion's grey follows the liver's.
_STRUCTURES: dict[str, tuple[float, tuple[int, int, int] | None]] = {
    "Liver": (0.9, (112, 124, 7)),
    "Spleen": (0.75, (110, 132, 8)),
    "Stomach": (0.75, (96, 98, 14)),
    "Left Kidney": (0.8, (104, 164, 10)),
    "Right Kidney": (0.8, (104, 164, 10)),
    "Pancreas": (0.5, (102, 112, 7)),
    "Gallbladder": (0.5, (82, 82, 6)),
    "Aorta": (0.9, (104, 186, 10)),
    "Spine": (1.0, (196, 200, 10)),
    "Liver Lesion": (0.45, None),
    "Kidney Cyst": (0.4, (76, 78, 6)),
}
LABELS = tuple(_STRUCTURES)
_FAT, _MUSCLE, _SKIN, _AIR, _BONE = 56.0, 98.0, 112.0, 6.0, 205.0
# What lies inside an organ does not cut a piece out of its box.
_INSIDE = {"Liver": ("Liver Lesion",), "Left Kidney": ("Kidney Cyst",), "Right Kidney": ("Kidney Cyst",)}
# On the back, on the left side, on the face, on the right side.
_LYING, _LYING_SHARES = (0.0, math.pi / 2, math.pi, -math.pi / 2), (0.3, 0.2, 0.3, 0.2)
_LEAST_PIXELS = 14
_SEEN_AT_ONCE = range(5, 10)
_Pair = tuple[float, float]  # x and y


@dataclass(frozen=True)
class Slice:
    """A drawn slice and what is true of it.

    Attributes:
      pixels: grey values.
      boxes: of the structures that can be seen, in the order of `LABELS`.
      areas: seen pixels of each.
      contrast: a contrast agent was given.
      enlarged: kidneys that are a third larger than usual.
      cyst_in: the kidney with the cyst, or "".
      lesion_bright: the liver lesion is brighter than the liver.
      stones: the gallbladder holds stones.
    """

    pixels: UInt8[np.ndarray, "S S"]
    boxes: dict[str, Box]
    areas: dict[str, int]
    contrast: bool
    enlarged: frozenset[str]
    cyst_in: str
    lesion_bright: bool
    stones: bool


def draw_slice(rng: np.random.Generator, size: int) -> Slice:
    """One slice of `size` x `size` pixels with five to nine structures; the generator decides everything."""
    while True:  # four in five drafts have five to nine structures in sight
        drawing = _Drawing(rng, size)
        drawing.draw_body()
        facts = drawing.draw_organs()
        boxes, areas = drawing.seen()
        if len(boxes) in _SEEN_AT_ONCE:
            facts["cyst_in"] = facts["cyst_in"] if "Kidney Cyst" in boxes else ""
            return Slice(drawing.finished(), boxes, areas, drawing.contrast, **facts)


class _Drawing:
    """A canvas in body coordinates: (0, 0) is the body's middle, x and y reach -1 to 1 at its outline.

    The body lies turned by `turned`, clockwise; 0 is on the back. The patient has the structures that `has` says, in
    the greys of `grey`.
    """

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.canvas = np.full((size, size), _AIR, np.float32)
        self.masks: dict[str, np.ndarray] = {}
        half = rng.uniform(0.26, 0.46)
        margin = half + 0.02  # whichever way the body is turned
        self.centre = (size * rng.uniform(margin, 1 - margin), size * rng.uniform(margin, 1 - margin))
        self.half = (size * half, size * half * rng.uniform(0.76, 0.88))
        self.contrast, self.mirrored = bool(rng.random() < 0.5), bool(rng.random() < 0.1)
        self.turned = rng.choice(_LYING, p=_LYING_SHARES) + rng.normal(0, 0.08)
        self.has: dict[str, bool] = {}
        self.grey: dict[str, float] = {}

    def at(self, x: float, y: float) -> _Pair:
        """Pixels from the body's middle, across and down, of a place in the body."""
        across, down = x * self.half[0], y * self.half[1]
        cos, sin = math.cos(self.turned), math.sin(self.turned)
        return cos * across - sin * down, sin * across + cos * down

    def above(self, x: float, y: float, distance: float) -> _Pair:
        """The place in the body that lies higher in the image by `distance`."""
        cos, sin = math.cos(self.turned), math.sin(self.turned)
        return x - sin * distance, y - cos * distance

    def blob(
        self, at: _Pair, radii: _Pair, grey: float, *, turn: float = 0.0, waver: float = 0.06, name: str = ""
    ) -> None:
        """Paints a wavering ellipse with a soft edge, and remembers its mask under `name`."""
        across, down = self.at(*at)
        turn += self.turned
        cx, cy = self.centre[0] + across, self.centre[1] + down
        rx, ry = radii[0] * self.half[0], radii[1] * self.half[1]
        reach = (1 + 5 * waver) * max(rx, ry) + 2
        top, bottom = max(0, int(cy - reach)), min(self.size, int(cy + reach) + 1)
        left, right = max(0, int(cx - reach)), min(self.size, int(cx + reach) + 1)
        # Python's own floats throughout: a NumPy one would turn these arrays into float64.
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] + (0.5 - cy)
        dx = np.arange(left, right, dtype=np.float32)[None, :] + (0.5 - cx)
        cos, sin = math.cos(turn), math.sin(turn)
        u, v = dx * (cos / rx) + dy * (sin / rx), dy * (cos / ry) - dx * (sin / ry)
        edge = 1 - np.sqrt(u * u + v * v)
        if waver:
            angle = np.arctan2(v, u)
            for harmonic in (2, 3, 5):
                strength = self.rng.normal(0, waver / math.sqrt(harmonic - 1))
                edge += strength * np.cos(harmonic * angle + self.rng.uniform(0, 2 * math.pi))
        cover = np.clip(edge * min(rx, ry) + 0.5, 0, 1)
        window = self.canvas[top:bottom, left:right]
        window += cover * (float(grey) - window)
        if name:
            mask = self.masks.setdefault(name, np.zeros((self.size, self.size), bool))
            mask[top:bottom, left:right] |= cover > 0.5

    def draw_body(self) -> None:
        """Table, skin, fat, the muscle wall with ribs, bowel loops as unmarked clutter, and the back's muscles."""
        uniform = self.rng.uniform
        self.table()
        fat = uniform(0.05, 0.16)
        self.blob((0, 0), (1, 1), _SKIN, waver=0)
        self.blob((0, 0), (0.97, 0.965), _FAT, waver=0)
        self.blob((0, 0), (0.97 - fat, 0.965 - fat), _MUSCLE, waver=0.008)
        self.blob((0, -0.03), (0.90 - fat, 0.86 - fat), _FAT + 6, waver=0.01)
        for angle in np.linspace(0.1 * np.pi, 0.9 * np.pi, 5) + uniform(-0.08, 0.08):
            for side in (-1, 1):
                at = side * np.sin(angle) * (0.93 - fat), -np.cos(angle) * (0.91 - fat)
                self.blob(at, (0.022, 0.055), _BONE - 25, turn=-side * (angle - np.pi / 2), waver=0)
        for _ in range(9):
            radius = uniform(0.07, 0.13)
            self.blob((uniform(-0.55, 0.55), uniform(-0.55, 0.2)), (radius, radius), uniform(78, 108))
        for side in (-1, 1):
            self.blob((side * 0.27, 0.68), (0.2, 0.13), _MUSCLE + 4)
            self.blob((side * 0.19, 0.46), (0.09, 0.12), _MUSCLE + 2)

    def table(self) -> None:
        """The couch, a shallow arc below the body; it does not turn with the patient."""
        rows = np.arange(self.size, dtype=np.float32)[:, None]
        columns = np.arange(self.size, dtype=np.float32)[None, :]
        reach = self.half[0] if abs(math.sin(self.turned)) > 0.7 else self.half[1]
        arc = self.centre[1] + reach + 2 + ((columns - self.centre[0]) / self.size) ** 2 * (-0.35 * self.size)
        self.canvas += np.clip(1.5 - np.abs(rows - arc), 0, 1) * 34

    def draw_organs(self) -> dict:
        """Paints the organs that this patient has, back to front; returns the facts of `Slice` that are not masks."""
        rng = self.rng
        self.has = {label: bool(rng.random() < share) for label, (share, _) in _STRUCTURES.items()}
        grey = {label: rng.normal(greys[self.contrast], greys[2]) for label, (_, greys) in _STRUCTURES.items() if greys}
        self.grey = grey | {"Liver Lesion": grey["Liver"] + (sign := rng.choice([-1, 1])) * rng.uniform(22, 34)}
        self.organ("Pancreas", (0.08, 0.02), (0.27, 0.085), turn=-0.25)
        self.organ("Liver", (-0.40, -0.14), (0.36, 0.46), turn=0.15)
        self.organ("Liver", (-0.08, -0.40), (0.30, 0.19), turn=-0.1)
        stomach = self.organ("Stomach", (0.36, -0.36), (0.27, 0.23), turn=0.3)
        if stomach and rng.random() < 0.7:  # a bubble of air, which rises to the front of a patient on the back
            self.blob(self.above(*stomach, 0.08), (0.15, 0.08), _AIR + 8, turn=-self.turned)
        self.organ("Spleen", (0.60, 0.10), (0.14, 0.32), turn=-0.2)
        enlarged, centres = self.kidneys()
        if self.has["Spine"]:
            self.spine()
        self.organ("Aorta", (0.08, 0.25), (0.06, 0.075), waver=0.02)
        stones = bool(rng.random() < 0.5)
        gallbladder = self.organ("Gallbladder", (-0.20, -0.02), (0.095, 0.125), waver=0.03)
        if gallbladder and stones:
            for step in (-0.035, 0.03):
                self.blob((gallbladder[0] + step, gallbladder[1] + 0.06), (0.03, 0.035), _BONE, waver=0)
        if self.has["Liver"] and self.has["Liver Lesion"]:
            radius = rng.uniform(0.07, 0.12)
            self.organ("Liver Lesion", (-0.44, -0.14), (radius, radius * 1.2), stray=0.12)
        cyst_in = ""
        if centres and self.has["Kidney Cyst"]:
            cyst_in = sorted(centres)[rng.integers(len(centres))]
            x, y = centres[cyst_in]
            at, radius = (x + 0.10 * np.sign(x), y - 0.08), rng.uniform(0.06, 0.09)
            self.blob(at, (radius, radius * 1.2), self.grey["Kidney Cyst"], waver=0.03, name="Kidney Cyst")
        return {"enlarged": enlarged, "cyst_in": cyst_in, "lesion_bright": bool(sign > 0), "stones": stones}

    def organ(
        self, name: str, at: _Pair, radii: _Pair, *, turn: float = 0.0, waver: float = 0.07, stray: float = 0.05
    ) -> _Pair | None:
        """An organ near its usual place and size, on the other side in situs inversus.

        Returns:
          Where it went; None of one that the patient does not have.
        """
        if not self.has[name]:
            return None
        side = -1 if self.mirrored else 1
        x, y = side * at[0] + self.rng.normal(0, stray), at[1] + self.rng.normal(0, stray)
        scale = np.exp(self.rng.normal(0, 0.08))
        turn = side * turn + self.rng.normal(0, 0.12)
        self.blob((x, y), (radii[0] * scale, radii[1] * scale), self.grey[name], turn=turn, waver=waver, name=name)
        return x, y

    def kidneys(self) -> tuple[frozenset[str], dict[str, _Pair]]:
        """Each with its darker sinus toward the spine; returns the enlarged ones and where they lie."""
        centres, enlarged = {}, set()
        for label, side in (("Right Kidney", -1), ("Left Kidney", 1)):
            if not self.has[label]:
                continue
            large = bool(self.rng.random() < 0.4)
            scale = self.rng.uniform(1.3, 1.4) if large else self.rng.uniform(0.9, 1.0)
            x, y = side * 0.44 + self.rng.normal(0, 0.035), 0.40 + self.rng.normal(0, 0.05)
            turn = -side * 0.3 + self.rng.normal(0, 0.12)
            self.blob((x, y), (0.13 * scale, 0.19 * scale), self.grey[label], turn=turn, name=label)
            self.blob((x - side * 0.06 * scale, y), (0.05 * scale, 0.08 * scale), _FAT + 12, turn=turn)
            centres[label] = (x, y)
            if large:
                enlarged.add(label)
        return frozenset(enlarged), centres

    def spine(self) -> None:
        """Vertebral body, canal, and the processes behind and beside it."""
        bone = self.grey["Spine"]
        for at, radii in (((0, 0.84), (0.025, 0.10)), ((-0.12, 0.70), (0.10, 0.03)), ((0.12, 0.70), (0.10, 0.03))):
            self.blob(at, radii, bone - 10, waver=0, name="Spine")
        self.blob((0, 0.50), (0.14, 0.145), bone, waver=0.03, name="Spine")
        self.blob((0, 0.50), (0.11, 0.11), bone - 35, waver=0.03)
        self.blob((0, 0.695), (0.055, 0.055), _MUSCLE - 8, waver=0)

    def seen(self) -> tuple[dict[str, Box], dict[str, int]]:
        """Boxes and pixel counts of what later organs left uncovered; a sliver counts as not there."""
        boxes, areas = {}, {}
        names = list(self.masks)
        for place, name in enumerate(names):
            mask = self.masks[name].copy()
            for later in names[place + 1 :]:
                if later not in _INSIDE.get(name, ()):
                    mask &= ~self.masks[later]
            if (pixels := int(mask.sum())) >= _LEAST_PIXELS:
                boxes[name], areas[name] = box_from_mask(mask, where="phantom"), pixels
        order = [label for label in LABELS if label in boxes]
        return {label: boxes[label] for label in order}, {label: areas[label] for label in order}

    def finished(self) -> UInt8[np.ndarray, "S S"]:
        """The canvas with slow shading, the scanner's blur, and its noise, which is as fine as the blur."""
        shading = _enlarge(self.rng.normal(0, 4, (6, 6)).astype(np.float32), self.size)
        noise = self.rng.standard_normal((self.size, self.size), np.float32) * 15
        body = self.canvas > 20
        pixels = _blur(self.canvas + shading * body + noise * np.where(body, 1.0, 0.35).astype(np.float32))
        return np.clip(pixels * self.rng.uniform(1.1, 1.25), 0, 255).astype(np.uint8)


def _blur(image: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S S"]:
    """A binomial blur of three taps each way."""
    padded = np.pad(image, 1, mode="edge")
    rows = 0.25 * (padded[:-2] + padded[2:]) + 0.5 * padded[1:-1]
    return 0.25 * (rows[:, :-2] + rows[:, 2:]) + 0.5 * rows[:, 1:-1]


def _enlarge(coarse: Float[np.ndarray, "N N"], size: int) -> Float[np.ndarray, "S S"]:
    """Linear interpolation of a small grid to the whole image."""
    at = np.linspace(0, len(coarse) - 1, size)
    low = np.minimum(at.astype(int), len(coarse) - 2)
    weights = np.zeros((size, len(coarse)), np.float32)
    weights[np.arange(size), low], weights[np.arange(size), low + 1] = 1 - (at - low), at - low
    return weights @ coarse @ weights.T
