"""Windows: which part of a scan's range of values becomes black to white.

A window is given by its centre (level) and width, in the scan's own units: Hounsfield units for CT. The presets are CT
windows by name, as Radiopaedia's article "Windowing (CT)" lists them (https://radiopaedia.org/articles/windowing-ct);
where it gives a range, the middle. `auto`, `minmax` and `percentile` suit scans without a fixed unit, such as MR.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.core.errors import DataError, InvalidSetting
from data_pipelines.core.registry import nearest

Rule = Literal["auto", "minmax", "percentile"]
AUTO: Rule = "auto"
MINMAX: Rule = "minmax"
PERCENTILE: Rule = "percentile"

# MedSAM's share of the darkest and brightest pixels that may saturate (Ma et al., Nature Communications 2024).
_PERCENTILES = (0.5, 99.5)

Shape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


@dataclass(frozen=True)
class Window:
    """What becomes black to white.

    Attributes:
      centre: value in the middle of the greys. width: distance from black to white.
      shape: of the ramp (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3). LINEAR, DICOM's default, is off by half a unit from
        LINEAR_EXACT, whose black is `centre - width / 2` and white `centre + width / 2`.
    """

    centre: float
    width: float
    shape: Shape = "LINEAR"


PRESETS = {
    "brain": Window(40, 80),
    "subdural": Window(75, 215),  # 50 to 100, 130 to 300
    "stroke": Window(40, 40),
    "temporal_bone": Window(600, 2800),
    "head_soft_tissue": Window(40, 375),  # 20 to 60, 350 to 400
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "soft_tissue": Window(50, 400),  # of the abdomen
    "liver": Window(30, 150),
    "spine": Window(50, 250),
    "bone": Window(400, 1800),
}

_NAMED: dict[str, Window | Rule] = {AUTO: AUTO, MINMAX: MINMAX, PERCENTILE: PERCENTILE, **PRESETS}
_NUMBERS = re.compile(r"([^:]+):([^:]+)")


def window_of(text: str, where: str) -> Window | Rule:
    """A window as settings and file suffixes write it: auto, minmax, percentile, a preset, or CENTRE:WIDTH.

    Args:
      where: names the setting in the message, e.g. "data.window".

    Raises:
      DataError: it is none of these.
    """
    name = text.strip().lower().replace(" ", "_").replace("-", "_")
    if name in _NAMED:
        return _NAMED[name]
    if numbers := _NUMBERS.fullmatch(text.strip()):
        try:
            centre, width = float(numbers[1]), float(numbers[2])
        except ValueError:
            centre = width = math.nan
        if math.isfinite(centre) and math.isfinite(width) and width >= 1:
            return Window(centre, width)
        raise InvalidSetting(f"{where}: {text!r} is no window; write CENTRE:WIDTH in numbers, the width 1 or more")
    raise InvalidSetting(f"{where}: no window {text!r}; {nearest(name, _NAMED)}, or write CENTRE:WIDTH")


def is_ct_window(text: str) -> bool:
    """Whether it is a preset by name, which means Hounsfield units and so CT alone."""
    return isinstance(window_of(text, "window"), Window) and ":" not in text


def grey_levels(values: Float[np.ndarray, "H W"], window: Window) -> Float[np.ndarray, "H W"]:
    """Values through a window, to 0 (black) … 255 (white), unrounded. PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and .2."""
    centre, width = window.centre, window.width
    if window.shape == "SIGMOID":
        # Further out the ramp is flat to the last bit, and exp would overflow.
        return 255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if window.shape == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return np.where(values > centre, 255.0, 0.0)
    return np.clip((values - centre) / width + 0.5, 0, 1) * 255


def measured_levels(
    values: Float[np.ndarray, "H W"], blank: Bool[np.ndarray, "H W"], chosen: Window | Rule
) -> Float[np.ndarray, "H W"]:
    """`grey_levels` by a window, or by the range of the values that are no blank; those are in the middle."""
    window = chosen if isinstance(chosen, Window) else range_of(values, ~blank, chosen)
    return grey_levels(np.where(blank, window.centre, values), window)


def range_of(values: Float[np.ndarray, "H W"], counted: Bool[np.ndarray, "H W"], rule: Rule) -> Window:
    """The window from the least to the greatest counted value, or by `percentile` from the 0.5th to the 99.5th."""
    kept = values[counted]
    if kept.size == 0:
        return Window(0, 1, "LINEAR_EXACT")
    low, high = np.percentile(kept, _PERCENTILES) if rule == PERCENTILE else (kept.min(), kept.max())
    # Of one value only: black, as everywhere in the project.
    width = float(high - low) or 1.0
    return Window(float(low) + width / 2, width, "LINEAR_EXACT")


def shown(levels: Float[np.ndarray, "H W"], blank: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Grey levels as a picture; what is no measurement is black."""
    grey = np.where(blank, 0, np.rint(levels)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def refuse_colours(window: str, name: str) -> None:
    """Raises: DataError: the window is for greys, and the image has colours."""
    if is_ct_window(window) or ":" in window:
        raise DataError(
            f"{name}: window {window!r} is for greys, and the image has colours; choose {AUTO}",
            code="image.window-mismatch",
        )
