"""NVIDIA's fused attention, cuDNN's, through `jax.nn.dot_product_attention`; and what it cannot do.

The mask becomes a bias [B, 1, Q, S] in the compute type, shared by the heads. JAX's own limits stand in
`jax/_src/cudnn/fused_attention_stablehlo.py`; those that a configuration can meet are `refusal`'s.

Axes: see `attend.py`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from data_pipelines.core.errors import SettingConflict
from rllava_jax.model.sizes import PaliGemmaConfig

# JAX asks for even lengths under a bias; of 8, each row of a 16-bit bias also begins on 16 bytes.
_LENGTH_MULTIPLE = 8
# JAX's limits on the head dim: below Hopper, and from it on.
_WIDEST_HEAD, _WIDEST_HEAD_HOPPER, _HOPPER = 128, 256, (9, 0)


def refusal(size: PaliGemmaConfig, compute_dtype: Any, compute_capability: str | None) -> str | None:
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
    if compute_dtype not in (jnp.bfloat16, jnp.float16):
        return (
            f"computes in bfloat16 or float16, and model.compute_dtype is {compute_dtype}; "
            "set it to bfloat16, or choose xla"
        )
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
