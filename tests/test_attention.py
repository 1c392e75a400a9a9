"""The fused kernels against XLA's attention, and against attention that others wrote.

The TPU kernel runs here in Pallas's interpreter: the same program, as ordinary operations. Blocks are made small so
that a few hundred positions already make several.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from golden_model import CONFIG, GOLDEN, assert_close, load, training_inputs
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from rllava_jax.config import ModelConfig
from rllava_jax.model.attention import attend as attend_module
from rllava_jax.model.attention import pallas
from rllava_jax.model.attention.attend import attend, over_mesh
from rllava_jax.model.attention.pallas import flash_attention
from rllava_jax.model.paligemma import PaliGemma, prefix_lm_mask
from rllava_jax.model.params import merge, split

# Sums of a few hundred float32 products in another order; shapes like these differed by 2e-7 to 8e-7 of the largest.
FLOAT32 = 3e-6


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(pallas, "_LARGEST_BLOCK", 128)


class Case(NamedTuple):
    """Shapes, the mask's kind and the cap. Lengths that are no multiple of the block are the rule."""

    queries: int
    keys: int
    heads: int
    kv_heads: int
    dim: int
    mask: str | None = None
    cap: float = 0.0


CASES = {
    "one kv head, prefix-LM, three blocks": Case(300, 300, 8, 1, 16, "prefix"),
    "heads in pairs, capped": Case(140, 140, 4, 2, 16, "prefix", cap=5.0),
    "vision heads of 72, no mask": Case(64, 64, 2, 2, 72),
    "any mask, more keys than queries": Case(40, 270, 4, 2, 16, "random", cap=50.0),
    "rows that see nothing": Case(140, 150, 4, 1, 16, "blind", cap=3.0),
    "exactly one block, wide heads": Case(128, 128, 2, 1, 136, "random"),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
BATCH = 2


def arrays_of(case, dtype=jnp.float32, *, batch=BATCH, seed=0):
    """Query (scaled), key, value, the gradient of the output, and the mask. Logits have standard deviation 3."""
    draw = np.random.default_rng(seed)
    q, k, v, g = (
        jnp.asarray(draw.normal(size=(batch, length, heads, case.dim)), dtype)
        for length, heads in (
            (case.queries, case.heads),
            (case.keys, case.kv_heads),
            (case.keys, case.kv_heads),
            (case.queries, case.heads),
        )
    )
    return q * (3 * case.dim**-0.5), k, v, g, mask_of(case, batch, draw)


def mask_of(case, batch, draw):
    if case.mask is None:
        return None
    if case.mask == "prefix":
        # Each example has its own prefix, and holes where a region is absent.
        prefix = draw.integers(case.keys // 2, case.keys, (batch, 1))
        valid = draw.random((batch, case.keys)) < 0.9
        return prefix_lm_mask(jnp.asarray(np.arange(case.keys) >= prefix, jnp.int32), jnp.asarray(valid))
    mask = draw.random((batch, case.queries, case.keys)) < 0.6
    mask[:, :, 0] = True
    if case.mask == "blind":
        mask[:, -20:] = False
        mask[1, 3] = False
    return jnp.asarray(mask)


def with_gradients(attention, q, k, v, g):
    """The output, and the gradients of query, key and value."""

    @jax.jit
    def run(q, k, v, g):
        out, vjp = jax.vjp(attention, q, k, v)
        return out, *vjp(g.astype(out.dtype))

    return run(q, k, v, g)


def plain(case, mask):
    return lambda q, k, v: attend(q, k, v, mask, cap=case.cap)[0]


def flash(case, mask):
    return lambda q, k, v: flash_attention(q, k, v, mask, cap=case.cap, interpret=True)


@cases
def test_flash_attention_is_xlas_and_jaxs_own_in_float32(case):
    q, k, v, g, mask = arrays_of(case)
    ours = with_gradients(flash(case, mask), q, k, v, g)
    for oracle in (plain(case, mask), *([] if case.cap else [jaxs(mask)])):
        for actual, expected in zip(ours, with_gradients(oracle, q, k, v, g), strict=True):
            assert_close(actual, expected, FLOAT32)


def jaxs(mask):
    return lambda q, k, v: jax.nn.dot_product_attention(
        q, k, v, mask=None if mask is None else mask[:, None], scale=1.0
    )


@pytest.mark.parametrize("name", list(CASES)[:3])
def test_flash_attention_is_no_noisier_than_xlas_in_bfloat16(name):
    """Noise: root mean square of the difference to float32 arithmetic on the same numbers. Seen: 0.7 to 1.05 times."""
    case = CASES[name]
    *arrays, mask = arrays_of(case, jnp.bfloat16)
    exact = with_gradients(plain(case, mask), *(x.astype(jnp.float32) for x in arrays))
    theirs = with_gradients(plain(case, mask), *arrays)
    ours = with_gradients(flash(case, mask), *arrays)

    def noise(actual, expected):
        return float(jnp.sqrt(jnp.square(actual.astype(jnp.float32) - expected).mean()))

    for what, true, xla, fused in zip(("out", "query", "key", "value"), exact, theirs, ours, strict=True):
        assert fused.dtype == jnp.bfloat16
        assert noise(fused, true) <= 1.2 * noise(xla, true), what


def test_rows_that_see_nothing_are_finite_and_move_neither_query_nor_key():
    case = CASES["rows that see nothing"]
    q, k, v, g, mask = arrays_of(case)
    blind = ~np.asarray(mask).any(axis=2)
    assert blind.sum() == 41
    only_blind = jnp.where(blind[..., None, None], g, 0)
    out, dq, dk, dv = with_gradients(flash(case, mask), q, k, v, only_blind)
    assert not np.asarray(dq).any()
    assert not np.asarray(dk).any()
    assert np.isfinite(dv).all()
    # They attend to all keys alike.
    everywhere = np.repeat(np.asarray(v).mean(axis=1), case.heads // case.kv_heads, axis=1)
    assert_close(np.asarray(out)[1, 3], everywhere[1], FLOAT32)


@pytest.mark.parametrize("name", ["one kv head, prefix-LM, three blocks", "vision heads of 72, no mask"])
def test_flash_attention_is_torchs(name):
    case = CASES[name]
    arrays = arrays_of(case)
    q, k, v, g, mask = (None if x is None else torch.tensor(np.asarray(x)) for x in arrays)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in leaves),
        attn_mask=None if mask is None else mask[:, None],
        scale=1.0,
        enable_gqa=True,
    ).transpose(1, 2)
    out.backward(g)
    ours = with_gradients(flash(case, arrays[-1]), *arrays[:4])
    for actual, expected in zip(ours, (out.detach(), *(x.grad for x in leaves)), strict=True):
        assert_close(actual, expected, FLOAT32)


def test_the_cap_and_its_gradient_are_gemma_2s_in_transformers():
    case = CASES["heads in pairs, capped"]
    arrays = arrays_of(case)
    q, k, v, g = (torch.tensor(np.asarray(x)) for x in arrays[:4])
    module = torch.nn.Module()
    module.num_key_value_groups = case.heads // case.kv_heads
    hidden = torch.where(torch.tensor(np.asarray(arrays[-1]))[:, None], 0, torch.finfo(torch.float32).min)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    heads_first = [x.transpose(1, 2) for x in leaves]
    out, _ = eager_attention_forward(module, *heads_first, hidden, scaling=1.0, softcap=case.cap)
    out.backward(g)
    ours = with_gradients(flash(case, arrays[-1]), *arrays[:4])
    for actual, expected in zip(ours, (out.detach(), *(x.grad for x in leaves)), strict=True):
        assert_close(actual, expected, FLOAT32)


def test_no_array_holds_the_weights():
    """640 positions and 8 heads: the weights of a whole sequence would be the largest array by far."""
    case = Case(640, 640, 8, 1, 16, "prefix")
    q, k, v, g, mask = arrays_of(case)
    elements = case.heads * case.queries * case.keys * BATCH

    def largest(attention):
        return max(sizes(jax.make_jaxpr(lambda *a: with_gradients(attention, *a))(q, k, v, g).jaxpr))

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (var.aval.size for var in equation.outvars)
            if equation.primitive.name != "pallas_call":
                yield from (size for inner in jaxprs_in_params(equation.params) for size in sizes(inner))

    assert largest(plain(case, mask)) == elements
    assert largest(flash(case, mask)) < elements / 2


MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.fixture
def mesh():
    with jax.set_mesh(jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * 3)):
        yield


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize(
    ("heads", "kv_heads", "batch", "share"),
    [
        (4, 1, 4, (1, 2, 1)),  # Gemma 1's single kv head: a copy on each device
        (4, 2, 4, (1, 2, 1)),
        (3, 1, 4, (1, 3, 1)),  # heads that tensor does not divide stay whole
        (4, 1, 6, (3, 2, 1)),  # so do examples, as far as they must
    ],
)
def test_each_device_computes_its_share_of_examples_and_heads(heads, kv_heads, batch, share):
    case = Case(40, 40, heads, kv_heads, 16, "prefix")
    q, k, v, g, mask = arrays_of(case, batch=batch)
    seen = set()

    def on_a_device(q, k, v, mask):
        assert mask.shape == (q.shape[0], 40, 40)
        seen.add((q.shape[0], q.shape[2], k.shape[2]))
        return flash_attention(q, k, v, mask, interpret=True)

    ours = with_gradients(lambda q, k, v: over_mesh(on_a_device)(q, k, v, mask), q, k, v, g)
    assert seen == {share}
    for actual, expected in zip(ours, with_gradients(plain(case, mask), q, k, v, g), strict=True):
        assert_close(actual, expected, FLOAT32)


def test_without_a_mesh_attention_is_as_it_was():
    seen = []
    query = jnp.zeros((2, 4, 2, 8))
    over_mesh(lambda q, k, v, mask: seen.append((q, mask)) or q)(query, query, query, None)
    assert seen[0][0] is query
    assert seen[0][1] is None


@pytest.fixture
def interpreted(monkeypatch):
    """`model.attention=pallas` where no TPU is; the list counts the calls."""
    calls = []

    def run(q, k, v, mask, *, cap):
        calls.append(q.shape)
        return flash_attention(q, k, v, mask, cap=cap, interpret=True)

    monkeypatch.setattr(attend_module, "flash_attention", run)
    return calls


def test_a_model_with_the_kernel_has_xlas_logits_and_gradients(interpreted):
    """Inside a scan over layers that are recomputed: both towers, with 16 and 28 positions."""
    golden = load(GOLDEN / "paligemma1_tiny.npz")
    inputs = training_inputs(golden)

    def run(**options):
        model = nnx.eval_shape(lambda: PaliGemma(CONFIG, settings=ModelConfig(**options), rngs=nnx.Rngs(0)))
        graphdef, shapes = split(model)
        params = {name: jnp.asarray(golden[f"params/{name}"]) for name in shapes}

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def loss(params):
            logits = merge(graphdef, params)(inputs).logits
            return jnp.square(logits).mean(), logits

        (_, logits), gradients = loss(params)
        return logits, gradients

    expected, expected_gradients = run()
    assert not interpreted
    logits, gradients = run(attention="pallas", remat="full")
    assert {shape[1] for shape in interpreted} == {16, 16 + inputs.text.shape[1]}
    assert_close(logits, expected)
    for name, gradient in gradients.items():
        # Gradients that are nothing but rounding (a key's bias moves no softmax) are measured against the largest one.
        least = 1e-3 * max(float(jnp.abs(other).max()) for other in expected_gradients.values())
        scale = max(float(jnp.abs(expected_gradients[name]).max()), least)
        assert float(jnp.abs(gradient - expected_gradients[name]).max()) <= 1e-4 * scale, name


def test_a_hook_and_one_token_decoding_take_xlas(monkeypatch):
    monkeypatch.setattr(attend_module, "over_mesh", lambda *_, **__: pytest.fail("a fused kernel was asked"))
    case = Case(12, 12, 4, 1, 16, "prefix")
    q, k, v, _, mask = arrays_of(case)
    out, collected = attend(q, k, v, mask, kind="pallas", hook=lambda weights, layer: (weights, weights))
    assert collected.shape == (BATCH, 4, 12, 12)
    one, _ = attend(q[:, 5:6], k, v, mask[:, 5:6], kind="pallas")
    assert_close(one, out[:, 5:6], FLOAT32)


def test_the_kernel_takes_keys_from_a_smaller_cache(interpreted):
    q, k, v, _, mask = arrays_of(Case(12, 12, 4, 1, 16, "prefix"))
    k, v = k.astype(jnp.bfloat16), v.astype(jnp.bfloat16)
    fused, _ = attend(q, k, v, mask, kind="pallas")
    assert interpreted
    assert fused.dtype == jnp.float32
    assert_close(fused, attend(q, k, v, mask)[0], FLOAT32)


@pytest.mark.parametrize(
    ("length", "block"), [(64, 128), (256, 256), (336, 384), (1024, 512), (1104, 384), (4096, 512), (4176, 384)]
)
def test_blocks_pad_least(monkeypatch, length, block):
    monkeypatch.setattr(pallas, "_LARGEST_BLOCK", 512)
    assert pallas._block(length) == block
