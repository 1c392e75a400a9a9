"""What a mask picture marks: stated by a setting, or found by a rule that is checked and refuses what is ambiguous.

The rule. Where transparency varies, what is opaque, if the colours are one or say the same. Of a palette, every index
but 0, unless black is another index. Else what is not black; of JPEG, and of pictures of more levels than labels, what
is nearer to the brightest than to black, if few pixels lie between. What covers nearly all of the frame is marked by
nothing but a statement, since a background that is not black looks so.
"""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from data_pipelines.core.errors import InvalidPart, unreadable_image

FOUND, ALPHA, INDEX, THRESHOLD = "found", "alpha", "index", "threshold"
_LOSSY = ("JPEG", "MPO")
_LABELS = 32  # more levels than this are no labels
_COVERS_ALL = 0.98
_BETWEEN = 0.35  # of what is marked may be neither bright nor dark: the blurred rim
_STATE = "say what is marked: mask_level, mask_index, mask_threshold or mask_alpha"


def mask_levels(image: Image.Image, meaning: str | None, name: str) -> UInt8[np.ndarray, "H W"]:
    """The grey levels of a mask picture; with a meaning 255 where it marks, else 0.

    Args:
      image: decoded.
      meaning: as `ScanPart.mask`.

    Raises:
      ImageError: it has no such thing, or it is ambiguous what it marks.
    """
    kind, _, value = (meaning or "").partition(":")
    if kind == FOUND:
        return _as_levels(_found(image, name))
    if kind == ALPHA:
        return _as_levels(_alpha(image, name) >= 128)
    if kind == INDEX:
        if image.mode != "P":
            raise unreadable_image(name, "mask_index is of a palette, and the mask has none", "write mask_level")
        return _as_levels(np.asarray(image) == int(value))
    if kind == THRESHOLD:
        return _as_levels(_brightness(image) >= int(value))
    if image.format in _LOSSY:
        raise unreadable_image(name, "JPEG keeps no exact grey levels", "write mask_threshold in place of mask_level")
    if image.mode not in ("1", "L") and not image.mode.startswith("I"):
        colours = np.asarray(image.convert("RGB"))
        if (colours != colours[..., :1]).any():
            raise unreadable_image(name, f"its mode is {image.mode}: colours have no grey level", _STATE)
    return np.array(image.convert("L"))


def check_meaning(meaning: str, name: str) -> None:
    """Raises: DataError: it is no `ScanPart.mask`."""
    kind, _, value = meaning.partition(":")
    if not (meaning in (FOUND, ALPHA) or (kind in (INDEX, THRESHOLD) and value.isascii() and value.isdigit())):
        raise InvalidPart(f"{name}: mask is {meaning!r}; write {FOUND}, {ALPHA}, {INDEX}:N or {THRESHOLD}:N")


def _as_levels(inside: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    return np.where(inside, np.uint8(255), np.uint8(0))


def _brightness(image: Image.Image) -> np.ndarray:
    """The greatest channel of each pixel, so that 0 is black and nothing else: [H, W]."""
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB")).max(axis=2)


def _alpha(image: Image.Image, name: str) -> np.ndarray:
    if not image.has_transparency_data:
        raise unreadable_image(name, "mask_alpha is of transparency, and the mask has none", "write mask_level")
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _found(image: Image.Image, name: str) -> Bool[np.ndarray, "H W"]:
    inside = _by_palette(image, name) if image.mode == "P" else _by_brightness(image, name)
    if image.has_transparency_data:
        opaque = _alpha(image, name) >= 128
        if opaque.any() and not opaque.all():
            colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
            if (colours != colours[:1]).any() and (inside != opaque).any():
                raise _ambiguous(name, "its colours and its transparency mark different things")
            inside = opaque
    if inside.mean() >= _COVERS_ALL:
        raise _ambiguous(name, f"it would mark {100 * inside.mean():.1f} % of the frame")
    return inside


def _by_palette(image: Image.Image, name: str) -> Bool[np.ndarray, "H W"]:
    indices = np.asarray(image)
    palette = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))
    black = [int(i) for i in np.unique(indices) if i < len(palette) and not palette[i].any()]
    if any(black) and (palette[0].any() or len(black) > 1):
        raise _ambiguous(name, f"black is index {max(black)} of its palette")
    return indices != 0


def _by_brightness(image: Image.Image, name: str) -> Bool[np.ndarray, "H W"]:
    bright = _brightness(image)
    levels = np.unique(bright)
    top = float(levels[-1])
    if image.format in _LOSSY or len(levels) > _LABELS:
        inside = bright >= top / 2
        between = (bright > top / 8) & (bright < top * 7 / 8)
        if between.sum() > _BETWEEN * inside.sum():
            raise _ambiguous(name, f"it has {len(levels)} grey levels between black and white")
        return inside
    nearly = [level for level in levels if level < 16], [level for level in levels if level > top - 16]
    if top >= 128 and len(levels) > 2 and sum(map(len, nearly)) == len(levels):
        raise _ambiguous(name, f"its grey levels are {', '.join(map(str, levels))}")
    return bright > 0


def _ambiguous(name: str, fault: str) -> Exception:
    return unreadable_image(name, f"it is ambiguous what the mask marks: {fault}", _STATE)
