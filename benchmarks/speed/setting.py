"""What every system runs: PaliGemmas of 22.9 million parameters, their weights and batches.

`prepare` writes the weights once, as the checkpoint that this project trains from and as the Hugging Face folder that
it exports; every peer reads the latter.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.model.sizes import GemmaConfig, PaliGemmaConfig, SiglipConfig

PAD, EOS, BOS, FIRST_PIECE = 0, 1, 2, 3
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-4, 1e-4, 1.0


@dataclass(frozen=True)
class Setting:
    """What is run.

    Attributes:
      name: of the setting.
      size: of the model. Its table has the rows that transformers pads to, in every system.
      ids: of the tokenizer; the next one is <image>.
      batch: examples of a training step and of a forward pass.
      text: T, tokens of prefix, answer and padding.
      answer: tokens of every example's answer, eos included. The same for all, so that a mean over all tokens
        (transformers, Keras) is also the mean over examples of their means (here).
      prompt: tokens of a prompt to decode from.
      new_tokens: decoded from it, greedily, never stopping early.
      seed: of weights and batches.
    """

    name: str
    size: PaliGemmaConfig
    ids: int
    batch: int
    text: int = 40
    answer: int = 8
    prompt: int = 24
    new_tokens: int = 32
    seed: int = 0

    def parameters(self) -> int:
        """How many the model has."""
        from rllava_jax.interop.import_checkpoint import expected_shapes

        return sum(math.prod(shape) for shape in expected_shapes(self.size, None).values())


def _decoder(width: int, depth: int, mlp: int, heads: int, head_dim: int, rows: int) -> GemmaConfig:
    return GemmaConfig(
        width=width,
        depth=depth,
        mlp=mlp,
        heads=heads,
        kv_heads=1,
        head_dim=head_dim,
        query_scale=head_dim**-0.5,
        vocab=rows,
    )


# <image> takes one row more than the tokenizer has ids, and transformers pads tables to whole multiples of 64 rows, so
# every table here has such a length.
SETTINGS = {
    setting.name: setting
    for setting in (
        # Two towers of twelve narrow layers: what the goals are about.
        Setting(
            "deep",
            PaliGemmaConfig(
                SiglipConfig(width=256, depth=12, mlp=1024, heads=4, image_size=224),
                _decoder(256, 12, 1024, 4, 64, rows=6848),
            ),
            ids=6847,
            batch=4,
        ),
        # Two towers of five wider layers: a larger share of matrix products.
        Setting(
            "wide",
            PaliGemmaConfig(
                SiglipConfig(width=384, depth=5, mlp=1536, heads=6, image_size=224),
                _decoder(384, 5, 1536, 6, 64, rows=7616),
            ),
            ids=7615,
            batch=4,
        ),
        # PaliGemma's own vocabulary on small towers: the output layer weighs more than anything else.
        Setting(
            "vocabulary",
            PaliGemmaConfig(
                SiglipConfig(width=256, depth=6, mlp=1024, heads=4, image_size=224),
                _decoder(64, 12, 512, 4, 16, rows=257_216),
            ),
            ids=257_152,
            batch=2,
        ),
        # For the tests: every part, in seconds.
        Setting(
            "toy",
            PaliGemmaConfig(
                SiglipConfig(width=32, depth=2, mlp=64, heads=4, image_size=56), _decoder(64, 2, 128, 4, 16, rows=2112)
            ),
            ids=2111,
            batch=2,
            new_tokens=4,
        ),
    )
}


def tokenizer_bytes(ids: int, seed: int) -> bytes:
    """A SentencePiece model of exactly so many ids, loc and seg tokens included; most pieces are never used."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choice(letters) for _ in range(draw.randint(3, 9))) for _ in range(300)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        trained = train_tokenizer(
            [" ".join(draw.choice(words) for _ in range(12)) for _ in range(400)], path, vocab_size=600
        )
        extra = trained.vocab_size
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(path.read_bytes())
    special = [piece for piece in model.pieces if piece.piece.startswith(("<loc", "<seg"))]
    kept = [piece for piece in model.pieces if not piece.piece.startswith(("<loc", "<seg"))]
    outside = extra - len(model.pieces)  # ids that the tokenizer adds itself
    model.ClearField("pieces")
    model.pieces.extend(kept)
    for number in range(ids - outside - len(special) - len(kept)):
        model.pieces.add(piece=f"unused{number}", score=-1e6 - number)
    model.pieces.extend(special)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def prepare(folder: Path, setting: Setting) -> None:
    """Writes FOLDER/checkpoint (this project's) and FOLDER/published (transformers' layout), the same weights."""
    import jax
    from flax import nnx

    from rllava_jax.checkpoint import provenance
    from rllava_jax.interop.export_checkpoint import export_checkpoint
    from rllava_jax.interop.import_checkpoint import imported_config, write_model
    from rllava_jax.interop.streaming import StreamedArray
    from rllava_jax.model.params import build, split
    from rllava_jax.model.preprocessing import make_preprocessor

    ids = setting.ids
    smaller = dataclasses.replace(setting.size, decoder=dataclasses.replace(setting.size.decoder, vocab=ids))
    config = imported_config(smaller)
    model = nnx.jit(lambda: build(config, vocab=ids, seed=setting.seed))()
    _, params = split(model)
    generator = np.random.default_rng(setting.seed)
    arrays = {}
    for name, value in params.items():
        array = np.array(jax.device_get(value))
        if name.endswith(("scale", "bias")):
            # Norms and biases start at a constant; a peer that ignored one would still agree.
            array += 0.1 * generator.standard_normal(array.shape).astype(array.dtype)
        arrays[name] = StreamedArray(array.shape, array.dtype, len(array), functools.partial(_whole, array))
    tokenizer = Tokenizer(tokenizer_bytes(ids, setting.seed), "tokenizer.model")
    folder.mkdir(parents=True, exist_ok=True)
    files = provenance.assets(config, make_preprocessor(config, tokenizer))
    write_model(folder / "checkpoint" / "checkpoints", arrays, files)
    export_checkpoint(folder / "checkpoint", folder / "published", step=None, dtype="float32", overwrite=False)


def _whole(array: np.ndarray) -> Iterator[np.ndarray]:
    yield array


@dataclass(frozen=True)
class Batch:
    """Axes: B batch, S image side, T text.

    Attributes:
      image: uint8 [B, S, S, 3].
      text: int32 [B, T]: bos, prefix, answer, eos, padding.
      prefix_length, length: tokens before the answer, and with it: int32 [B].
    """

    image: np.ndarray
    text: np.ndarray
    prefix_length: np.ndarray
    length: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """True on tokens that are no padding: [B, T]."""
        return np.arange(self.text.shape[1]) < self.length[:, None]

    @property
    def answer(self) -> np.ndarray:
        """True on the answer and eos: [B, T]."""
        return self.valid & (np.arange(self.text.shape[1]) >= self.prefix_length[:, None])


def training_batch(setting: Setting, number: int = 0) -> Batch:
    """Questions of unequal length, each with an answer of `setting.answer` tokens."""
    draw = np.random.default_rng([setting.seed, number])
    least = max(2, (setting.text - setting.answer) // 2)
    prefix = draw.integers(least, setting.text - setting.answer + 1, setting.batch)
    return _batch(setting, draw, setting.batch, setting.text, prefix, setting.answer)


def prompts(setting: Setting, batch: int) -> Batch:
    """Prompts of one length, without padding: every system has a fast path for them."""
    draw = np.random.default_rng([setting.seed, 1_000_000 + batch])
    return _batch(setting, draw, batch, setting.prompt, np.full(batch, setting.prompt), 0)


def _batch(
    setting: Setting, draw: np.random.Generator, batch: int, length: int, prefix: np.ndarray, answer: int
) -> Batch:
    side = setting.size.vision.image_size
    image = draw.integers(0, 256, (batch, side, side, 3), np.uint8)
    pieces = min(setting.size.decoder.vocab, 5000)
    text = draw.integers(FIRST_PIECE, pieces, (batch, length)).astype(np.int32)
    text[:, 0] = BOS
    whole = prefix + answer
    if answer:
        text[np.arange(batch), whole - 1] = EOS
    text[np.arange(length) >= whole[:, None]] = PAD
    return Batch(image, text, prefix.astype(np.int32), whole.astype(np.int32))
