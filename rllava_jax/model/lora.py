"""Low-rank adapters (arXiv 2106.09685): beside a projection `x W` stands `alpha / rank · (x A) B`.

`TARGETS` says, as data, which projections there are; making adapters, merging them and writing them for other libraries
all read it. Parameters are named after the projection (`llm/layers/attn/q_einsum/lora/a`), stacked layers first.

Axes: D decoder width, W vision width, N heads, K kv heads, H head dim, F mlp, r rank.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from rllava_jax.config import LoraConfig, LoraTarget


@dataclass(frozen=True)
class LoraSite:
    """Where one target's adapter stands.

    Attributes:
      base: the parameter that holds the projection.
      adapter: what `/a` and `/b` are appended to.
      equation: makes the projection of a and b, for one layer. All axes of a but r are contracted with x, so the
        output projection has one r for all heads together, as PEFT's o_proj has; one per head could not be merged.
      index: which part of the base array (after the layer axis) the projection is; None is all of it.
      stacked: whether base, a and b lead with a layer axis.
    """

    base: str
    adapter: str
    equation: str
    index: int | None = None
    stacked: bool = True


_ATTENTION, _MLP, _VISION = "llm/layers/attn", "llm/layers/mlp", "img/Transformer/encoderblock"
_VISION_ATTENTION, _VISION_MLP = f"{_VISION}/MultiHeadDotProductAttention_0", f"{_VISION}/MlpBlock_0"

TARGETS: dict[LoraTarget, LoraSite] = {
    "q": LoraSite(f"{_ATTENTION}/q_einsum/w", f"{_ATTENTION}/q_einsum/lora", "Dr,rNH->NDH"),
    "k": LoraSite(f"{_ATTENTION}/kv_einsum/w", f"{_ATTENTION}/kv_einsum/lora_k", "Dr,rKH->KDH", index=0),
    "v": LoraSite(f"{_ATTENTION}/kv_einsum/w", f"{_ATTENTION}/kv_einsum/lora_v", "Dr,rKH->KDH", index=1),
    "o": LoraSite(f"{_ATTENTION}/attn_vec_einsum/w", f"{_ATTENTION}/attn_vec_einsum/lora", "NHr,rD->NHD"),
    "gate": LoraSite(f"{_MLP}/gating_einsum", f"{_MLP}/lora_gate", "Dr,rF->DF", index=0),
    "up": LoraSite(f"{_MLP}/gating_einsum", f"{_MLP}/lora_up", "Dr,rF->DF", index=1),
    "down": LoraSite(f"{_MLP}/linear", f"{_MLP}/lora_down", "Fr,rD->FD"),
    "vision.q": LoraSite(f"{_VISION_ATTENTION}/query/kernel", f"{_VISION_ATTENTION}/query/lora", "Wr,rNH->WNH"),
    "vision.k": LoraSite(f"{_VISION_ATTENTION}/key/kernel", f"{_VISION_ATTENTION}/key/lora", "Wr,rNH->WNH"),
    "vision.v": LoraSite(f"{_VISION_ATTENTION}/value/kernel", f"{_VISION_ATTENTION}/value/lora", "Wr,rNH->WNH"),
    "vision.o": LoraSite(f"{_VISION_ATTENTION}/out/kernel", f"{_VISION_ATTENTION}/out/lora", "NHr,rW->NHW"),
    "vision.fc1": LoraSite(f"{_VISION_MLP}/Dense_0/kernel", f"{_VISION_MLP}/Dense_0/lora", "Wr,rF->WF"),
    "vision.fc2": LoraSite(f"{_VISION_MLP}/Dense_1/kernel", f"{_VISION_MLP}/Dense_1/lora", "Fr,rW->FW"),
    "head": LoraSite("img/head/kernel", "img/head/lora", "Wr,rD->WD", stacked=False),
}


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return "/lora" in name


class Adapter(nnx.Module):
    """`alpha / rank · (x A) B`, contracting the trailing axes of x that A has beside the rank."""

    def __init__(self, site: LoraSite, base: tuple[int, ...], config: LoraConfig, key: Array):
        """Takes its shapes from those of the site's base array. B is zero: at step 0 the model is the base model."""
        self.scale = config.alpha / config.rank
        a, b, projection = site.equation.replace("->", ",").split(",")
        size = dict(zip(projection, base[-len(projection) :], strict=True))
        layers = base[:1] if site.stacked else ()
        inputs, outputs = [size[axis] for axis in a[:-1]], [size[axis] for axis in b[1:]]
        # PEFT's kaiming_uniform(a=√5), over everything that is contracted.
        bound = math.prod(inputs) ** -0.5
        self.a = nnx.Param(jax.random.uniform(key, (*layers, *inputs, config.rank), minval=-bound, maxval=bound))
        self.b = nnx.Param(jnp.zeros((*layers, config.rank, *outputs)))

    def __call__(self, x: Array) -> Array:
        *inputs, rank = self.a.shape  # a layer's: the scan over layers has taken the leading axis off
        # The scale enters in float32, before the factor is rounded to the compute type, so that a model in bfloat16
        # and its merged weights are scaled by the same number.
        b = (self.b[...].astype(jnp.float32) * self.scale).astype(x.dtype)
        # One matrix product over all leading axes; see `layers.over_tokens`.
        low = x.reshape(-1, math.prod(inputs)) @ self.a[...].astype(x.dtype).reshape(-1, rank)
        return (low @ b.reshape(rank, -1)).reshape(*x.shape[: x.ndim - len(inputs)], *b.shape[1:])


def adapted(out: Array, adapter: Adapter | None, x: Array) -> Array:
    """A projection's output with what its adapter adds, if it has one."""
    return out if adapter is None else out + adapter(x)


def attach(model: nnx.Module, config: LoraConfig, rngs: nnx.Rngs) -> None:
    """Puts an adapter beside every targeted projection of a whole PaliGemma.

    Called last of all, on a finished model: the base then draws the same random numbers with LoRA as without, whatever
    streams `rngs` has. Each target has its own key, so its A does not depend on which others are targeted.
    """
    key = rngs.params()
    for number, (target, site) in enumerate(TARGETS.items()):
        if target in config.targets:
            base: Any = functools.reduce(getattr, site.base.split("/"), model)
            *path, name = site.adapter.split("/")
            adapter = Adapter(site, base.shape, config, jax.random.fold_in(key, number))
            # The attribute was None, which nnx took for static.
            setattr(functools.reduce(getattr, path, model), name, nnx.data(adapter))


def delta(target: LoraTarget, a: Any, b: Any, scale: float) -> Any:
    """What an adapter adds to its projection's weights, `scale · A B`, in float32.

    Args:
      a, b: of all layers or of one, both numpy's or both JAX's; so is the result.
      scale: alpha / rank.

    Returns:
      Shaped as the base array, or as its part `index` where the site has one.
    """
    left, right = TARGETS[target].equation.split(",")
    equation = f"...{left},...{right.replace('->', '->...')}"
    if isinstance(a, np.ndarray):
        return np.einsum(equation, a.astype(np.float32) * np.float32(scale), b.astype(np.float32), optimize=True)
    a, b = a.astype(jnp.float32) * scale, b.astype(jnp.float32)
    # Accelerators multiply float32 matrices in fewer bits unless asked.
    return jnp.einsum(equation, a, b, precision=jax.lax.Precision.HIGHEST)


def merged(params: Mapping[str, Any], config: LoraConfig) -> dict[str, Any]:
    """The parameters of the same model without adapters: each adapter is added to its base array.

    Sums are taken in float32 and returned in the base array's type. Arrays may be numpy's or JAX's.

    Raises:
      ValueError: an adapter without its base array or its other half, that no target names, that the configuration does
        not target or of another rank; or a target without its adapter.
    """
    _check(params, config)
    out = {name: value for name, value in params.items() if not is_adapter(name)}
    scale = config.alpha / config.rank if config.rank else 0.0
    for target, site in TARGETS.items():
        if f"{site.adapter}/a" in params:
            pair = params[f"{site.adapter}/a"], params[f"{site.adapter}/b"]
            add = _add_numpy if isinstance(out[site.base], np.ndarray) else _add_jax
            out[site.base] = add(out[site.base], target, *pair, scale)
    return out


def _check(params: Mapping[str, Any], config: LoraConfig) -> None:
    sites = [TARGETS[target] for target in config.targets] if config.rank else []
    expected = {f"{site.adapter}/{half}" for site in sites for half in "ab"}
    given = {name for name in params if is_adapter(name)}
    wrong = [f"{name} is no adapter that the configuration targets" for name in sorted(given - expected)]
    wrong += [f"{name} is missing" for name in sorted(expected - given)]
    for site in sites:
        if site.base not in params:
            wrong.append(f"{site.adapter} has no base {site.base}")
        a, b = (params.get(f"{site.adapter}/{half}") for half in "ab")
        if a is not None and b is not None:
            ranks = a.shape[-1], b.shape[1 if site.stacked else 0]
            if ranks != (config.rank, config.rank):
                wrong.append(f"{site.adapter} has rank {ranks[0]} in a and {ranks[1]} in b, not {config.rank}")
    if wrong:
        raise ValueError(f"lora: {'; '.join(wrong)}")


def _add_numpy(base: np.ndarray, target: LoraTarget, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    site, out = TARGETS[target], base.copy()
    # Layer by layer: a float32 copy of all layers of a feed-forward block of the 3B model is 2.4 GB, and numpy's
    # einsum with a batch axis uses no matrix product.
    for layer in range(len(base)) if site.stacked else (...,):
        part = out[layer] if site.index is None else out[layer][site.index]
        part[...] = (part.astype(np.float32) + delta(target, a[layer], b[layer], scale)).astype(base.dtype)
    return out


def _add_jax(base: Array, target: LoraTarget, a: Array, b: Array, scale: float) -> Array:
    index = TARGETS[target].index
    part = base if index is None else base[:, index]
    part = (part.astype(jnp.float32) + delta(target, jnp.asarray(a), jnp.asarray(b), scale)).astype(base.dtype)
    return part if index is None else base.at[:, index].set(part)
