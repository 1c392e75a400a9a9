"""The mesh, and where every parameter and batch lives on it.

Two axes: `data` holds copies of the model, `fsdp` also cuts each parameter into shares (ZeRO 3); a batch is cut over
both. The axes are compiler-driven (`AxisType.Auto`): the rules below say where arrays live, XLA adds the collectives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rllava_jax.config import ConfigError, MeshConfig

# Which axis of a parameter `fsdp` cuts; None keeps a whole copy everywhere (vectors, where a gather would cost more
# than it saves). The first rule whose pattern matches the whole name holds.
# L layers, W/D width, N heads, H head dim, F mlp, r rank of LoRA.
RULES: tuple[tuple[str, int | None], ...] = (
    (r".*/(bias|scale)", None),
    (r"roi/(token_embedding|inside)", None),
    (r"roi/geometry/kernel", 1),  # [F, W]
    (r"img/embedding/kernel", 3),  # [p, p, 3, W]
    (r"img/pos_embedding", 2),  # [1, P, W]
    (r"img/head/kernel", 0),  # [W, D]
    (r"img/.*/(query|key|value)/kernel", 1),  # [L, W, N, H]
    (r"img/.*/out/kernel", 3),  # [L, N, H, W]
    (r"img/.*/Dense_0/kernel", 1),  # [L, W, F]
    (r"img/.*/Dense_1/kernel", 2),  # [L, F, W]
    (r"llm/embedder/input_embedding", 1),  # [V, D]
    (r"llm/layers/attn/q_einsum/w", 2),  # [L, N, D, H]
    (r"llm/layers/attn/kv_einsum/w", 3),  # [L, 2, K, D, H]
    (r"llm/layers/attn/attn_vec_einsum/w", 3),  # [L, N, H, D]
    (r"llm/layers/mlp/gating_einsum", 2),  # [L, 2, D, F]
    (r"llm/layers/mlp/linear", 2),  # [L, F, D]
    # Of an adapter's two factors the one with the axis that its base is cut along.
    (r"img/head/lora/a", 0),  # [W, r]
    (r".*/(q_einsum|query|key|value|Dense_0)/lora/a", 1),  # [L, D, r]
    (r".*/lora_(k|v|gate|up)/a", 1),  # [L, D, r]
    (r".*/(attn_vec_einsum|out|Dense_1)/lora/b", 2),  # [L, r, D]
    (r".*/lora_down/b", 2),  # [L, r, D]
    (r".*/lora(_\w+)?/[ab]", None),
)


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over all devices of all hosts.

    Raises:
      ConfigError: the axes do not multiply to the number of devices.
    """
    sizes = {"data": config.data, "fsdp": config.fsdp}
    devices = jax.device_count()
    known = math.prod(size for size in sizes.values() if size != -1)
    if list(sizes.values()).count(-1) == 1 and devices % known == 0:
        sizes = {name: devices // known if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != devices:
        raise ConfigError(
            f"mesh: data={config.data} and fsdp={config.fsdp} do not make {devices} devices; set one of them to -1"
        )
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples are cut over every device."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(mesh: Mesh, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, NamedSharding]:
    """The sharding of every named parameter.

    Raises:
      ConfigError: a parameter that no rule names, or an axis that `fsdp` does not divide.
    """
    return {name: NamedSharding(mesh, _spec(name, shape.shape, mesh.shape["fsdp"])) for name, shape in shapes.items()}


def sharded_shapes(mesh: Mesh, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """The named parameters' shapes with their shardings: what a restore reads each array to. Raises ConfigError."""
    shardings = parameter_shardings(mesh, shapes)
    return {
        name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=shardings[name]) for name, shape in shapes.items()
    }


def _spec(name: str, shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    axes = [axis for pattern, axis in RULES if re.fullmatch(pattern, name)]
    if not axes:
        raise ConfigError(f"sharding: no rule names the parameter {name} {shape}; add one to RULES")
    axis = axes[0]
    if axis is None or fsdp == 1:
        return PartitionSpec()
    if shape[axis] % fsdp:
        raise ConfigError(f"mesh.fsdp: {fsdp} does not divide axis {axis} of {name} {shape}; choose a divisor")
    return PartitionSpec(*(None,) * axis, "fsdp")


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This host's share of a batch, as arrays of the global batch laid over the mesh."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
