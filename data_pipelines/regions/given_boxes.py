"""Boxes as files and people give them: each becomes a `Box`, and all together must look like what they are taken for.

Read in the wrong unit, or on a picture that was turned, boxes mark something else and nobody notices. So the boxes of a
whole split, of a detector's file, or of one prediction are judged together, and refused with the option that settles
what they are:

  pixels or normalised?  all lie within 0..1.5, or most are smaller than a pixel and a half, or leave their images
  stored or applied?     an image with a box has an EXIF orientation that turns it

Whoever sets the option is believed. One box by itself is cut to its image where it leaves it, and left out where it
lies outside or is less than a pixel; both are counted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipelines.core.errors import InvalidRegion, UnclearBoxes, listed
from data_pipelines.images.orientation import orientation_of, oriented
from data_pipelines.images.reading import frame_of
from data_pipelines.records import AS_FOUND, Box, BoxReading, ImageSource
from data_pipelines.regions.boxes import TOLERANCE_PIXELS, box_from_pixels, box_from_polygon, check_numbers, overhang

logger = logging.getLogger(__name__)

OUTSIDE, SPECK = "box outside its image", "box of less than a pixel"
LOST = (OUTSIDE, SPECK)

Polygon = tuple[tuple[float, float], ...]

# Shares may be a little above 1 where a box was drawn past the edge.
_NORMALISED = 1.5
_TINY_PIXELS = 1.5
# So many boxes make a habit of leaving their images.
_SEVERAL = 4
_UNITS = (
    "--boxes normalised (x,y,w,h as shares of the image) or --boxes pixels settles it (in a run data.boxes, in Python "
    "box_unit)"
)
_TURNS = (
    "were the boxes drawn on the pixels as stored, or on the picture turned as viewers show it? --orientation stored "
    "or --orientation applied settles it (data.orientation in a run)"
)


@dataclass
class _Tally:
    """What boxes of one kind are like; of each fault the first one, as a user finds it."""

    count: int = 0
    small: int = 0
    tiny: int = 0
    leaving: int = 0
    large: int = 0
    first: str = ""
    first_leaving: str = ""
    first_large: str = ""


class GivenBoxes:
    """The boxes of some files under one reading.

    Attributes:
      left_out: reason → boxes that have no place in their images, as a user finds them.
      clipped: boxes that left their images and were cut to them.
    """

    def __init__(self, reading: BoxReading = AS_FOUND, name: str = ""):
        """Args:
        name: of what holds the boxes, for messages.
        """
        self.reading, self.name = reading, name
        self.left_out: dict[str, list[str]] = {}
        self.clipped: list[str] = []
        self._tallies = {"box": _Tally(), "polygon": _Tally()}

    def frame(self, image: ImageSource, where: str) -> tuple[int, int] | None:
        """Width and height of the picture that boxes are read on; None of one that cannot be read, or without need.

        Raises:
          DataError: an EXIF orientation turns the image, and nobody said whether its boxes follow.
        """
        if not self.reading.used:
            return None
        return frame_of(self.shown(image, where), where)

    def shown(self, image: ImageSource, where: str) -> ImageSource:
        """The picture that boxes are read on. Raises as `frame`."""
        if not self.reading.orientation and (tag := orientation_of(image)) != 1:
            raise UnclearBoxes(f"{where}: has boxes and the EXIF orientation {tag}; {_TURNS}")
        return oriented(image, self.reading.orientation)

    def box(self, numbers: Sequence[float], frame: tuple[int, int], where: str) -> Box | None:
        """The box of x, y, w, h on a picture of this width and height; None where it has no place there.

        Raises:
          DataError: a number is not finite, or there is no area.
        """
        given = f"{where}: box x,y,w,h = {','.join(f'{number:g}' for number in numbers)}"
        check_numbers(*numbers, given=given)
        if not self.reading.used:
            return None
        x, y, w, h = self._pixels(numbers, frame)
        self._count("box", numbers, (x, y, w, h), frame, given)
        width, height = frame
        if not self.reading.boxes and w < 1 and h < 1:
            self.left_out.setdefault(SPECK, []).append(given)
            return None
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.left_out.setdefault(OUTSIDE, []).append(f"{given} on {width}x{height} pixels")
            return None
        if overhang(x, y, w, h, width=width, height=height) > TOLERANCE_PIXELS:
            self.clipped.append(given)
        unit_width, unit_height = (1, 1) if self.reading.boxes == "normalised" else frame
        x, y, w, h = _inside(numbers, unit_width, unit_height)
        return box_from_pixels(x, y, w, h, width=unit_width, height=unit_height, where=where)

    def polygon(self, points: Sequence[Sequence[float]], frame: tuple[int, int], where: str) -> Polygon:
        """Vertices [x, y], in the boxes' unit, as (y, x) in shares of the image.

        Annotation tools put vertices on the far edge of the last pixel, or beyond it: these are moved inside.
        """
        x0, y0, w, h = extent = _extent(points)
        if points and self.reading.used:
            given = f"{where}: polygon at {x0:g},{y0:g} of {w:g} x {h:g}"
            self._count("polygon", extent, self._pixels(extent, frame), frame, given)
        width, height = (1, 1) if self.reading.boxes == "normalised" else frame
        return tuple((min(max(y / height, 0.0), 1.0), min(max(x / width, 0.0), 1.0)) for x, y in points)

    def box_around(
        self, points: Sequence[Sequence[float]], polygon: Polygon, frame: tuple[int, int], where: str
    ) -> Box | None:
        """The smallest box around a polygon; None where it has no place in the image.

        Args:
          points: the vertices as given.
          polygon: what `polygon` made of them.

        Raises:
          DataError: fewer than three vertices, or no area.
        """
        x0, y0, w, h = _extent(points)
        outside = w > 0 < h and self.box((x0, y0, w, h), frame, where) is None
        return None if outside else box_from_polygon(polygon, where=where)

    def in_pixels(self, points: Sequence[float], frame: tuple[int, int]) -> list[float]:
        """x, y, x, y, … in the boxes' unit as pixels."""
        return self._pixels(points, frame)

    def judge(self, *, strict: bool = False) -> None:
        """Logs how many boxes were cut to their images, and refuses boxes that are not what they are taken for.

        Args:
          strict: also refuses a box that has no place in its image.

        Raises:
          DataError: see the top of this module.
        """
        for kind, tally in self._tallies.items():
            if fault := _fault(kind, tally, self.reading):
                raise UnclearBoxes(f"{self.name}: {fault}; {_UNITS}")
        for reason, lost in self.left_out.items() if strict else ():
            raise InvalidRegion(f"{lost[0]}: {reason}; give a part of the image, in its pixels")
        if self.clipped:
            logger.warning(
                "%s: %d boxes leave their images and were cut to them: %s",
                self.name, len(self.clipped), listed(self.clipped),
            )  # fmt: skip

    def _pixels(self, numbers: Sequence[float], frame: tuple[int, int]) -> list[float]:
        scale = frame if self.reading.boxes == "normalised" else (1, 1)
        return [number * scale[place % 2] for place, number in enumerate(numbers)]

    def _count(
        self, kind: str, numbers: Sequence[float], pixels: Sequence[float], frame: tuple[int, int], given: str
    ) -> None:
        tally, (x, y, w, h) = self._tallies[kind], pixels
        tally.count += 1
        tally.first = tally.first or given
        tally.small += max(map(abs, numbers)) <= _NORMALISED
        tally.tiny += max(w, h) <= _TINY_PIXELS
        if overhang(x, y, w, h, width=frame[0], height=frame[1]) > TOLERANCE_PIXELS:
            tally.leaving += 1
            tally.first_leaving = tally.first_leaving or f"{given} on {frame[0]}x{frame[1]} pixels"
        if max(map(abs, numbers)) > _NORMALISED:
            tally.large += 1
            tally.first_large = tally.first_large or given


def _fault(kind: str, tally: _Tally, reading: BoxReading) -> str:
    """Why the boxes are not what they are taken for; "" where they look like it, or somebody said so."""
    kinds = "boxes" if kind == "box" else "polygons"
    if reading.boxes == "normalised" and 2 * tally.large > tally.count:
        return (
            f"{tally.large} of {tally.count} {kinds} are far above 1, and so not normalised, e.g. {tally.first_large}"
        )
    if reading.boxes or not tally.count:
        return ""
    if tally.small == tally.count:
        return f"all {tally.count} {kinds} lie within 0..1.5 and look normalised, e.g. {tally.first}"
    if 2 * tally.tiny > tally.count:
        return f"{tally.tiny} of {tally.count} {kinds} are no larger than a pixel, e.g. {tally.first}"
    if tally.leaving >= _SEVERAL and 2 * tally.leaving > tally.count:
        return (
            f"{tally.leaving} of {tally.count} {kinds} leave their images, e.g. {tally.first_leaving}; are "
            "they x,y,w,h, and of images of this size"
        )
    return ""


def _inside(numbers: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """The part of x, y, w, h in 0..width and 0..height; as it was, to the last bit, where nothing has to be cut."""
    x, y, w, h = numbers
    if overhang(x, y, w, h, width=width, height=height) <= 0:
        return x, y, w, h
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    return x0, y0, x1 - x0, y1 - y0


def _extent(points: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """x, y, w, h around points [x, y]."""
    xs, ys = zip(*points, strict=True) if points else ((0.0,), (0.0,))
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
