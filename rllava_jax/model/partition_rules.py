"""How every parameter and activation is cut over the mesh: two tables, and what reads them inside the model.

The mesh has the axes `slice` (groups of devices with a slow network between them), `data` (copies of the model), `fsdp`
(each parameter is cut, and gathered where it is used; ZeRO 3) and `tensor` (heads, feed-forward and vocabulary are cut,
and computed apart). Examples are cut over all but `tensor`. The axes are compiler-driven: the tables say where arrays
live, XLA adds the collectives.

Axes: L layers, W vision width, D decoder width, N heads, K kv heads, H head dim, F mlp, V vocabulary, P patches, p side
of a patch, C geometry features, B batch, S sequence, M positions of a chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
from jax.sharding import PartitionSpec

from data_pipelines.core.errors import ConfigError
from rllava_jax.model.lora import TARGETS, is_adapter

MESH_AXES = ("slice", "data", "fsdp", "tensor")
BATCH = ("slice", "data", "fsdp")

# Cut over `tensor` where that divides it, and else held whole on purpose: Gemma 2B has one key-value head for all its
# query heads, and every device of `tensor` needs it.
TENSOR_OR_WHOLE = "tensor or whole"

# The mesh axis that cuts each axis of a parameter; () keeps a whole copy everywhere (vectors, where gathering would
# cost more than it saves). The first pattern that matches the whole name holds. Adapters need no rule: their axes are
# those of the projection beside which they stand, and their rank is never cut.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(img|roi)/.*bias", ()),
    (r"(img|llm)/.*scale", ()),
    (r"img/embedding/kernel", (None, None, None, "fsdp")),  # [p, p, 3, W]
    (r"img/pos_embedding", (None, None, "fsdp")),  # [1, P, W]
    (r"img/.*/(query|key|value)/kernel", (None, "fsdp", "tensor", None)),  # [L, W, N, H]
    (r"img/.*/out/kernel", (None, "tensor", None, "fsdp")),  # [L, N, H, W]
    (r"img/.*/Dense_0/kernel", (None, "fsdp", "tensor")),  # [L, W, F]
    (r"img/.*/Dense_1/kernel", (None, "tensor", "fsdp")),  # [L, F, W]
    (r"img/head/kernel", ("fsdp", None)),  # [W, D]
    (r"llm/embedder/input_embedding", ("tensor", "fsdp")),  # [V, D]
    (r"llm/layers/attn/q_einsum/w", (None, "tensor", "fsdp", None)),  # [L, N, D, H]
    (r"llm/layers/attn/kv_einsum/w", (None, None, TENSOR_OR_WHOLE, "fsdp", None)),  # [L, 2, K, D, H]
    (r"llm/layers/attn/attn_vec_einsum/w", (None, "tensor", None, "fsdp")),  # [L, N, H, D]
    (r"llm/layers/mlp/gating_einsum", (None, None, "fsdp", "tensor")),  # [L, 2, D, F]
    (r"llm/layers/mlp/linear", (None, "tensor", "fsdp")),  # [L, F, D]
    (r"roi/geometry/kernel", (None, "fsdp")),  # [C, W]
    (r"roi/(token_embedding|inside)", ()),
)

# The same for the activations whose place is not left to the compiler.
ACTIVATIONS: dict[str, tuple[str | tuple[str, ...] | None, ...]] = {
    "rows": (("slice", "data"), None, "fsdp"),  # [B, S, D]: of the token table, as they lie there
    "states": (BATCH, None, None),  # [B, S, D] or [B, P, W], between layers
    "heads": (BATCH, None, "tensor", None),  # [B, S, N, H]
    "hidden": (BATCH, None, "tensor"),  # [B, S, F]
    "logits": (BATCH, None, "tensor"),  # [B, M, V]
    "output": ("tensor", None),  # [V, D]: the token table as the output layer's weight
    "table": ("tensor", "fsdp"),  # [V, D]: its gradient, while it is summed
}


def constrain(x: jax.Array, name: str) -> jax.Array:
    """Pins an activation to its row of `ACTIVATIONS`; the identity where no mesh is in scope."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(MESH_AXES) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*ACTIVATIONS[name]))


def parameter_spec(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """Where a parameter is cut on a mesh whose axes have the given sizes.

    Raises:
      ConfigError: no rule names it, or a mesh axis does not divide the axis that it is to cut.
    """
    axes = _axes(name, len(shape))
    spec: list[str | None] = []
    for size, axis in zip(shape, axes, strict=False):
        if axis == TENSOR_OR_WHOLE:
            axis = "tensor" if size % sizes["tensor"] == 0 else None
        if axis is None or sizes[axis] == 1:
            spec.append(None)
        elif size % sizes[axis]:
            raise ConfigError(
                f"mesh.{axis}: {sizes[axis]} does not divide axis {len(spec)} of {name} {shape}; "
                f"choose a divisor of {size}"
            )
        else:
            spec.append(axis)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def held_whole(name: str, shape: tuple[int, ...], tensor: int) -> bool:
    """Whether a parameter has an axis that `tensor` would cut if it could, and that is held whole instead."""
    axes = _axes(name, len(shape))
    return any(axis == TENSOR_OR_WHOLE and size % tensor for size, axis in zip(shape, axes, strict=False))


def check_rules(names: Mapping[str, object]) -> None:
    """Every rule for a part that the model has must be the one that holds for some parameter of it.

    Args:
      names: all parameters of a model.

    Raises:
      ConfigError: listing the rules that name nothing.
    """
    parts = {name.split("/")[0] for name in names}
    used = {_rule(name) for name in names if not is_adapter(name)}
    idle = [pattern for pattern, _ in PARAMETERS if pattern not in used and _parts(pattern) & parts]
    if idle:
        raise ConfigError(f"sharding: rules that name no parameter of this model: {', '.join(idle)}; mend PARAMETERS")


def _parts(pattern: str) -> set[str]:
    return set(re.findall(r"\w+", pattern.split("/")[0]))


def _rule(name: str) -> str | None:
    return next((pattern for pattern, _ in PARAMETERS if re.fullmatch(pattern, name)), None)


def _axes(name: str, rank: int) -> tuple[str | None, ...]:
    if is_adapter(name):
        return _adapter_axes(name)
    pattern = _rule(name)
    if pattern is None:
        raise ConfigError(f"sharding: no rule names the parameter {name}, of {rank} axes; add one to PARAMETERS")
    axes = dict(PARAMETERS)[pattern]
    if axes and len(axes) != rank:
        raise ConfigError(
            f"sharding: the rule {pattern} has {len(axes)} axes, but {name} has {rank}; mend it in PARAMETERS"
        )
    return axes


def _adapter_axes(name: str) -> tuple[str | None, ...]:
    """An adapter's factors are cut along the axes that they share with their projection."""
    adapter, _, half = name.rpartition("/")
    site = next((site for site in TARGETS.values() if site.adapter == adapter), None)
    if site is None or half not in ("a", "b"):
        raise ConfigError(f"sharding: no target of LoRA has the parameter {name}; add it to lora.TARGETS")
    a, b, projection = site.equation.replace("->", ",").split(",")
    base = dict(PARAMETERS)[_rule(site.base) or ""]
    cut: dict[str, str | None] = dict(zip(projection, base[-len(projection) :], strict=True))
    letters = a if half == "a" else b
    return (*((None,) if site.stacked else ()), *(cut.get(letter) for letter in letters))
