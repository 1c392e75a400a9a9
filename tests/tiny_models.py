"""Tiny PaliGemmas with random weights, as transformers' models and as files, for the tests of conversion."""

from __future__ import annotations

import dataclasses
import os
import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.interop.huggingface_config import config_json
from rllava_jax.interop.tokenizer_files import huggingface_tokenizer_files, image_token_id
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VISION = SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=56)
GEMMA1 = GemmaConfig(width=64, depth=2, mlp=128, heads=4, kv_heads=1, head_dim=16, query_scale=0.25)
# Width and heads · head_dim differ, so that a wrong reshape of the output projection cannot pass.
GEMMA2 = GemmaConfig(
    width=48, depth=2, mlp=96, heads=4, kv_heads=2, head_dim=16, query_scale=0.25, post_norms=True, attention_cap=50.0
)
DECODERS = {"gemma1": GEMMA1, "gemma2": GEMMA2}


@cache
def tokenizer_file(vocab: int = 2048) -> bytes:
    """A SentencePiece model of exactly `vocab` ids, loc and seg tokens included."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choice(letters) for _ in range(draw.randint(2, 9))) for _ in range(3000)]
    words += ["answer", "what", "is", "the", "marked", "structure", "liver", "lung", "kidney", "yes", "no"] * 50
    texts = [" ".join(draw.choice(words) for _ in range(12)) for _ in range(1500)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        tokenizer = train_tokenizer(texts, path, vocab_size=vocab - 1153)
        assert tokenizer.vocab_size == vocab
        return path.read_bytes()


def tiny_size(decoder: str, *, vocab: int = 2112) -> PaliGemmaConfig:
    """A tiny PaliGemma 1 or 2."""
    return PaliGemmaConfig(VISION, dataclasses.replace(DECODERS[decoder], vocab=vocab))


def random_transformers_model(decoder: str, *, seed: int = 0, rows: int = 2112, image_token: int = 2048):
    """transformers' own model of the size, every weight random and of consequence, in float32 with eager attention."""
    import torch
    from transformers import PaliGemmaConfig as TheirConfig
    from transformers import PaliGemmaForConditionalGeneration

    values = config_json(tiny_size(decoder, vocab=rows), rows=rows, image_token=image_token, dtype="float32")
    config = TheirConfig(**{key: value for key, value in values.items() if key not in ("architectures", "torch_dtype")})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = PaliGemmaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.add_(0.2 * torch.randn_like(weight))
            elif name.endswith("bias"):
                weight.copy_(0.1 * torch.randn_like(weight))
            elif name.endswith("embed_tokens.weight"):
                weight.copy_(torch.randn_like(weight) * weight.shape[1] ** -0.5)
                weight[2048:] = weight[:2048].mean(dim=0)  # padding rows, as published folders have them
            else:
                weight.copy_(1.5 * torch.randn_like(weight) * weight[0].numel() ** -0.5)
    return model


def save_transformers_folder(model, folder: Path, **options) -> Path:
    """`model.save_pretrained` with the tokenizer beside it."""
    model.save_pretrained(folder, **options)
    tokenizer = Tokenizer(tokenizer_file(), "tokenizer.model")
    for name, content in huggingface_tokenizer_files(tokenizer).items():
        (folder / name).write_bytes(content)
    assert image_token_id(tokenizer) == 2048
    return folder


def random_image(size: int, *, seed: int = 0, batch: int = 1) -> np.ndarray:
    """Pixels in −1…1, [batch, size, size, 3]."""
    return np.random.default_rng(seed).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
