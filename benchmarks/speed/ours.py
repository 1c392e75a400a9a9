"""This project, as it trains and answers: the jitted step of `training/step.py`, the decoding of `inference/`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import Config, OptimizerConfig
from rllava_jax.inference.decode import generate
from rllava_jax.interop.export_checkpoint import export_checkpoint
from rllava_jax.interop.import_checkpoint import import_checkpoint, imported_config
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import Params, abstract, merge
from rllava_jax.model.sharding import make_mesh, sharded_shapes, to_devices
from rllava_jax.training.program import initial_state, make_program
from rllava_jax.training.state import TrainState
from rllava_jax.training.step import make_train_step
from speed.setting import CLIP, LEARNING_RATE, PAD, WEIGHT_DECAY, Batch, Setting, prompts, training_batch


class Ours:
    """See `worker.System`."""

    def __init__(self, folder: Path, setting: Setting):
        self.folder, self.setting = folder, setting
        self.mesh = make_mesh(Config().mesh)
        self.config = training_options(imported_config(setting.size))

    def params(self) -> Params:
        """The imported folder's weights: what transformers reads, back through this project's importer."""
        destination = self.folder / "imported"
        if not destination.exists():
            import_checkpoint(self.folder / "published", destination, tokenizer=None, overwrite=False)
        _, shapes = abstract(self.config, vocab=self.setting.size.decoder.vocab)
        with Checkpoints(destination / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore_params(0, sharded_shapes(self.mesh, shapes))

    def training(self) -> tuple[Callable[[], float], dict[str, Any]]:
        """One optimiser step; returns its loss."""
        step, state = training_step(self.config, self.params(), self.setting)
        batch = model_batch(training_batch(self.setting))

        def run() -> float:
            nonlocal state
            state, metrics = step(state, to_devices(batch, self.mesh))
            return float(jax.block_until_ready((state, metrics))[1].scalars["loss"])

        return run, {"losses": [run() for _ in range(3)]}

    def forward(self) -> tuple[Callable[[], Any], dict[str, Any]]:
        """Logits of all text positions of the training batch."""
        graphdef, _ = abstract(self.config, vocab=self.setting.size.decoder.vocab)
        params, batch = self.params(), training_batch(self.setting)

        @jax.jit
        def forward(params: Params, arrays: dict[str, Any]) -> Any:
            return merge(graphdef, params)(Inputs.from_batch(arrays)).logits

        arrays = model_batch(batch)

        def run() -> Any:
            return jax.block_until_ready(forward(params, to_devices(arrays, self.mesh)))

        return run, {"logits": np.asarray(run())[batch.valid]}

    def decoding(self, rows: int) -> tuple[Callable[[], Any], dict[str, Any]]:
        """Greedy answers of `new_tokens` tokens to `rows` prompts."""
        graphdef, _ = abstract(self.config, vocab=self.setting.size.decoder.vocab)
        params, new_tokens = self.params(), self.setting.new_tokens

        @jax.jit
        def decode(params: Params, arrays: dict[str, Any]) -> Any:
            prompt = Inputs.from_batch(arrays)
            return generate(merge(graphdef, params), prompt, new_tokens=new_tokens, eos=-1, pad=PAD).tokens

        arrays = model_batch(prompts(self.setting, rows))

        def run() -> np.ndarray:
            return np.asarray(decode(params, to_devices(arrays, self.mesh)))

        return run, {"tokens": run()}

    def importing(self) -> tuple[Callable[[], Any], dict[str, Any]]:
        """The Hugging Face folder → a checkpoint on disk → parameters in memory."""
        destination = self.folder / "imported"

        def run() -> Any:
            shutil.rmtree(destination, ignore_errors=True)
            return jax.block_until_ready(self.params())

        return run, {"parameters": int(sum(value.size for value in run().values()))}

    def exporting(self) -> tuple[Callable[[], Any], dict[str, Any]]:
        """A checkpoint on disk → a Hugging Face folder."""
        destination = self.folder / "exported_by_ours"

        def run() -> None:
            shutil.rmtree(destination, ignore_errors=True)
            export_checkpoint(self.folder / "checkpoint", destination, dtype="float32")

        return run, {}


def model_batch(batch: Batch) -> dict[str, np.ndarray]:
    """The loader's arrays. Padding is invisible as in training: causal, and not valid."""
    causal = np.arange(batch.text.shape[1]) >= batch.prefix_length[:, None]
    return {
        "image": batch.image,
        "text": batch.text,
        "mask_ar": causal.astype(np.int32),
        "mask_input": batch.valid.astype(np.int32),
        "mask_loss": batch.answer.astype(np.int32),
    }


def training_step(config: Config, params: Params, setting: Setting) -> tuple[Any, TrainState]:
    """The product's jitted step and a state that holds `params`."""
    mesh = make_mesh(config.mesh)
    made = make_program(config, mesh, vocab=setting.size.decoder.vocab, steps=1000, warmup=0)
    state = initial_state(config, made, vocab=setting.size.decoder.vocab)
    # A copy: the step takes its state's memory.
    own = {name: jax.device_put(np.asarray(params[name]), place) for name, place in made.shardings.params.items()}
    return make_train_step(made, config, mesh), state._replace(params=own)


def training_options(config: Config) -> Config:
    """AdamW as every system has it: a constant rate, clipping by the global norm."""
    optimizer = OptimizerConfig(
        learning_rate=LEARNING_RATE,
        # Per step here, and not to be multiplied with the learning rate.
        weight_decay=WEIGHT_DECAY * LEARNING_RATE,
        clip_norm=CLIP,
        schedule="constant",
        warmup="0 steps",
    )
    return dataclasses.replace(config, optimizer=optimizer)
