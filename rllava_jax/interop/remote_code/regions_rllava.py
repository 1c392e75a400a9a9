"""The region branch: a marked region becomes tokens in the vision tower's own feature space.

Axes: N regions (of all images of a batch, one after another), E encoders, K = k · k tokens of a region and encoder,
Y X a grid of cells, W width of the vision tower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

TOKEN_ENCODERS = ("crop", "align")  # in the order in which their tokens stand
_FREQUENCIES = 8


class RegionBranch(nn.Module):
    """Pools a region's features to K tokens per encoder, and tells them which part they are, where, and what is inside.

    The tokens then go through PaliGemma's own projection, as the image's do.
    """

    def __init__(self, encoders: Sequence[str], tokens: int, width: int):
        super().__init__()
        self.encoders = tuple(encoders)
        self.bins = math.isqrt(tokens)
        self.geometry = nn.Linear(8 * 2 * _FREQUENCIES, width)
        self.token_embedding = nn.Parameter(torch.zeros(len(self.encoders), tokens, width))
        self.inside = nn.Parameter(torch.zeros(len(self.encoders), width))

    def forward(
        self, boxes: torch.Tensor, maps: Mapping[str, torch.Tensor], coverage: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Region tokens before the projection: [N, E · K, W].

        Args:
          boxes: float32 [N, 4], normalised (y0, x0, y1, x1).
          maps: per encoder, features of the region [N, Y, X, W].
          coverage: per encoder, the share of each cell that lies inside the region's outline [N, Y, X].
        """
        dtype = maps[self.encoders[0]].dtype
        # In float32 whatever the model computes in: the highest octave has 32 periods across the image.
        where = nn.functional.linear(geometry_features(boxes), self.geometry.weight.float(), self.geometry.bias.float())
        tokens = []
        for number, name in enumerate(self.encoders):
            cells = maps[name] + coverage[name].to(dtype)[..., None] * self.inside[number].to(dtype)
            pool = area_matrix(self.bins, cells.shape[1]).to(cells)
            pooled = torch.einsum("ky,lx,nyxw->nklw", pool, pool, cells).flatten(1, 2)
            tokens.append(pooled + where.to(dtype)[:, None] + self.token_embedding[number].to(dtype))
        return torch.cat(tokens, dim=1)


def geometry_features(boxes: torch.Tensor) -> torch.Tensor:
    """Sines and cosines, at octaves, of the boxes' corners, centres and sides: float32 [N, 128]."""
    y0, x0, y1, x1 = boxes.float().unbind(-1)
    numbers = torch.stack([y0, x0, y1, x1, (y0 + y1) / 2, (x0 + x1) / 2, y1 - y0, x1 - x0], dim=-1)
    octaves = math.pi * 2.0 ** torch.arange(_FREQUENCIES, device=boxes.device, dtype=torch.float32) / 2
    angles = numbers[..., None] * octaves
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def align(features: torch.Tensor, boxes: torch.Tensor, bins: int) -> torch.Tensor:
    """RoIAlign (arXiv 1703.06870) of features [N, Y, X, W] over boxes [N, 4]: [N, bins, bins, W]."""
    rows = roi_align_matrix(boxes[:, 0], boxes[:, 2], bins, features.shape[1])
    columns = roi_align_matrix(boxes[:, 1], boxes[:, 3], bins, features.shape[2])
    return torch.einsum("nky,nlx,nyxw->nklw", rows.to(features), columns.to(features), features)


def roi_align_matrix(start: torch.Tensor, stop: torch.Tensor, out: int, size: int, samples: int = 2) -> torch.Tensor:
    """RoIAlign along one axis: weights [N, out, size] of the cells in each bin's average.

    Half-pixel aligned, `samples` points in a bin; a point outside the map takes the nearest cell.
    """
    low = start.float() * size - 0.5
    step = (stop.float() - start.float()) * size / (out * samples)
    points = low[:, None] + step[:, None] * (torch.arange(out * samples, device=low.device) + 0.5)
    points = points.clamp(0, size - 1)
    hat = (1 - (points[..., None] - torch.arange(size, device=low.device)).abs()).clamp(min=0)
    return hat.unflatten(-2, (out, samples)).mean(dim=-2)


def area_matrix(out: int, size: int) -> torch.Tensor:
    """Average pooling of `size` cells into `out` equal bins, a cell on an edge counting by its share: [out, size]."""
    edges = torch.arange(out + 1, dtype=torch.float64) * size / out
    cell = torch.arange(size, dtype=torch.float64)
    overlap = (torch.minimum(edges[1:, None], cell + 1) - torch.maximum(edges[:-1, None], cell)).clamp(min=0)
    return (overlap / overlap.sum(dim=1, keepdim=True)).float()


def align_corners_matrix(out: int, size: int) -> torch.Tensor:
    """Linear interpolation of `size` cells at `out` points, the first and last on the first and last cell: [out, size].

    How PaliGemma resamples position embeddings. Transformers' `interpolate_pos_encoding` is bicubic and something else.
    """
    at = torch.linspace(0, size - 1, out, dtype=torch.float64) if out > 1 else torch.zeros(1, dtype=torch.float64)
    return (1 - (at[:, None] - torch.arange(size, dtype=torch.float64)).abs()).clamp(min=0).float()
