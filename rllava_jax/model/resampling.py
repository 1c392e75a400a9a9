"""One-dimensional resampling as small matrices, applied per axis: static shapes that suit every accelerator.

Axes: K output bins, G input cells; P and Q patches, W vision width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def align_corners_matrix(out: int, size: int) -> Float[np.ndarray, "K G"]:
    """Linear interpolation whose first and last samples fall on the first and last cells.

    How the reference resamples position embeddings (`scipy.ndimage.zoom`, order 1).
    """
    at = np.linspace(0, size - 1, out) if out > 1 else np.zeros(1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)[None])).astype(np.float32)


def resampled_positions(
    positions: Float[Array, "1 P W"], rows: int, columns: int, *, precision: jax.lax.Precision | None = None
) -> Float[Array, "1 Q W"]:
    """Position embeddings of a square grid, for one of `rows` x `columns`, linear between the outermost centres."""
    grid = math.isqrt(positions.shape[1])
    square = positions.reshape(grid, grid, -1)
    resampled = jnp.einsum(
        "yg,xh,ghw->yxw",
        align_corners_matrix(rows, grid),
        align_corners_matrix(columns, grid),
        square,
        precision=precision,
    )
    return resampled.reshape(1, rows * columns, -1)


def area_matrix(out: int, size: int) -> Float[np.ndarray, "K G"]:
    """Average pooling of `size` cells into `out` equal bins; a cell on a bin's edge counts by its share.

    Three cells into two bins of 1.5 cells each, the middle one half in either:

        [[2/3  1/3   0 ]
         [ 0   1/3  2/3]]

    The identity where `out == size`.
    """
    edges = np.arange(out + 1) * size / out
    left, right = edges[:-1, None], edges[1:, None]
    cell = np.arange(size)[None]
    overlap = np.clip(np.minimum(right, cell + 1) - np.maximum(left, cell), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def roi_align_matrix(
    start: Float[Array, "..."], stop: Float[Array, "..."], *, out: int, size: int, samples: int = 2
) -> Float[Array, "... K G"]:
    """RoIAlign (arXiv 1703.06870) along one axis, half-pixel aligned.

    RoIAlign's bilinear samples lie on a grid, so the average over a bin is the product of one matrix per axis:
    `pooled = rows @ features @ columnsᵀ`.

    A box from 0 to 0.5 on four cells, whose centres lie at 0, 1, 2, 3: it covers −0.5 to 1.5. One bin with two samples
    has them at 0 and 1, so that its row is the mean of [1 0 0 0] and [0 1 0 0]: [½ ½ 0 0]. A box from 0.125 to 0.625
    has them at 0.5 and 1.5, each between two cells: the mean of [½ ½ 0 0] and [0 ½ ½ 0], [¼ ½ ¼ 0].

    Args:
      start, stop: the box's edges along this axis, normalised to 0…1.
      out: bins. size: cells of the feature map. samples: sample points in a bin.

    Returns:
      Weights; a sample outside the map takes the nearest cell, as in the usual implementations.
    """
    low = start * size - 0.5
    step = (stop - start) * size / (out * samples)
    points = low[..., None] + step[..., None] * (jnp.arange(out * samples) + 0.5)
    points = jnp.clip(points, 0, size - 1)
    hat = jnp.maximum(0, 1 - jnp.abs(points[..., None] - jnp.arange(size)))
    return hat.reshape(*hat.shape[:-2], out, samples, size).mean(axis=-2)
