"""What both towers are built of: a dense layer over named axes, and a stack of layers run as one scan."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from rllava_jax.config import Layers, ModelConfig, Remat
from rllava_jax.model.lora import Adapter, adapted

M = TypeVar("M", bound=nnx.Module)
K = TypeVar("K")

# Stacks of up to this size are unrolled on CPU; see `better_unrolled`.
_UNROLLED_BYTES = 2**29


def compute_dtype(settings: ModelConfig) -> Any:
    """The type of `model.compute_dtype`; auto is bfloat16 where the matrix units want it and float32 on CPU."""
    if settings.compute_dtype == "auto":
        return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
    return jnp.dtype(settings.compute_dtype)


def fan_in_normal(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> Array:
    """Truncated normal of variance 1 / fan_in. The fan is explicit: kernels of heads have two axes on one side."""
    # 0.8796…: standard deviation of a standard normal cut at ±2.
    return jax.random.truncated_normal(rngs.params(), -2, 2, shape) * (fan_in**-0.5 / 0.87962566103423978)


def over_tokens(equation: str, x: Array, weight: Array, *, axes: int = 2) -> Array:
    """An einsum whose first letter stands for x's first `axes` axes (batch and position) merged into one.

    Over one merged axis the gradient of a weight is one plain matrix product. Over two, XLA's CPU backend takes another
    path: 57 ms against 37 ms for the gradient of a feed-forward block (32 x 120 tokens, width 128, two cores).
    """
    flat = x.reshape(-1, *x.shape[axes:])
    out = jnp.einsum(equation, flat, weight.astype(x.dtype))
    return out.reshape(*x.shape[:axes], *out.shape[1:])


class Dense(nnx.Module):
    """`x · kernel + bias`, contracting the trailing `inputs` axes of x into `outputs` axes."""

    def __init__(self, inputs: tuple[int, ...], outputs: tuple[int, ...], rngs: nnx.Rngs):
        self.fan_in, self.outputs = math.prod(inputs), outputs
        self.kernel = nnx.Param(fan_in_normal(rngs, (*inputs, *outputs), math.prod(inputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.lora: Adapter | None = None

    def __call__(self, x: Array) -> Array:
        # One matrix product over all leading axes; see `over_tokens`.
        lead = x.shape[: x.ndim + len(self.outputs) - self.kernel.ndim]
        kernel = self.kernel[...].astype(x.dtype).reshape(self.fan_in, -1)
        out = (x.reshape(-1, self.fan_in) @ kernel).reshape(*lead, *self.outputs)
        return adapted(out + self.bias[...].astype(x.dtype), self.lora, x)


def stack_layers(make: Callable[[nnx.Rngs], M], depth: int, rngs: nnx.Rngs) -> M:
    """One module whose parameters carry a leading layer axis, each layer drawn from its own key."""
    return nnx.split_rngs(splits=depth)(nnx.vmap(make, in_axes=(0,), out_axes=0))(rngs)


def scan_layers(
    layers: M,
    apply: Callable[[M, Array, Array, Any, K], tuple[Array, Any]],
    x: Array,
    *,
    kinds: Sequence[K],
    per_layer: Any = None,
    remat: Remat = "none",
    form: Layers = "scanned",
) -> tuple[Array, Any]:
    """Runs a stack, as a scan or one layer after the other.

    Layers of several kinds are scanned by groups. Eight layers of kinds (local, local, global) are a scan over two
    groups of three, each written out, and two more layers, local and local, after it:

        [0 l  1 l  2 g] [3 l  4 l  5 g]  6 l  7 l

    Args:
      layers: from `stack_layers`.
      apply: `(layer module, x, layer number, per_layer slice, kind) → (x, collected)`.
      kinds: the repeating pattern; layer i is of kind `kinds[i % len(kinds)]`, which is known while tracing.
      per_layer: a pytree with a leading layer axis (a KV cache, say), or None.
      remat: "full" recomputes each layer in the backward pass, "dots" all of it but its projections' outputs. The
        other policies change nothing here ("attention" is a matter of `attention.attend`).
      form: `config.ModelConfig.layers`. A scan's compile time and program do not grow with depth. "auto" scans wherever
        something is recomputed: written out, nothing keeps XLA from recomputing all layers at once.

    Returns:
      x after the last layer, and what was collected, stacked over layers.
    """
    graphdef, params = nnx.split(layers)
    depth = jax.tree.leaves(params)[0].shape[0]
    unrolled = remat == "none" and better_unrolled(params) if form == "auto" else form == "unrolled"

    def body(carry: Array, xs: tuple[Any, Array, Any], kind: K) -> tuple[Array, Any]:
        layer_params, number, extra = xs
        return apply(nnx.merge(graphdef, layer_params), carry, number, extra, kind)

    bodies: list[Any] = [functools.partial(body, kind=kind) for kind in kinds]
    if remat in ("full", "dots"):
        # Projections run over one merged token axis (`over_tokens`), so they are the dots without batch dimensions.
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        # A scan already keeps the layers' work apart, so the barriers against common-subexpression elimination would
        # only cost.
        bodies = [jax.checkpoint(body, prevent_cse=unrolled, policy=policy) for body in bodies]

    def in_order(x: Array, stack: Any, first: Array | int) -> tuple[Array, Any]:
        """Layers `first`, `first` + 1 … one after the other; `first` is a multiple of the pattern's length."""
        collected = []
        for place, (layer_params, extra) in enumerate(unstacked(stack)):
            x, new = bodies[place % len(bodies)](x, (layer_params, jnp.asarray(first + place), extra))
            collected.append(new)
        return x, jax.tree.map(lambda *parts: jnp.stack(parts), *collected)

    if unrolled:
        return in_order(x, (params, per_layer), 0)
    if len(bodies) == 1:
        return jax.lax.scan(bodies[0], x, (params, jnp.arange(depth), per_layer))
    period = len(bodies)
    scanned = depth // period * period

    def grouped(leaf: Array) -> Array:
        return leaf[:scanned].reshape(scanned // period, period, *leaf.shape[1:])

    stack = (params, per_layer)
    groups = (jax.tree.map(grouped, stack), jnp.arange(0, scanned, period))
    x, collected = jax.lax.scan(lambda carry, xs: in_order(carry, *xs), x, groups)
    collected = jax.tree.map(lambda leaf: leaf.reshape(scanned, *leaf.shape[2:]), collected)
    if scanned == depth:
        return x, collected
    x, last = in_order(x, jax.tree.map(lambda leaf: leaf[scanned:], stack), scanned)
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), collected, last)


def better_unrolled(params: Any) -> bool:
    """Whether a stack of layers is better run without a scan: on CPU, where it is small.

    There a scan copies each layer's weights out of their stack and its activations into theirs, which it first fills
    with zeros; memory that is fresh in every step costs as much again in page faults (docs/PERFORMANCE.md).
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return jax.default_backend() == "cpu" and size <= _UNROLLED_BYTES


def unstacked(stack: Any) -> list[Any]:
    """A pytree of stacked arrays as one pytree a layer.

    Split at once, so that the gradient of a stack is one concatenation, and not a sum of padded parts.
    """
    leaves, tree = jax.tree.flatten(stack)
    return [jax.tree.unflatten(tree, parts) for parts in zip(*map(jnp.unstack, leaves), strict=True)]
