"""Attention as both towers use it: grouped heads, float32 logits and softmax, and a hook on the weights.

`attend` is the plain form, XLA's, which runs everywhere and is what the others must equal. Those that never hold the
weights of a whole sequence are fused kernels, one for TPU (`pallas.py`) and NVIDIA's, cuDNN's. That is reached through
`jax.nn.dot_product_attention`, where the mask becomes a bias [B, 1, Q, S] in the compute type, shared by the heads.
JAX's own limits on it stand in `jax/_src/cudnn/fused_attention_stablehlo.py`; those that a configuration can meet are
`_cudnn_refusal`'s.

The compiler cannot partition a kernel, so each device is given its own share: examples over `slice`, `data` and
`fsdp`, heads over `tensor`.

Axes: B batch, Q query positions, S key positions, N heads, K key-value heads, G = N / K, H head dim.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from data_pipelines.core.errors import SettingConflict
from rllava_jax.config import AttentionKind, ModelConfig
from rllava_jax.model.attention.pallas import MASKED, flash_attention
from rllava_jax.model.layers import compute_dtype
from rllava_jax.model.partition_rules import BATCH
from rllava_jax.model.sizes import PaliGemmaConfig

# Called with the weights [B, N, Q, S] and the layer's number while tracing; returns the weights to use and whatever is
# to be collected, which comes back stacked over layers. Returning changed weights is how a relevancy method takes
# gradients with respect to them.
AttentionHook = Callable[[Array, Array], tuple[Array, Any]]

Fused = Callable[[Array, Array, Array, Array | None], Array]

_HEAD_AXIS = "tensor"
# JAX asks for even lengths under a bias; of 8, each row of a 16-bit bias also begins on 16 bytes.
_LENGTH_MULTIPLE = 8
# JAX's limits on the head dim: below Hopper, and from it on.
_WIDEST_HEAD, _WIDEST_HEAD_HOPPER, _HOPPER = 128, 256, (9, 0)


def attend(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B Q S"] | None,
    *,
    cap: float = 0.0,
    kind: AttentionKind = "xla",
    recompute: bool = False,
    hook: AttentionHook | None = None,
    layer: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "B Q N H"], Any]:
    """Grouped-query attention over an already scaled query.

    Args:
      mask: true where the key may be seen; None where every key may.
      cap: soft cap on the logits, `cap * tanh(logits / cap)` (Gemma 2); 0 is none.
      kind: which implementation; see `config.ModelConfig`. A hook and a single query position (one-token decoding)
        always take XLA's: a fused kernel has no weights to show, and one row of them is nothing to save.
      recompute: keep query, key and value for the backward pass, and not the weights. A fused kernel always does so.
      hook: see `AttentionHook`. None adds nothing to the compiled program.
      layer: handed to the hook.

    Returns:
      The attended values, and what the hook collected (None without one).
    """
    if kind != "xla" and hook is None and query.shape[1] > 1:
        key, value = key.astype(query.dtype), value.astype(query.dtype)
        kernel = flash_attention if kind == "pallas" else cudnn_attention
        return over_mesh(functools.partial(kernel, cap=cap))(query, key, value, mask), None
    if recompute:
        # With the barriers against common-subexpression elimination: where layers are apart and not scanned, nothing
        # else keeps the compiler from taking the forward pass's weights, and so from keeping them.
        again = jax.checkpoint(functools.partial(attend, cap=cap, hook=hook), prevent_cse=True)
        return again(query, key, value, mask, layer=layer)
    batch, queries, heads, dim = query.shape
    kv_heads = key.shape[2]
    key, value = key.astype(query.dtype), value.astype(query.dtype)  # a cache may be kept in a smaller type
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, dim)
    logits = jnp.einsum("BQKGH,BSKH->BKGQS", grouped, key, preferred_element_type=jnp.float32)
    if cap:
        logits = cap * jnp.tanh(logits / cap)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1)
    collected = None
    if hook is not None:
        flat = weights.reshape(batch, heads, queries, key.shape[1])
        flat, collected = hook(flat, jnp.asarray(layer))
        weights = flat.reshape(weights.shape)
    out = jnp.einsum("BKGQS,BSKH->BQKGH", weights.astype(value.dtype), value)
    return out.reshape(batch, queries, heads, dim), collected


def check_attention(
    settings: ModelConfig, size: PaliGemmaConfig, platform: str, *, compute_capability: str | None = None
) -> None:
    """Refuses a `model.attention` that the platform or the model cannot have, before anything is compiled.

    Args:
      platform: of the devices that will run: cpu, tpu, gpu or cuda; of a topology when compiling ahead of time.
      compute_capability: of an NVIDIA GPU that is present, e.g. "9.0"; None when compiling without one.

    Raises:
      ConfigError: names the setting, the platform or the limit, and the remedy.
    """
    kind = settings.attention
    platform = "gpu" if platform in ("cuda", "rocm") else platform
    home = {"xla": platform, "pallas": "tpu", "cudnn": "gpu"}[kind]
    if platform != home:
        others = {"tpu": "xla or pallas", "gpu": "xla or cudnn"}.get(platform, "xla")
        raise SettingConflict(
            f"model.attention: {kind!r} is a kernel for {home.upper()} and these devices are {platform.upper()}; "
            f"choose {others}"
        )
    if kind == "cudnn" and (reason := _cudnn_refusal(size, compute_dtype(settings), compute_capability)):
        raise SettingConflict(f"model.attention: 'cudnn' {reason}")


def _cudnn_refusal(size: PaliGemmaConfig, dtype: Any, compute_capability: str | None) -> str | None:
    """Why cuDNN cannot compute both towers of a model, with the remedy; None where it can.

    Args:
      compute_capability: of the GPU, e.g. "8.0"; None where there is none to ask. JAX asks a live GPU before it grants
        a head dim above 128, so nothing wider can be compiled without one.
    """
    if size.decoder.attention_cap:
        return (
            f"cannot cap attention logits, and the decoder (Gemma 2) caps them at {size.decoder.attention_cap:g}; "
            "choose xla, for both towers"
        )
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, and model.compute_dtype is {dtype}; set it to bfloat16, or choose xla"
    present = None if compute_capability is None else tuple(int(part) for part in compute_capability.split("."))
    widest = _WIDEST_HEAD_HOPPER if present and present >= _HOPPER else _WIDEST_HEAD
    for tower, dim in (("vision", size.vision.width // size.vision.heads), ("decoder", size.decoder.head_dim)):
        if dim % 8:
            return f"needs head dims of multiples of 8, and the {tower} tower has {dim}; choose xla"
        if dim > widest:
            where = "without a GPU present" if present is None else f"on compute capability {compute_capability}"
            return (
                f"goes to head dims of {widest} {where} ({_WIDEST_HEAD_HOPPER} from 9.0 on, Hopper), "
                f"and the {tower} tower has {dim}; choose xla"
            )
    return None


def cudnn_attention(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B Q S"] | None,
    *,
    cap: float = 0.0,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B Q N H"]:
    """Grouped-query attention over an already scaled query, on one device.

    A row that sees nothing attends to all keys equally, and to those that were added to round the length.

    Args:
      mask: true where the key may be seen; None where every key may.
      cap: must be 0.
      implementation: xla takes the same arrays through JAX's own attention: for tests.

    Raises:
      ConfigError: a cap.
    """
    if cap:
        raise SettingConflict(f"model.attention: 'cudnn' cannot cap attention logits (at {cap:g}); choose xla")
    queries = query.shape[1]
    if mask is not None:
        to_q, to_s = -queries % _LENGTH_MULTIPLE, -key.shape[1] % _LENGTH_MULTIPLE
        query = jnp.pad(query, ((0, 0), (0, to_q), (0, 0), (0, 0)))
        key, value = (jnp.pad(x, ((0, 0), (0, to_s), (0, 0), (0, 0))) for x in (key, value))
        mask = jnp.pad(mask, ((0, 0), (0, to_q), (0, to_s)))[:, None]
    out = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=1.0, implementation=implementation)
    return out[:, :queries]


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
        examples: tuple[str, ...] = ()  # the axes, in order, whose product divides the examples
        for axis in (axis for axis in BATCH if axis in mesh.shape):
            if query.shape[0] % math.prod(mesh.shape[name] for name in (*examples, axis)) == 0:
                examples = (*examples, axis)
        tensor = mesh.shape.get(_HEAD_AXIS, 1)
        heads = None
        if tensor > 1 and query.shape[2] % tensor == 0:
            heads = _HEAD_AXIS
            copies = tensor // math.gcd(tensor, key.shape[2])
            key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
        spec = PartitionSpec(examples or None, None, heads, None)
        mask_spec = None if mask is None else PartitionSpec(examples or None, None, None)
        # The kernels do not say how their outputs vary over the mesh, hence no check of it.
        share = jax.shard_map(compute, in_specs=(spec, spec, spec, mask_spec), out_specs=spec, check_vma=False)
        return share(query, key, value, mask)

    return computed
