"""Configuration of a PaliGemma that is shown marked regions of its image."""

from __future__ import annotations

from typing import Any

from transformers import PaliGemmaConfig


class RllavaConfig(PaliGemmaConfig):
    """PaliGemma's configuration, and a section `rllava` for what it lacks.

    The model type stays "paligemma": `PaliGemmaForConditionalGeneration` loads the same folder, without regions.

    Attributes:
      rllava: what the processor and the model must agree on.
        image_size, patch_size: pixels.
        prompt: template of the prefix by task, with {language}, {regions} and {question}.
        regions:
          encoders: how a region reaches the model, any of "crop" (its original pixels through the vision tower),
            "align" (RoIAlign over the image's features), "overlay" (its outline drawn into the image), "loc" (four loc
            tokens in the prefix).
          max_regions: the most regions that one image may have.
          tokens: of one region and encoder (crop, align); a square number.
          crop_size: side of the crop as the vision tower sees it, pixels.
          crop_context: side of the crop's window over the longer side of the box.
          crop_min_pixels: the window is never smaller, in pixels of the original image.
          outlines: a region given as a mask shows its outline; otherwise its box.
    """

    rllava: dict[str, Any] | None = None
