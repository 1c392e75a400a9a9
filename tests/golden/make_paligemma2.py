"""Writes golden/paligemma2_tiny.npz: a tiny random PaliGemma 2 through transformers' own code.

    pip install torch==2.13.0 transformers==5.23.0 && python tests/golden/make_paligemma2.py

The reference implementation's golden numbers cover Gemma 1 only; this covers what Gemma 2 adds (norms after the
branches, capped attention logits, several kv heads). The final cap is off, as in the reference's training.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

IMAGE_TOKEN, VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 511, 512, 64, 4, 2, 16, 2
VISION, VISION_HEADS = 32, 4


def build():
    text = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        query_pre_attn_scalar=HEAD_DIM,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=None,
        sliding_window=4096,
    )
    vision = SiglipVisionConfig(
        hidden_size=VISION,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=VISION_HEADS,
        image_size=56,
        patch_size=14,
        vision_use_head=False,
        projection_dim=WIDTH,
    )
    config = PaliGemmaConfig(
        text_config=text, vision_config=vision, projection_dim=WIDTH, image_token_index=IMAGE_TOKEN, hidden_size=WIDTH
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.add_(0.2 * torch.randn_like(weight))
            elif name.endswith("bias"):
                weight.copy_(0.1 * torch.randn_like(weight))
            else:
                # Large enough that the cap on attention logits bends them.
                fan_in = weight[0].numel() if weight.ndim > 1 else WIDTH
                weight.copy_(2 * torch.randn_like(weight) * fan_in**-0.5)
    return model


def named(model):
    """The weights under the big_vision names, layers stacked."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def find(ending):
        return next(value for name, value in state.items() if name.endswith(ending))

    def stacked(template, change):
        return np.stack([change(find(template.format(layer))) for layer in range(LAYERS)])

    weights = vision_weights(find, stacked) | decoder_weights(find, stacked)
    return {f"params/{name}": value for name, value in weights.items()}


def vision_weights(find, stacked):
    out = {}
    block = "img/Transformer/encoderblock/"
    attention, head = block + "MultiHeadDotProductAttention_0/", VISION // VISION_HEADS
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        key = "encoder.layers.{}.self_attn." + theirs
        out[f"{attention}{ours}/kernel"] = stacked(key + ".weight", lambda w: w.T.reshape(VISION, VISION_HEADS, head))
        out[f"{attention}{ours}/bias"] = stacked(key + ".bias", lambda b: b.reshape(VISION_HEADS, head))
    key = "encoder.layers.{}.self_attn.out_proj"
    out[attention + "out/kernel"] = stacked(key + ".weight", lambda w: w.T.reshape(VISION_HEADS, head, VISION))
    out[attention + "out/bias"] = stacked(key + ".bias", lambda b: b)
    for ours, theirs in (("LayerNorm_0", "layer_norm1"), ("LayerNorm_1", "layer_norm2")):
        out[f"{block}{ours}/scale"] = stacked("encoder.layers.{}." + theirs + ".weight", lambda w: w)
        out[f"{block}{ours}/bias"] = stacked("encoder.layers.{}." + theirs + ".bias", lambda w: w)
    for ours, theirs in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
        out[f"{block}MlpBlock_0/{ours}/kernel"] = stacked("encoder.layers.{}.mlp." + theirs + ".weight", lambda w: w.T)
        out[f"{block}MlpBlock_0/{ours}/bias"] = stacked("encoder.layers.{}.mlp." + theirs + ".bias", lambda w: w)
    out["img/Transformer/encoder_norm/scale"] = find("post_layernorm.weight")
    out["img/Transformer/encoder_norm/bias"] = find("post_layernorm.bias")
    out["img/embedding/kernel"] = find("patch_embedding.weight").transpose(2, 3, 1, 0)
    out["img/embedding/bias"] = find("patch_embedding.bias")
    out["img/pos_embedding"] = find("position_embedding.weight")[None]
    out["img/head/kernel"] = find("multi_modal_projector.linear.weight").T
    out["img/head/bias"] = find("multi_modal_projector.linear.bias")
    return out


def decoder_weights(find, stacked):
    out = {}
    layer = "language_model.layers.{}."
    out["llm/embedder/input_embedding"] = find("embed_tokens.weight")
    out["llm/final_norm/scale"] = find("language_model.norm.weight")
    out["llm/layers/attn/q_einsum/w"] = stacked(
        layer + "self_attn.q_proj.weight", lambda w: w.reshape(HEADS, HEAD_DIM, WIDTH).transpose(0, 2, 1)
    )
    out["llm/layers/attn/kv_einsum/w"] = np.stack(
        [
            stacked(
                layer + f"self_attn.{part}.weight", lambda w: w.reshape(KV_HEADS, HEAD_DIM, WIDTH).transpose(0, 2, 1)
            )
            for part in ("k_proj", "v_proj")
        ],
        axis=1,
    )
    out["llm/layers/attn/attn_vec_einsum/w"] = stacked(
        layer + "self_attn.o_proj.weight", lambda w: w.reshape(WIDTH, HEADS, HEAD_DIM).transpose(1, 2, 0)
    )
    out["llm/layers/mlp/gating_einsum"] = np.stack(
        [stacked(layer + f"mlp.{part}.weight", lambda w: w.T) for part in ("gate_proj", "up_proj")], axis=1
    )
    out["llm/layers/mlp/linear"] = stacked(layer + "mlp.down_proj.weight", lambda w: w.T)
    for ours, theirs in (
        ("pre_attention_norm", "input_layernorm"),
        ("post_attention_norm", "post_attention_layernorm"),
        ("pre_ffw_norm", "pre_feedforward_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ):
        out[f"llm/layers/{ours}/scale"] = stacked(layer + theirs + ".weight", lambda w: w)
    return out


def main():
    model = build()
    random = np.random.default_rng(0)
    length, prefix, valid = 10, [3, 6, 5], [10, 8, 9]
    image = random.uniform(-1, 1, (3, 56, 56, 3)).astype(np.float32)
    text = random.integers(3, 500, (3, length)).astype(np.int32)
    mask_input = (np.arange(length) < np.array(valid)[:, None]).astype(np.int32)
    suffix = (np.arange(length) >= np.array(prefix)[:, None]).astype(np.int32)
    text = text * mask_input
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(np.concatenate([np.full((3, 16), IMAGE_TOKEN), text], axis=1)).long(),
            pixel_values=torch.tensor(image.transpose(0, 3, 1, 2)),
            attention_mask=torch.tensor(np.concatenate([np.ones((3, 16)), mask_input], axis=1)).long(),
            token_type_ids=torch.tensor(np.concatenate([np.zeros((3, 16)), suffix], axis=1)).long(),
            # Labels switch transformers to the training mask (prefix whole, suffix causal).
            labels=torch.tensor(
                np.concatenate([np.full((3, 16), -100), np.where(suffix * mask_input, text, -100)], 1)
            ).long(),
        )
    arrays = named(model) | {
        "in/image": image,
        "in/text": text,
        "in/mask_ar": suffix,
        "in/mask_input": mask_input,
        "out/logits": out.logits[:, -length:].numpy(),
    }
    np.savez_compressed(Path(__file__).parent / "paligemma2_tiny.npz", **arrays)


if __name__ == "__main__":
    main()
