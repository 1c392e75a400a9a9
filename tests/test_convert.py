"""Conversion against torch and transformers: logits, greedy answers and weights, in and out. A missing torch fails."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from converted import (
    Ours,
    assert_close_on_real_tokens,
    assert_same_answers,
    random_inputs,
    read_params,
    run_convert,
    their_greedy,
    their_logits,
)
from golden_model import CONFIG, GOLDEN, assert_close, load, training_inputs
from other_transformers import run_with_transformers_457
from tiny_models import random_transformers_model, save_transformers_folder, tokenizer_file
from transformers import PaliGemmaForConditionalGeneration

from rllava_jax.interop.layout import canonical
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.sizes import model_size

transformers.logging.set_verbosity_error()
DECODERS = ("gemma1", "gemma2")


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    return request.param


@pytest.fixture(scope="module")
def their_model(decoder):
    return random_transformers_model(decoder)


@pytest.fixture(scope="module")
def their_folder(their_model, tmp_path_factory):
    return save_transformers_folder(their_model, tmp_path_factory.mktemp("theirs") / "model")


@pytest.fixture(scope="module")
def imported(their_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "imported"
    run_convert("import", their_folder, folder)
    return folder


@pytest.fixture(scope="module")
def exported(imported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "folder"
    run_convert("export", imported, folder, "--shard-gb", "0.0004")
    return folder


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(tokenizer_file())
    return path


def prompts_of(inputs):
    """The prefixes alone."""
    prompt = np.asarray(inputs.mask_ar) == 0
    return Inputs(
        inputs.image,
        jnp.asarray(np.where(prompt, inputs.text, 0)),
        jnp.asarray(~prompt, jnp.int32),
        jnp.asarray(prompt),
    )


def tensors(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= safetensors.numpy.load_file(file)
    return found


def rewritten(folder, destination, rename):
    """The same folder with other keys."""
    shutil.copytree(folder, destination)
    weights = {rename(canonical(key)): value for key, value in tensors(folder).items()}
    safetensors.numpy.save_file(weights, destination / "model.safetensors", metadata={"format": "pt"})
    return destination


def test_an_imported_folder_gives_transformers_logits(their_model, imported):
    inputs = random_inputs()
    assert_close_on_real_tokens(Ours(imported).logits(inputs), their_logits(their_model, inputs), inputs, 1e-5)


def test_an_imported_folder_gives_transformers_greedy_answers(their_model, imported):
    prompts = prompts_of(random_inputs(seed=1))
    ours = Ours(imported).greedy(prompts, new_tokens=8)
    assert_same_answers(ours, their_greedy(their_model, prompts, new_tokens=8))


def test_an_exported_folder_loads_in_transformers_5_without_a_remainder(their_model, exported):
    model, report = PaliGemmaForConditionalGeneration.from_pretrained(
        exported, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    inputs = random_inputs(seed=2)
    assert len(list(exported.glob("*.safetensors"))) > 1
    assert_close_on_real_tokens(their_logits(model, inputs), their_logits(their_model, inputs), inputs, 1e-7)


LOAD_IN_457 = """
import json, sys
import numpy as np, torch
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration
sys.path.insert(0, sys.argv[2])
from converted import random_inputs, their_logits, their_greedy
model, report = PaliGemmaForConditionalGeneration.from_pretrained(
    sys.argv[1], output_loading_info=True, attn_implementation="eager"
)
assert not any(report.values()), report
assert type(AutoProcessor.from_pretrained(sys.argv[1])).__name__ == "PaliGemmaProcessor"
np.save(sys.argv[3], their_logits(model.eval(), random_inputs(seed=2)))
"""


def test_an_exported_folder_loads_in_transformers_4_57_without_a_remainder(imported, exported, tmp_path):
    tests = str(GOLDEN.parent)
    run_with_transformers_457(LOAD_IN_457, str(exported), tests, str(tmp_path / "logits.npy"))
    inputs = random_inputs(seed=2)
    assert_close_on_real_tokens(Ours(imported).logits(inputs), np.load(tmp_path / "logits.npy"), inputs, 1e-5)


def test_a_folder_comes_back_bit_for_bit(their_folder, exported):
    before = {canonical(key): value for key, value in tensors(their_folder).items()}
    after = {canonical(key): value for key, value in tensors(exported).items()}
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


LAYOUTS = {
    "published": lambda key: key.replace("language_model.", "language_model.model.").replace(
        "vision_tower.", "vision_tower.vision_model."
    ),
    "in memory of transformers 5": lambda key: f"model.{key}",
    "saved by transformers 5": lambda key: key.replace("language_model.", "language_model.model."),
    "in memory of transformers 4": lambda key: "model." + key.replace("vision_tower.", "vision_tower.vision_model."),
}


@pytest.mark.parametrize("rename", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_key_layout_imports_to_the_same_parameters(rename, their_folder, imported, tmp_path):
    run_convert("import", rewritten(their_folder, tmp_path / "renamed", rename), tmp_path / "imported")
    expected, found = read_params(imported), read_params(tmp_path / "imported")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_folder_comes_back_bit_for_bit_through_an_npz(dtype, their_folder, tokenizer_path, tmp_path):
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    shutil.copytree(their_folder, tmp_path / "half")
    weights = {key: value.astype(kind) for key, value in tensors(their_folder).items()}
    safetensors.numpy.save_file(weights, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    run_convert("import", tmp_path / "half", tmp_path / "first")
    assert {value.dtype for value in read_params(tmp_path / "first").values()} == {kind}
    run_convert("export", tmp_path / "first", tmp_path / "weights.npz")
    run_convert("import", tmp_path / "weights.npz", tmp_path / "second", "--tokenizer", tokenizer_path)
    run_convert("export", tmp_path / "second", tmp_path / "back")
    back = {canonical(key): value for key, value in tensors(tmp_path / "back").items()}
    for key, value in weights.items():
        # The padding rows are not in the .npz; they come back as the mean, which is what they were.
        rows = slice(None, 2048) if key.endswith("embed_tokens.weight") else slice(None)
        np.testing.assert_array_equal(value[rows], back[canonical(key)][rows], err_msg=key)


def test_bfloat16_logits_stay_within_bfloat16_of_transformers(imported, tmp_path):
    run_convert("export", imported, tmp_path / "bfloat16", "--dtype", "bfloat16")
    run_convert("import", tmp_path / "bfloat16", tmp_path / "ours")
    model = PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path / "bfloat16", dtype=torch.bfloat16, attn_implementation="eager"
    )
    inputs = random_inputs(seed=3)
    real = np.asarray(inputs.mask_input)
    exact = Ours(tmp_path / "ours").logits(inputs)[real][:, :2048]

    def noise(logits):
        return np.linalg.norm(logits[real][:, :2048] - exact) / np.linalg.norm(exact)

    # A rounding to bfloat16's 8 bits is 2e-3 on average, and some dozen follow one another in four layers. Measured
    # against the float32 logits of the same weights, ours must carry no more of that noise than torch's own.
    ours = noise(Ours(tmp_path / "ours", compute_dtype="bfloat16").logits(inputs))
    theirs = noise(their_logits(model, inputs))
    assert ours <= 1.2 * theirs, (ours, theirs)
    assert theirs <= 0.04, theirs


def test_golden_weights_imported_reproduce_the_references_outputs(tokenizer_path, tmp_path):
    run_convert("import", GOLDEN / "paligemma1_tiny.npz", tmp_path / "golden", "--tokenizer", tokenizer_path)
    ours, arrays = Ours(tmp_path / "golden"), load(GOLDEN / "paligemma1_tiny.npz")
    assert model_size(ours.config.model) == CONFIG
    inputs = training_inputs(arrays)
    assert_close(ours.logits(inputs)[:, : arrays["out/logits"].shape[1]], arrays["out/logits"])


def test_golden_npz_comes_back_bit_for_bit(tokenizer_path, tmp_path):
    run_convert("import", GOLDEN / "paligemma1_tiny.npz", tmp_path / "golden", "--tokenizer", tokenizer_path)
    run_convert("export", tmp_path / "golden", tmp_path / "back.npz")
    before = {key: value for key, value in load(GOLDEN / "paligemma1_tiny.npz").items() if key.startswith("params/")}
    after = load(tmp_path / "back.npz")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
        assert value.dtype == after[name].dtype


def test_the_golden_npz_exported_as_a_folder_gives_the_references_logits_in_transformers(tokenizer_path, tmp_path):
    run_convert("import", GOLDEN / "paligemma1_tiny.npz", tmp_path / "golden", "--tokenizer", tokenizer_path)
    run_convert("export", tmp_path / "golden", tmp_path / "folder")
    model = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "folder", attn_implementation="eager")
    assert model.config.text_config.vocab_size == 2112  # padded for `<image>`, as the published folders are
    arrays = load(GOLDEN / "paligemma1_tiny.npz")
    length = arrays["out/logits"].shape[1]
    inputs = training_inputs(arrays)
    padded = np.cumsum(arrays["in/mask_loss"][:, ::-1], axis=1)[:, ::-1] == 0
    inputs = Inputs(inputs.image, inputs.text, inputs.mask_ar, jnp.asarray(~(padded & (arrays["in/mask_ar"] == 1))))
    real = np.asarray(inputs.mask_input)[:, :length]
    theirs = their_logits(model, inputs)[:, :length, :2048]
    assert_close(theirs[real], arrays["out/logits"][real])


def test_as_many_kv_heads_as_heads_are_one_array_in_the_npz(tmp_path, tokenizer_path):
    arrays = {k: v for k, v in load(GOLDEN / "paligemma1_tiny.npz").items() if k.startswith("params/")}
    query = arrays.pop("params/llm/layers/attn/q_einsum/w")
    arrays.pop("params/llm/layers/attn/kv_einsum/w")
    draw = np.random.default_rng(0)
    fused = draw.normal(size=(query.shape[0], 3, *query.shape[1:])).astype(np.float32)
    np.savez(tmp_path / "fused.npz", **arrays, **{"params/llm/layers/attn/qkv_einsum/w": fused})
    run_convert("import", tmp_path / "fused.npz", tmp_path / "imported", "--tokenizer", tokenizer_path)
    params = read_params(tmp_path / "imported")
    np.testing.assert_array_equal(params["llm/layers/attn/q_einsum/w"], fused[:, 0])
    np.testing.assert_array_equal(params["llm/layers/attn/kv_einsum/w"], fused[:, 1:])
    run_convert("export", tmp_path / "imported", tmp_path / "back.npz")
    np.testing.assert_array_equal(load(tmp_path / "back.npz")["params/llm/layers/attn/qkv_einsum/w"], fused)


def test_the_folder_says_greedy_and_holds_no_path_of_this_machine(exported, imported):
    assert json.loads((exported / "generation_config.json").read_text())["do_sample"] is False
    for path in exported.glob("*.json"):
        if not path.name.startswith("tokenizer"):
            assert str(imported.parent) not in path.read_text(), path
