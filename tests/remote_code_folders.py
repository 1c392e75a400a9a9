"""Tiny exported folders for the tests of the remote code, and what this project makes of the same questions."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file
from single_prompts import encode_prompt

from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import MaskFile, Region, VQAExample
from data_pipelines.regions import boxes
from data_pipelines.regions.policy import Shown
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import Config, DataConfig, ModelConfig, RegionConfig
from rllava_jax.inference.decode import generate
from rllava_jax.interop.huggingface_config import config_json, generation_config_json
from rllava_jax.interop.layout import EMBEDDING, exported, spellings
from rllava_jax.interop.remote_files import processor_files, region_config_json, remote_code_files
from rllava_jax.interop.tokenizer_files import huggingface_tokenizer_files, image_token_id
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import Params, build, merge, split
from rllava_jax.model.preprocessing import make_preprocessor
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig, dimensions_of, model_size

NEW_TOKENS = 6
_WORDS = "what is the marked structure organ in this image liver lung left right kidney yes no shows a an"


class Question(NamedTuple):
    """A question as both sides are asked it; regions are boxes (x, y, w, h) or masks."""

    image: np.ndarray
    text: str
    regions: tuple
    task: str = "answer"


class Exported(NamedTuple):
    """An exported model, and the same model here."""

    folder: Path
    config: Config
    graphdef: object
    params: Params
    tokenizer: Tokenizer

    @property
    def preprocessor(self) -> Preprocessor:
        return make_preprocessor(self.config, self.tokenizer)


def tiny_config(encoders, *, gemma2=False, outlines=False, crop_size=28):
    """Both decoders of the family, at a size that compiles in a second."""
    size = PaliGemmaConfig(
        SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=56),
        GemmaConfig(
            width=64,
            depth=2,
            mlp=128,
            heads=4,
            kv_heads=2 if gemma2 else 1,
            head_dim=16,
            query_scale=0.25,
            post_norms=gemma2,
            attention_cap=50.0 if gemma2 else 0.0,
        ),
    )
    return Config(
        model=ModelConfig(size="custom", dimensions=dimensions_of(size)),
        regions=RegionConfig(
            encoders=encoders, max_regions=2, tokens=4, crop_size=crop_size, crop_min_pixels=20, outlines=outlines
        ),
        data=DataConfig(text_length=48),
    )


def export(config, folder, *, seed=0):
    """Writes what the exporter writes, from random weights; none of the region branch's is zero."""
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer([_WORDS] * 3, folder / "tokenizer.model", vocab_size=400)
    graphdef, shapes = split(nnx.eval_shape(lambda: build(config, vocab=tokenizer.vocab_size)))
    rng = np.random.default_rng(seed)
    # Nothing stays at the zero or one it starts from, where mixing two arrays up would not show.
    params = {
        name: jnp.asarray(0.1 * rng.normal(size=shape.shape) + _is_layer_norm_scale(name), jnp.float32)
        for name, shape in shapes.items()
    }
    # As drawn, the last token's own embedding outweighs everything else and every answer repeats it.
    params[EMBEDDING] = params[EMBEDDING] * 0.1
    size = model_size(config.model, vocab=tokenizer.vocab_size)
    values = config_json(size, rows=size.decoder.vocab, image_token=image_token_id(tokenizer), dtype="float32")
    files = huggingface_tokenizer_files(tokenizer) | processor_files(config)
    if config.regions.encoders:
        values |= region_config_json(config)
        files |= remote_code_files()
    files["config.json"] = json.dumps(values).encode()
    files["generation_config.json"] = json.dumps(generation_config_json()).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    save_file(_tensors(size, params), folder / "model.safetensors", metadata={"format": "pt"})
    return Exported(folder, config, graphdef, params, tokenizer)


def _is_layer_norm_scale(name):
    return name.startswith("img/") and name.endswith("/scale")


def _tensors(size, params):
    tensors = {}
    for spelling in spellings(size, params):
        value = np.asarray(params[spelling.ours])
        layers = enumerate(value) if spelling.layered else [(0, value)]
        for layer, part in layers:
            part = part if spelling.index is None else part[spelling.index]
            tensors[exported(spelling.theirs.format(layer=layer))] = spelling.export(part)
    return tensors


def picture(height, width, seed=0):
    """Blobs and noise: something with detail at every scale."""
    rng = np.random.default_rng(seed)
    low = np.kron(rng.integers(0, 256, (6, 5, 3)), np.ones((-(-height // 6), -(-width // 5), 1)))[:height, :width]
    return np.clip(low + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def mask(height, width):
    """An ellipse."""
    y, x = np.mgrid[:height, :width]
    return ((y - height * 0.4) / (height * 0.25)) ** 2 + ((x - width * 0.6) / (width * 0.2)) ** 2 < 1


def questions(*, masks=False):
    """No, one and two regions; prompts of different lengths; images of different shapes."""
    second = mask(90, 70) if masks else (30, 20.5, 25, 40)
    return [
        Question(picture(64, 100), "what is in this image", ()),
        Question(picture(80, 80, 1), "what is the marked structure in the image shows", ((5, 10, 30, 20.5),)),
        Question(picture(90, 70, 2), "is this the left lung", (second, (0, 0, 70.5, 90))),
    ]


def project_arrays(model, asked, scratch, suffixes=None):
    """The arrays of the project's own preprocessing, stacked: of the prompts, or with the answers to learn from."""
    rows = []
    for number, question in enumerate(asked):
        height, width = question.image.shape[:2]
        encoded = io.BytesIO()
        Image.fromarray(question.image).save(encoded, "PNG")
        shown = tuple(
            _region(region, height, width, scratch / f"{number}-{slot}.png")
            for slot, region in enumerate(question.regions)
        )
        answer = "" if suffixes is None else suffixes[number]
        example = VQAExample("q", "", "", encoded.getvalue(), "q", question.text, answer, task=question.task)
        arrays = model.preprocessor.evaluation(example, Shown(shown, "right" if shown else "none"))
        if suffixes is not None:
            ((prefix, _),) = model.preprocessor.turns(example, [region.box for region in shown])
            tokens = encode_prompt(model.tokenizer, prefix, answer, model.config.data.text_length, "q")
            arrays |= tokens._asdict()
        rows.append(arrays)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _region(region, height, width, path):
    if isinstance(region, np.ndarray):
        Image.fromarray(region).save(path)
        return Region(boxes.box_from_mask(region, where="mask"), mask=MaskFile(str(path)))
    return Region(boxes.box_from_pixels(*region, width=width, height=height, where="box"))


def project_answers(model, arrays, taught=None):
    """Logits at every text position, of the prompts and with the answers; greedy tokens, not stopped at eos."""

    @jax.jit
    def logits(params, batch):
        return merge(model.graphdef, params)(Inputs.from_batch(batch)).logits

    @jax.jit
    def tokens(params, batch):
        ours, inputs = merge(model.graphdef, params), Inputs.from_batch(batch)
        return generate(ours, inputs, new_tokens=NEW_TOKENS, eos=-1).tokens

    found = {"logits": logits(model.params, arrays)}
    if taught is not None:
        found |= {"taught_logits": logits(model.params, taught), "tokens": tokens(model.params, arrays)}
    return {name: np.asarray(value) for name, value in found.items()}
