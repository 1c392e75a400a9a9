"""A model and a tokenizer: batches of prompts in, answers with their probability out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.inference.decode import GREEDY, Generation, Sampling, generate
from rllava_jax.model.attention.attend import AttentionHook
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import Output
from rllava_jax.model.params import Params, merge
from rllava_jax.model.sharding import batch_sharding, to_devices


class GeneratedAnswer(NamedTuple):
    """Attributes:
    text: up to eos.
    log_prob: natural logarithm of the probability of the whole answer, eos included.
    finished: false where the answer was cut for length.
    """

    text: str
    log_prob: float
    finished: bool

    @property
    def confidence(self) -> float:
        """Probability of the whole answer."""
        return math.exp(self.log_prob)


@dataclass(eq=False)
class Generator:
    """Decodes batches. Compiled once for each shape of batch, and for each hook."""

    graphdef: Any
    tokenizer: Tokenizer
    mesh: Mesh
    new_tokens: int
    sampling: Sampling = GREEDY

    def __post_init__(self) -> None:
        self._run = jax.jit(self._generate, out_shardings=batch_sharding(self.mesh))
        self._observed = jax.jit(self._generate, static_argnames="hook")
        self._forced = jax.jit(self._teacher_forced, static_argnames=("hook", "vision_hook"))

    def _generate(
        self, params: Params, batch: Mapping[str, Any], key: Any, hook: AttentionHook | None = None
    ) -> Generation:
        # In scope while the model is traced, for `partition_rules.constrain`.
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return generate(
                merge(self.graphdef, params),
                Inputs.from_batch(batch),
                new_tokens=self.new_tokens,
                eos=self.tokenizer.eos_id,
                pad=self.tokenizer.pad_id,
                vocab=self.tokenizer.vocab_size,
                sampling=self.sampling,
                key=key if self.sampling.temperature else None,
                hook=hook,
            )

    def answer(self, params: Params, batch: Mapping[str, np.ndarray], *, seed: int = 0) -> list[GeneratedAnswer]:
        """Answers this host's rows of a batch, in their order.

        Args:
          batch: the preprocessor's arrays with a batch axis that the devices divide.
          seed: of sampling; greedy decoding has no use for it.
        """
        generated = self._run(params, to_devices(batch, self.mesh), jax.random.key(seed))
        tokens, log_prob, finished = (_local_rows(array) for array in generated[:3])
        return [
            GeneratedAnswer(self._text(row), float(value), bool(end))
            for row, value, end in zip(tokens, log_prob, finished, strict=True)
        ]

    def observe(
        self, params: Params, batch: Mapping[str, np.ndarray], hook: AttentionHook, *, seed: int = 0
    ) -> Generation:
        """As `answer`, but in tokens, and with what the hook takes from the decoder's attention."""
        return self._observed(params, to_devices(batch, self.mesh), jax.random.key(seed), hook=hook)

    def teacher_forced(
        self,
        params: Params,
        batch: Mapping[str, np.ndarray],
        *,
        hook: AttentionHook | None = None,
        vision_hook: AttentionHook | None = None,
    ) -> Output:
        """Logits and hidden states of every text position of a question with its answer, in one pass without a cache.

        Args:
          hook, vision_hook: see the attention weights of the decoder and of the vision encoder, layer by layer.
        """
        return self._forced(params, to_devices(batch, self.mesh), hook=hook, vision_hook=vision_hook)

    def _teacher_forced(
        self, params: Params, batch: Mapping[str, Any], *, hook: AttentionHook | None, vision_hook: AttentionHook | None
    ) -> Output:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            model = merge(self.graphdef, params)
            return model(Inputs.from_batch(batch), vision_hook=vision_hook, decoder_hook=hook)

    def _text(self, tokens: np.ndarray) -> str:
        ids = tokens.tolist()
        if self.tokenizer.eos_id in ids:
            ids = ids[: ids.index(self.tokenizer.eos_id)]
        return self.tokenizer.decode(ids).strip()


def _local_rows(array: jax.Array) -> np.ndarray:
    # Devices of one row of `tensor` hold the same examples.
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
