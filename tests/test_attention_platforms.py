"""Which attention a platform and a model can have; and what is handed to the compilers of hardware that is not here."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import assert_close
from jax._src.cudnn import fused_attention_stablehlo as cudnn_of_jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from rllava_jax.config import ConfigError, ModelConfig
from rllava_jax.model.attention.attend import attend, check_attention, cudnn_attention
from rllava_jax.model.attention.pallas import flash_attention
from rllava_jax.model.sizes import SIZES

GEMMA1, GEMMA2 = SIZES["paligemma-3b-448"], SIZES["paligemma2-3b-448"]


def check(kind, size, platform, compute_dtype="bfloat16", **options):
    check_attention(ModelConfig(attention=kind, compute_dtype=compute_dtype), size, platform, **options)


@pytest.mark.parametrize(
    ("kind", "size", "platform", "options"),
    [
        ("xla", GEMMA2, "cpu", {}),
        ("pallas", GEMMA2, "tpu", {}),
        ("pallas", GEMMA1, "tpu", {"compute_dtype": "float32"}),
        ("cudnn", GEMMA1, "gpu", {"compute_capability": "9.0"}),
        ("cudnn", GEMMA1, "cuda", {"compute_capability": "10.0"}),
        ("cudnn", SIZES["tiny"], "gpu", {}),
    ],
)
def test_what_a_platform_has_is_accepted(kind, size, platform, options):
    check(kind, size, platform, **options)


@pytest.mark.parametrize(
    ("kind", "size", "platform", "options", "message"),
    [
        ("pallas", GEMMA1, "cpu", {}, r"model.attention: 'pallas' is a kernel for TPU.*are CPU; choose xla$"),
        ("pallas", GEMMA1, "cuda", {}, r"'pallas' is a kernel for TPU.*are GPU; choose xla or cudnn$"),
        ("cudnn", GEMMA1, "tpu", {}, r"'cudnn' is a kernel for GPU.*are TPU; choose xla or pallas$"),
        ("cudnn", GEMMA2, "gpu", {"compute_capability": "9.0"}, r"Gemma 2.*caps them at 50; choose xla, for both"),
        ("cudnn", GEMMA1, "gpu", {"compute_capability": "8.0"}, r"head dims of 128 on compute.*8.0.*decoder.*256"),
        ("cudnn", GEMMA1, "gpu", {}, r"head dims of 128 without a GPU present.*decoder.*256; choose xla$"),
        (
            *("cudnn", GEMMA1, "gpu", {"compute_capability": "9.0", "compute_dtype": "float32"}),
            r"model.compute_dtype is float32; set it to bfloat16, or choose xla",
        ),
        (
            "cudnn",
            dataclasses.replace(SIZES["tiny"], vision=dataclasses.replace(SIZES["tiny"].vision, width=88, heads=8)),
            *("gpu", {}, r"multiples of 8, and the vision tower has 11; choose xla"),
        ),
    ],
)
def test_what_a_platform_or_a_model_cannot_have_is_refused_with_the_remedy(kind, size, platform, options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        check(kind, size, platform, **options)
    assert "\n" not in str(refused.value)


def test_cudnn_with_a_cap_is_refused_where_it_is_called_too():
    x = jnp.zeros((1, 4, 2, 8), jnp.bfloat16)
    with pytest.raises(ConfigError, match="cannot cap"):
        attend(x, x, x, None, cap=50.0, kind="cudnn")


def some_arrays(length, dtype, heads=4, kv_heads=1, dim=64):
    draw = np.random.default_rng(0)
    q, k, v, g = (jnp.asarray(draw.normal(size=(2, length, n, dim)), dtype) for n in (heads, kv_heads, kv_heads, heads))
    mask = draw.random((2, length, length)) < 0.6
    mask[:, :, 0] = True
    return q * dim**-0.5, k, v, g, jnp.asarray(mask)


@pytest.mark.parametrize("masked", [True, False])
def test_what_cudnn_is_given_has_xlas_result(masked):
    """The rounded length and the mask, through JAX's own attention in cuDNN's place."""
    q, k, v, g, mask = some_arrays(13, jnp.float32)
    mask = mask if masked else None

    def gradients(attention):
        def run(q, k, v, g):
            out, vjp = jax.vjp(attention, q, k, v)
            return out, *vjp(g)

        return jax.jit(run)(q, k, v, g)

    ours = gradients(lambda q, k, v: cudnn_attention(q, k, v, mask, implementation="xla"))
    for actual, expected in zip(ours, gradients(lambda q, k, v: attend(q, k, v, mask)[0]), strict=True):
        assert_close(actual, expected, 3e-6)


@pytest.fixture
def hopper(monkeypatch):
    """JAX's checks as they would be beside an H100 with cuDNN 9.10."""
    monkeypatch.setattr(cudnn_of_jax, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn_of_jax, "check_compute_capability", lambda capability: float(capability) <= 9.0)


@pytest.mark.usefixtures("hopper")
def test_a_training_step_reaches_cudnn_with_one_bias_for_all_heads():
    q, k, v, g, mask = some_arrays(13, jnp.bfloat16, dim=256)

    def run(q, k, v, g, mask):
        out, vjp = jax.vjp(lambda *x: attend(*x, mask, kind="cudnn")[0], q, k, v)
        return out, vjp(g)

    program = jax.jit(run).trace(q, k, v, g, mask).lower(lowering_platforms=("cuda",)).as_text()
    calls = set(re.findall(r"__cudnn\$\w+", program))
    assert calls == {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
    assert "tensor<2x1x16x16xbf16>" in program
    assert "tensor<2x4x16x16x" not in program


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "dim", "masked", "cap", "dtype"),
    [
        (336, 8, 1, 256, True, 0.0, jnp.bfloat16),
        (1104, 8, 4, 256, True, 50.0, jnp.bfloat16),
        (1024, 16, 16, 72, False, 0.0, jnp.bfloat16),
        (64, 4, 2, 16, True, 50.0, jnp.float32),
    ],
)
def test_both_passes_lower_to_mosaic_for_tpu(length, heads, kv_heads, dim, masked, cap, dtype):
    device = AbstractDevice("TPU v5 lite", 1, "tpu")
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    q, kv = (jax.ShapeDtypeStruct((1, length, n, dim), dtype) for n in (heads, kv_heads))
    mask = jax.ShapeDtypeStruct((1, length, length), jnp.bool_) if masked else None

    def run(q, k, v, g, mask):
        out, vjp = jax.vjp(lambda *x: flash_attention(*x, mask, cap=cap), q, k, v)
        return out, vjp(g)

    with use_abstract_mesh(mesh):
        program = jax.jit(run).trace(q, kv, kv, q, mask).lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("@tpu_custom_call") == 3
