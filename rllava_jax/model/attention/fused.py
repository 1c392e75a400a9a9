"""Which fused attention a platform and a model can have, and how it is sharded over a mesh.

The compiler cannot partition a kernel, so each device is given its own share: examples over `slice`, `data` and
`fsdp`, heads over `tensor`. Axes: see `attend.py`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from data_pipelines.core.errors import InvalidSetting, SettingConflict
from rllava_jax.config import AttentionKind
from rllava_jax.model.attention.cudnn import cudnn_attention, refusal
from rllava_jax.model.attention.pallas import flash_attention
from rllava_jax.model.partition_rules import BATCH
from rllava_jax.model.sizes import PaliGemmaConfig

Fused = Callable[[Array, Array, Array, Array | None], Array]

_HEAD_AXIS = "tensor"


def check_attention(
    kind: AttentionKind,
    size: PaliGemmaConfig,
    platform: str,
    *,
    compute_dtype: Any = jnp.bfloat16,
    compute_capability: str | None = None,
) -> None:
    """Refuses a `model.attention` that the platform or the model cannot have, before anything is compiled.

    Args:
      platform: of the devices that will run: cpu, tpu, gpu or cuda; of a topology when compiling ahead of time.
      compute_capability: of an NVIDIA GPU that is present, e.g. "9.0"; None when compiling without one.

    Raises:
      ConfigError: names the setting, the platform or the limit, and the remedy.
    """
    platform = "gpu" if platform in ("cuda", "rocm") else platform
    home = {"xla": platform, "pallas": "tpu", "cudnn": "gpu"}[kind]
    if platform != home:
        others = {"tpu": "xla or pallas", "gpu": "xla or cudnn"}.get(platform, "xla")
        raise SettingConflict(
            f"model.attention: {kind!r} is a kernel for {home.upper()} and these devices are {platform.upper()}; "
            f"choose {others}"
        )
    if kind == "cudnn" and (reason := refusal(size, jnp.dtype(compute_dtype), compute_capability)):
        raise SettingConflict(f"model.attention: 'cudnn' {reason}")


def fused_attention(
    kind: AttentionKind,
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B Q S"] | None,
    *,
    cap: float,
) -> Float[Array, "B Q N H"]:
    """Attention by a fused kernel, on each device's share of the examples and heads.

    Raises:
      ConfigError: a kind that is no fused kernel, or a cap that it cannot have.
    """
    if kind == "pallas":
        return over_mesh(functools.partial(flash_attention, cap=cap))(query, key, value, mask)
    if kind == "cudnn":
        return over_mesh(functools.partial(cudnn_attention, cap=cap))(query, key, value, mask)
    raise InvalidSetting(f"model.attention: {kind!r} is not a fused kernel; choose xla, pallas or cudnn")


def over_mesh(compute: Fused) -> Fused:
    """`compute` on each device's share under the ambient mesh (`jax.set_mesh`); without one, `compute` itself.

    A batch axis that does not divide the examples, or `tensor` where it does not divide the heads, is left out: its
    devices then compute the same. Key-value heads are repeated until `tensor` divides them, so that each device holds
    those of its query heads: Gemma's single one becomes a copy on each.
    """

    def computed(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1 or mesh.manual_axes:
            return compute(query, key, value, mask)
        examples = _dividing([axis for axis in BATCH if axis in mesh.shape], mesh.shape, query.shape[0])
        tensor = mesh.shape.get(_HEAD_AXIS, 1)
        heads = None
        if tensor > 1 and query.shape[2] % tensor == 0:
            heads = _HEAD_AXIS
            copies = tensor // math.gcd(tensor, key.shape[2])
            key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
        spec = PartitionSpec(examples, None, heads, None)
        mask_spec = None if mask is None else PartitionSpec(examples, None, None)
        # The kernels do not say how their outputs vary over the mesh, hence no check of it.
        share = jax.shard_map(compute, in_specs=(spec, spec, spec, mask_spec), out_specs=spec, check_vma=False)
        return share(query, key, value, mask)

    return computed


def _dividing(axes: list[str], sizes: Any, examples: int) -> tuple[str, ...] | None:
    """The axes, in order, whose product divides the examples."""
    kept: list[str] = []
    for axis in axes:
        if examples % math.prod(sizes[name] for name in (*kept, axis)) == 0:
            kept.append(axis)
    return tuple(kept) or None
