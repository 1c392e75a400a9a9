"""PaliGemma that is shown marked regions: more `<image>` tokens after the image's own, filled from the regions.

An empty slot takes no place in the sequence, so without regions this is PaliGemma, token for token.

Axes: B batch, S sequence, P image patches, R region slots, N marked regions of the batch, E encoders, K tokens of a
region and encoder, C side of a crop, G its patches on a side, W width of the vision tower, D of the decoder.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PaliGemmaForConditionalGeneration

from .configuration_rllava import RllavaConfig
from .regions_rllava import TOKEN_ENCODERS, RegionBranch, align, align_corners_matrix

try:  # transformers 5
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )
except ImportError:  # transformers 4 goes by "paligemma" in the names of a class and its parents
    register_checkpoint_conversion_mapping = None

# From 5.24 on it is called cache, and to hand on the older name beside it is warned of.
_CACHE = (
    "cache" if "cache" in inspect.signature(PaliGemmaForConditionalGeneration.forward).parameters else "past_key_values"
)
_REGION_INPUTS = ("regions", "region_valid", "region_pixels", "region_crop_coverage", "region_align_coverage")


class RllavaPaliGemmaForConditionalGeneration(PaliGemmaForConditionalGeneration):
    """PaliGemma with a region branch. Inputs come from `RllavaProcessor`; `generate` works as for PaliGemma."""

    config_class = RllavaConfig

    def __init__(self, config: RllavaConfig):
        text = config.text_config
        if getattr(text, "attn_logit_softcapping", None) and text._attn_implementation in (None, "sdpa"):
            # Gemma 2's cap: torch's fused attention knows none, and transformers 4 leaves it out without a word.
            text._attn_implementation = "eager"
        super().__init__(config)
        regions = (config.rllava or {}).get("regions", {})
        encoders = [name for name in TOKEN_ENCODERS if name in regions.get("encoders", ())]
        self.region_branch: Any = None
        if encoders:
            self.region_branch = RegionBranch(encoders, regions["tokens"], config.vision_config.hidden_size)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RegionBranch):  # zero: an untrained branch adds nothing to the features
            for parameter in module.parameters():
                torch.nn.init.zeros_(parameter)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        regions: torch.FloatTensor | None = None,
        region_valid: torch.BoolTensor | None = None,
        region_pixels: torch.FloatTensor | None = None,
        region_crop_coverage: torch.FloatTensor | None = None,
        region_align_coverage: torch.FloatTensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """PaliGemma's forward pass; it reads the regions together with `pixel_values`.

        Other arguments are PaliGemma's.

        Args:
          past_key_values, cache: the same, by its older and its newer name in transformers.
          token_type_ids: 0 on image, regions, question and newline, which see one another whole; 1 on the answer.
          regions: float32 [B, R, 4], boxes (y0, x0, y1, x1), normalised to the image.
          region_valid: bool [B, R], which slots hold a region.
          region_pixels: [B, R, 3, C, C], crops in −1…1 (encoder crop).
          region_crop_coverage: [B, R, G, G], share of each crop patch inside the region (crop).
          region_align_coverage: [B, R, k, k], share of each bin of the box inside the region (align).

        Raises:
          ValueError: there are not as many `<image>` tokens as image and regions need.
        """
        if regions is not None and pixel_values is not None and self.region_branch is not None:
            given = (regions, region_valid, region_pixels, region_crop_coverage, region_align_coverage)
            inputs_embeds = self._embed(input_ids, pixel_values, dict(zip(_REGION_INPUTS, given, strict=True)))
            input_ids = pixel_values = None
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{_CACHE: past_key_values if cache is None else cache},
            **kwargs,
        )

    def prepare_inputs_for_generation(self, input_ids: torch.LongTensor, **kwargs: Any) -> dict[str, Any]:
        """As PaliGemma's: the image, and with it the regions, is read in the first step only."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if inputs.get("pixel_values") is None:
            for name in _REGION_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _embed(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, given: dict[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """Embeddings [B, S, D] with image and region tokens in their places."""
        features = self.model.vision_tower(pixel_values).last_hidden_state
        valid = _needed(given, "region_valid").bool()
        per_region = len(self.region_branch.encoders) * self.region_branch.bins**2
        tokens = features.new_zeros(*valid.shape, per_region, features.shape[-1])
        if valid.any():
            tokens[valid] = self._region_tokens(features, valid, given)
        seen = torch.cat([features, tokens.flatten(1, 2)], dim=1)
        present = torch.cat([valid.new_ones(features.shape[:2]), valid.repeat_interleave(per_region, dim=1)], dim=1)
        places = input_ids == self.config.image_token_id
        if not torch.equal(places.sum(dim=1), present.sum(dim=1)):
            raise ValueError(
                f"input_ids: {places.sum(dim=1).tolist()} <image> tokens, but image and regions have "
                f"{present.sum(dim=1).tolist()}; take all inputs from one call of the processor"
            )
        embedding = self.get_input_embeddings()
        # The image token may lie beyond the table.
        embedded = embedding(input_ids.masked_fill(places, 0))
        projected = self.model.multi_modal_projector(seen)
        if not hasattr(embedding, "embed_scale"):
            # Transformers 4 scales in the decoder, text and image alike; later versions where text is embedded.
            projected = projected / self.config.text_config.hidden_size**0.5
        return embedded.masked_scatter(places[..., None].expand_as(embedded), projected[present].to(embedded))

    def _region_tokens(
        self, features: torch.Tensor, valid: torch.Tensor, given: dict[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """Tokens of the regions that are there: [N, E · K, W]."""
        branch = self.region_branch
        boxes = _needed(given, "regions")[valid]
        maps, coverage = {}, {}
        if "crop" in branch.encoders:
            maps["crop"] = self._encode_crops(_needed(given, "region_pixels")[valid]).to(features)
            coverage["crop"] = _needed(given, "region_crop_coverage")[valid]
        if "align" in branch.encoders:
            image = valid.nonzero()[:, 0]
            grid = round(features.shape[1] ** 0.5)
            maps["align"] = align(features.unflatten(1, (grid, grid))[image], boxes, branch.bins)
            coverage["align"] = _needed(given, "region_align_coverage")[valid]
        return branch(boxes, maps, coverage)

    def _encode_crops(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of crops [N, 3, C, C] through the vision tower, positions resampled to their grid: [N, G, G, W]."""
        tower = self.model.vision_tower
        tower = getattr(tower, "vision_model", tower)  # transformers 5 has a level less
        embeddings = tower.embeddings
        weight = embeddings.patch_embedding.weight
        patches = embeddings.patch_embedding(pixels.to(weight)).permute(0, 2, 3, 1)
        side, positions = patches.shape[1], embeddings.position_embedding.weight
        grid = round(positions.shape[0] ** 0.5)
        if side != grid:
            to_side = align_corners_matrix(side, grid).to(positions.device)
            square = positions.float().unflatten(0, (grid, grid))
            positions = torch.einsum("yg,xh,ghw->yxw", to_side, to_side, square).flatten(0, 1).to(weight)
        encoded = tower.encoder(inputs_embeds=patches.flatten(1, 2) + positions).last_hidden_state
        return tower.post_layernorm(encoded).unflatten(1, (side, side))


def _needed(given: dict[str, torch.Tensor | None], name: str) -> torch.Tensor:
    array = given[name]
    if array is None:
        raise ValueError(
            f"{name}: missing, but the model's region encoders need it; take all inputs from the processor"
        )
    return array


if register_checkpoint_conversion_mapping is not None:
    # Transformers 5 renames published PaliGemma weights for its own classes only, unless a class is registered.
    register_checkpoint_conversion_mapping(
        RllavaPaliGemmaForConditionalGeneration.__name__,
        get_checkpoint_conversion_mapping("paligemma"),
        overwrite=True,
    )
