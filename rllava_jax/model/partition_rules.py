"""How every parameter and activation is sharded over the mesh: rules as data, and what reads them inside the model.

The mesh has the axes `slice` (groups of devices with a slow network between them), `data` (copies of the model), `fsdp`
(each parameter is sharded, and gathered where it is used; ZeRO 3) and `tensor` (heads, feed-forward and vocabulary are
sharded, and computed without gathering). Examples are sharded over all but `tensor`. The axes are compiler-driven: the
rules say where arrays live, XLA adds the collectives.

A parameter's rule stands in the file that defines the parameter, which calls `register_rules` once at its top level:

    register_rules("roi/toy", {r".*/kernel": (None, "fsdp"), r".*/bias": ()})

Nothing else needs to know: optimiser state, checkpoints, planning and restoring ask by name. A parameter without a
rule, and a rule without a parameter in a model that has its owner, are errors (`check_rules`). Adapters need no rule:
their axes are those of the projection beside which they stand, and their rank is never sharded.

Axes: D decoder width, V vocabulary, B batch, S sequence, N heads, H head dim, F mlp, W vision width, P patches,
M positions of a chunk.
"""

import re
from collections.abc import Mapping

import jax
from jax.sharding import PartitionSpec

from data_pipelines.core.errors import ConfigError, MeshMismatch
from rllava_jax.model.lora import TARGETS, is_adapter

MESH_AXES = ("slice", "data", "fsdp", "tensor")
BATCH = ("slice", "data", "fsdp")

# Sharded over `tensor` where that divides it, and else replicated on purpose: Gemma 2B has one key-value head for all
# its query heads, and every device of `tensor` needs it.
TENSOR_OR_WHOLE = "tensor or whole"

# The mesh axis that shards each axis of a parameter; () keeps a whole copy everywhere (vectors, where gathering would
# cost more than it saves).
Axes = tuple[str | None, ...]
# By owner: patterns for the rest of a name, in order.
RULES: dict[str, Mapping[str, Axes]] = {}


def register_rules(owner: str, rules: Mapping[str, Axes]) -> None:
    """Declares how the parameters under `owner/` are sharded.

    Args:
      owner: what their names begin with: `llm`, `roi/toy`, `heads/contrastive`. The longest owner of a name decides.
      rules: a regular expression for the whole rest of the name → the axes. The first that matches holds.

    Raises:
      ValueError: the owner has declared other rules already.
    """
    if RULES.setdefault(owner, rules) != rules:
        raise ValueError(f"register_rules: {owner} already has other rules")


# The same for the activations whose place is not left to the compiler.
ACTIVATIONS: dict[str, tuple[str | tuple[str, ...] | None, ...]] = {
    "rows": (("slice", "data"), None, "fsdp"),  # [B, S, D]: of the token embedding, as they lie there
    "states": (BATCH, None, None),  # [B, S, D] or [B, P, W], between layers
    "heads": (BATCH, None, "tensor", None),  # [B, S, N, H]
    "hidden": (BATCH, None, "tensor"),  # [B, S, F]
    "logits": (BATCH, None, "tensor"),  # [B, M, V]
    "output": ("tensor", None),  # [V, D]: the token embedding as the output layer's weight
    "table": ("tensor", "fsdp"),  # [V, D]: its gradient, while it is summed
}


def constrain(x: jax.Array, name: str) -> jax.Array:
    """Pins an activation to its row of `ACTIVATIONS`; the identity where no mesh is in scope."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(MESH_AXES) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*ACTIVATIONS[name]))


def parameter_spec(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """How a parameter is sharded on a mesh whose axes have the given sizes.

    Raises:
      ConfigError: no rule names it, or a mesh axis does not divide the axis that it is to shard.
    """
    axes = _axes(name, len(shape))
    spec: list[str | None] = []
    for size, axis in zip(shape, axes, strict=False):
        if axis == TENSOR_OR_WHOLE:
            axis = "tensor" if size % sizes["tensor"] == 0 else None
        if axis and size % sizes[axis]:
            raise MeshMismatch(
                f"mesh.{axis}: {sizes[axis]} does not divide axis {len(spec)} of {name} {shape}; "
                f"choose a divisor of {size}"
            )
        spec.append(axis if axis and sizes[axis] > 1 else None)
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def held_whole(name: str, shape: tuple[int, ...], tensor: int) -> bool:
    """Whether a parameter has an axis that `tensor` would shard if it could, and that is replicated instead."""
    axes = _axes(name, len(shape))
    return any(axis == TENSOR_OR_WHOLE and size % tensor for size, axis in zip(shape, axes, strict=False))


def check_rules(names: Mapping[str, object]) -> None:
    """Every parameter has a rule, and every rule of an owner that the model has holds for some parameter.

    Args:
      names: all parameters of a model.

    Raises:
      ConfigError: listing the parameters without a rule and the rules without a parameter.
    """
    found = {name: _rule(name) for name in names if not is_adapter(name)}
    bare = sorted(name for name, rule in found.items() if rule is None)
    owners = {rule[0] for rule in found.values() if rule is not None}
    idle = [f"{owner}/{rule}" for owner in owners for rule in RULES[owner] if (owner, rule) not in found.values()]
    wrong = [f"no rule names the parameters {', '.join(bare)}"] if bare else []
    wrong += [f"rules that name no parameter of this model: {', '.join(sorted(idle))}"] if idle else []
    if wrong:
        raise _mismatch(f"{'; '.join(wrong)}; fix register_rules")


def _mismatch(said: str) -> ConfigError:
    return ConfigError(f"sharding: {said}", code="mesh.partition-rules")


def _rule(name: str) -> tuple[str, str] | None:
    """The owner and pattern that hold for a parameter."""
    owner = max((owner for owner in RULES if name.startswith(f"{owner}/")), key=len, default="")
    patterns = RULES.get(owner, {})
    return next(((owner, p) for p in patterns if re.fullmatch(p, name.removeprefix(f"{owner}/"))), None)


def _axes(name: str, rank: int) -> Axes:
    if is_adapter(name):
        return _adapter_axes(name)
    rule = _rule(name)
    if rule is None:
        raise _mismatch(f"no rule names the parameter {name}, of {rank} axes; add one with register_rules")
    axes = RULES[rule[0]][rule[1]]
    if axes and len(axes) != rank:
        raise _mismatch(f"the rule {'/'.join(rule)} has {len(axes)} axes, but {name} has {rank}; fix it")
    return axes


def _adapter_axes(name: str) -> tuple[str | None, ...]:
    """An adapter's factors are sharded along the axes that they share with their projection."""
    adapter, _, half = name.rpartition("/")
    site = next((site for site in TARGETS.values() if site.adapter == adapter), None)
    if site is None or half not in ("a", "b"):
        raise _mismatch(f"no target of LoRA has the parameter {name}; add it to lora.TARGETS")
    a, b, projection = site.equation.replace("->", ",").split(",")
    owner, pattern = _rule(site.base) or ("", "")
    sharded: dict[str, str | None] = dict(zip(projection, RULES[owner][pattern][-len(projection) :], strict=True))
    letters = a if half == "a" else b
    return (*((None,) if site.stacked else ()), *(sharded.get(letter) for letter in letters))
