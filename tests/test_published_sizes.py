"""Every published PaliGemma is recognised: by the shapes of big_vision's arrays, and by Hugging Face's config.json."""

import dataclasses
from pathlib import Path

import pytest

from rllava_jax.config import ModelConfig
from rllava_jax.interop.big_vision import size_of_shapes
from rllava_jax.interop.huggingface_config import config_json, parse_config
from rllava_jax.interop.import_checkpoint import expected_shapes, imported_config
from rllava_jax.interop.layout import canonical, exported, spellings
from rllava_jax.model.sizes import SIZES, model_size

PUBLISHED = [name for name in SIZES if name != "tiny"]

# As Google publishes them: what transformers' classes fill in is left out.
GEMMA_2B = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_image_tokens": 256,
    "num_key_value_heads": 1,
    "torch_dtype": "float32",
    "vocab_size": 257216,
}
GEMMA2 = {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "vocab_size": 257216}
TEXT = {
    "paligemma-3b": GEMMA_2B,
    "paligemma2-3b": GEMMA2
    | {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    "paligemma2-10b": GEMMA2
    | {
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    "paligemma2-28b": GEMMA2
    | {
        "head_dim": 128,
        "hidden_size": 4608,
        "intermediate_size": 36864,
        "num_attention_heads": 32,
        "num_hidden_layers": 46,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 144,
        "sliding_window": 4096,
    },
}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}


def published(name, *, rows):
    return model_size(ModelConfig(name, vocab=rows))


def their_shapes(size):
    ours = expected_shapes(size, None)
    return {
        spelling.theirs.format(layer=layer): spelling.their_shape(ours[spelling.ours])
        for spelling in spellings(size, ours)
        for layer in (range(ours[spelling.ours][0]) if spelling.layered else (0,))
    }


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("rows", [257_152, 257_216])
def test_a_published_size_is_recognised_by_its_shapes(name, rows):
    size = published(name, rows=rows)
    found = size_of_shapes(expected_shapes(size, None), Path("weights.npz"))
    assert found == size
    assert imported_config(found).model.size == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_is_recognised_by_its_config(name):
    size = published(name, rows=257_216)
    values = {"model_type": "paligemma", "text_config": TEXT[name.rsplit("-", 1)[0]], "vision_config": SIGLIP}
    found, notes = parse_config(values, their_shapes(size), where="config.json")
    assert found == size
    assert imported_config(found).model.size == name
    assert bool(notes) == name.startswith("paligemma2")  # the final cap


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_exported_config_means_the_size_it_was_written_for(name):
    size = published(name, rows=257_216)
    values = config_json(size, rows=257_216, image_token=257_152, dtype="bfloat16")
    found, notes = parse_config(values, their_shapes(size), where="config.json")
    assert found == size
    assert not notes
    if size.decoder.post_norms:
        assert values["text_config"]["query_pre_attn_scalar"] == TEXT[name.rsplit("-", 1)[0]]["query_pre_attn_scalar"]


@pytest.mark.parametrize("name", ["paligemma-3b-224", "paligemma2-28b-896"])
def test_every_tensor_has_one_name_in_the_exported_layout_and_back(name):
    names = list(their_shapes(published(name, rows=257_216)))
    assert [canonical(exported(key)) for key in names] == names
    assert len(set(names)) == len(names)
    assert sum(shape[0] * shape[-1] > 0 for shape in their_shapes(published(name, rows=257_216)).values()) == len(names)


def test_transformers_builds_the_very_tensors_of_a_3b():
    import torch
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    for name in ("paligemma-3b-224", "paligemma2-3b-448"):
        size = published(name, rows=257_216)
        values = config_json(size, rows=257_216, image_token=257_152, dtype="bfloat16")
        kept = {key: value for key, value in values.items() if key not in ("architectures", "torch_dtype")}
        with torch.device("meta"):
            model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**kept))
        theirs = {canonical(key): tuple(value.shape) for key, value in model.named_parameters()}
        assert theirs == their_shapes(size)


def test_a_size_of_no_name_is_kept_as_numbers():
    size = published("paligemma-3b-224", rows=257_152)
    size = dataclasses.replace(size, decoder=dataclasses.replace(size.decoder, depth=3))
    model = imported_config(size).model
    assert model.size == "custom"
    assert model_size(model) == size
