"""Our model of a checkpoint folder, and the same question put to it and to transformers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rllava_jax import convert
from rllava_jax.checkpoint import provenance
from rllava_jax.inference.decode import generate
from rllava_jax.interop.import_checkpoint import write_model
from rllava_jax.interop.stored_params import StoredCheckpoint
from rllava_jax.interop.streaming import StreamedArray
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import abstract, merge
from rllava_jax.model.preprocessing import make_preprocessor


def run_convert(*arguments) -> None:
    """The command line, which must succeed."""
    assert convert.main([str(argument) for argument in arguments]) == 0, arguments


def read_params(folder) -> dict[str, np.ndarray]:
    """Every array of a checkpoint."""
    return {name: np.concatenate(list(array.blocks())) for name, array in StoredCheckpoint.open(folder).arrays.items()}


def write_checkpoint(folder, config, params, tokenizer) -> None:
    """A checkpoint as an importer leaves it, of any configuration and arrays."""

    def stream(value):
        value = np.asarray(value)
        return StreamedArray(value.shape, value.dtype, len(value), lambda: iter([value]))

    write_model(
        folder / "checkpoints",
        {name: stream(value) for name, value in params.items()},
        provenance.assets(config, make_preprocessor(config, tokenizer)),
    )


class Ours:
    """A checkpoint's model."""

    def __init__(self, folder, *, compute_dtype="float32"):
        stored = StoredCheckpoint.open(folder)
        config = dataclasses.replace(
            stored.config, model=dataclasses.replace(stored.config.model, compute_dtype=compute_dtype)
        )
        self.config, self.tokenizer = config, stored.tokenizer
        self.graphdef, _ = abstract(config, vocab=stored.size.decoder.vocab)
        self.params = {name: jnp.asarray(value) for name, value in read_params(folder).items()}

    def logits(self, inputs: Inputs) -> np.ndarray:
        """At the text positions."""
        return np.asarray(
            jax.jit(lambda params, inputs: merge(self.graphdef, params)(inputs).logits)(self.params, inputs)
        )

    def greedy(self, inputs: Inputs, *, new_tokens: int) -> np.ndarray:
        """Tokens of each row."""

        def run(params, inputs):
            model = merge(self.graphdef, params)
            return generate(model, inputs, new_tokens=new_tokens, eos=1, vocab=self.tokenizer.vocab_size)

        return np.asarray(jax.jit(run)(self.params, inputs).tokens)


def random_inputs(*, seed=0, rows=3, length=10, prefixes=(3, 6, 5), valid=(10, 8, 9), image=56) -> Inputs:
    """Images and texts of different lengths: prefix, suffix, padding."""
    draw = np.random.default_rng(seed)
    position = np.arange(length)
    mask_input = position < np.array(valid)[:, None]
    text = np.where(mask_input, draw.integers(4, 800, (rows, length)), 0)
    return Inputs(
        image=jnp.asarray(draw.uniform(-1, 1, (rows, image, image, 3)), jnp.float32),
        text=jnp.asarray(text, jnp.int32),
        mask_ar=jnp.asarray(position >= np.array(prefixes)[:, None], jnp.int32),
        mask_input=jnp.asarray(mask_input),
    )


def their_logits(model, inputs: Inputs, *, image_token: int = 2048) -> np.ndarray:
    """transformers' logits at the text positions, with the training mask: prefix whole, suffix causal."""
    import torch

    text, valid = np.asarray(inputs.text), np.asarray(inputs.mask_input)
    suffix = np.asarray(inputs.mask_ar) * valid
    rows, length = text.shape
    patches = (inputs.image.shape[1] // 14) ** 2

    def after_image(value, array):
        return torch.tensor(np.concatenate([np.full((rows, patches), value), array], axis=1)).long()

    pixels = torch.tensor(np.asarray(inputs.image).transpose(0, 3, 1, 2)).to(model.dtype)
    with torch.no_grad():
        out = model(
            input_ids=after_image(image_token, text),
            pixel_values=pixels,
            attention_mask=after_image(1, valid),
            token_type_ids=after_image(0, suffix),
            labels=after_image(-100, np.where(suffix, text, -100)),
        )
    return out.logits[:, -length:].float().numpy()


def their_greedy(model, prompts: Inputs, *, new_tokens: int, image_token: int = 2048) -> np.ndarray:
    """transformers' greedy tokens, for prompts padded on the left as its `generate` wants them."""
    import torch

    text, lengths = np.asarray(prompts.text), np.asarray(prompts.mask_input).sum(axis=1)
    patches = (prompts.image.shape[1] // 14) ** 2
    width = patches + text.shape[1]
    ids, mask = np.zeros((len(text), width), int), np.zeros((len(text), width), int)
    for row, (tokens, length) in enumerate(zip(text, lengths, strict=True)):
        ids[row, width - patches - length :] = [image_token] * patches + tokens[:length].tolist()
        mask[row, width - patches - length :] = 1
    pixels = torch.tensor(np.asarray(prompts.image).transpose(0, 3, 1, 2)).to(model.dtype)
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            token_type_ids=torch.zeros(ids.shape, dtype=torch.long),
            pixel_values=pixels,
            max_new_tokens=new_tokens,
            do_sample=False,
        )
    return out[:, width:].numpy()


def assert_close_on_real_tokens(ours: np.ndarray, theirs: np.ndarray, inputs: Inputs, relative: float) -> None:
    """Largest difference over largest magnitude, padding left out (its logits mean nothing)."""
    real = np.asarray(inputs.mask_input)
    ours, theirs = ours[real][:, :2048], theirs[real][:, :2048]
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= relative, f"relative error {error:.2e}"


def assert_same_answers(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Token for token up to and with eos."""
    for mine, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        end = mine.index(1) + 1 if 1 in mine else len(mine)
        assert mine[:end] == other[:end]
