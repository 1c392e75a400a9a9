"""Measures how much of a training sequence is padding, and what length buckets or packing would save.

    python benchmarks/text_lengths.py --slake DIR --vqa-rad DIR

Prints the tables of docs/TEXT_LENGTHS.md. Lengths are in tokens of the tokenizer that a run of this data trains, or of
`--tokenizer FILE` (PaliGemma's own, say), over the training mixture: families by their weights, regions drawn once by
the policy, special tokens included. Arithmetic is `planning/flops.py`'s count of a training step, with recomputation.

Cut: `data.text_length` as short as the longest example allows, against the configured one; the savings beside it are
against that. Buckets: every batch holds examples of one range of lengths, padded to its longest; the bounds are those
that save most, found by trying all. Packing: no text padding at all, which no packing reaches, and no bookkeeping. Both
are therefore upper bounds. No empty regions: the crop and the region tokens of examples that show none are left out.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_pipelines.core.seeding import rng_for
from data_pipelines.loading.examples import load_examples
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.regions.policy import choose_regions
from data_pipelines.text.prompt import count_tokens
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import Config
from rllava_jax.config.loading import load
from rllava_jax.model.params import abstract, trainable_names
from rllava_jax.model.region_encoders.protocol import region_tokens, token_encoders
from rllava_jax.model.sizes import model_size
from rllava_jax.planning.flops import sequence_length, training_flops

CONFIGS = Path(__file__).parents[1] / "configs"
# name, data set, configuration file, overrides
SETTINGS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("SLAKE, tiny", "slake", "slake_tiny.py", ()),
    ("SLAKE, 3B-224 LoRA", "slake", "slake_3b_lora.py", ("model.size=paligemma-3b-224",)),
    ("SLAKE, 3B-448 LoRA", "slake", "slake_3b_lora.py", ("model.size=paligemma-3b-448",)),
    ("VQA-RAD, tiny", "vqa_rad", "vqa_rad_tiny.py", ()),
    ("VQA-RAD, 3B-224 full", "vqa_rad", "vqa_rad_tiny.py", ("model.size=paligemma-3b-224", "model.remat=full")),
    ("VQA-RAD, 3B-448 full", "vqa_rad", "vqa_rad_tiny.py", ("model.size=paligemma-3b-448", "model.remat=full")),
)
GROWTH = (16, 40, 64, 128, 256, 512)


@dataclass(frozen=True)
class Mixture:
    """The training examples of a setting.

    Axes: N examples.

    Attributes:
      lengths: [N] tokens of prefix, newline, suffix and special tokens.
      marked: [N] whether a region is shown.
      weights: [N] share of the mixture; they sum to 1.
    """

    lengths: np.ndarray
    marked: np.ndarray
    weights: np.ndarray

    def quantile(self, share: float) -> int:
        """The length that so much of the mixture does not exceed."""
        order = np.argsort(self.lengths)
        place = np.searchsorted(np.cumsum(self.weights[order]), share)
        return int(self.lengths[order][min(place, len(order) - 1)])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slake", required=True, metavar="DIR", help="SLAKE as published")
    parser.add_argument("--vqa-rad", required=True, metavar="DIR", help="VQA-RAD as published")
    parser.add_argument("--tokenizer", default="", metavar="FILE", help="count in its tokens (default: train one)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    roots = {"slake": options.slake, "vqa_rad": options.vqa_rad}
    lengths = [
        "| training mixture | examples | mean | median | 95 % | 99 % | longest |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    padding = [
        "| | tokens: image + region + text | text padding | empty region tokens | "
        "cut to longest | 2 buckets | 3 buckets | packing | no empty regions |",
        f"|:--|--:|{'--:|' * 7}",
    ]
    for name, source, file, overrides in SETTINGS:
        changed = [f"--config.{text}" for text in (f"data.root={roots[source]}", *overrides)]
        config = load(CONFIGS / file, changed)
        assert isinstance(config, Config)
        mixture, vocab = measure(config, options.tokenizer)
        lengths.append(length_row(name, mixture))
        padding.append(padding_row(name, config, mixture, vocab))
    print("\n".join([*lengths, "", *padding, "", *growth_table(options.slake)]))
    return 0


def measure(config: Config, tokenizer_file: str) -> tuple[Mixture, int]:
    """The lengths of a run's training mixture, and the rows of its token table."""
    data = config.data
    examples = load_examples(data, data.train_split, seed=config.seed, max_regions=config.regions.max_regions)
    examples = [example for example in examples if data.families.get(example.family, 0) > 0]
    tokenizer = Tokenizer.load(tokenizer_file) if tokenizer_file else trained_tokenizer(examples, data.tokenizer_vocab)
    vision = model_size(config.model).vision
    preprocessor = Preprocessor(vision.image_size, vision.patch, config.regions, data, tokenizer)
    lengths, marked = [], []
    for example in examples:
        shown = choose_regions(example, data.policy, rng_for(config.seed, "text lengths", example.id)).regions
        prefix = preprocessor.prefix(example, [region.box for region in shown])
        lengths.append(count_tokens(tokenizer, prefix, example.answer))
        marked.append(bool(shown))
    count, total = Counter(example.family for example in examples), sum(data.families.values())
    weights = [data.families[example.family] / total / count[example.family] for example in examples]
    return Mixture(np.array(lengths), np.array(marked), np.array(weights)), tokenizer.vocab_size


def trained_tokenizer(examples: Sequence[VQAExample], pieces: int) -> Tokenizer:
    """The one that a run trains on these examples (`rllava_jax/inference/run_data.py`)."""
    texts = [text for e in examples for text in (f"answer {e.language} {e.question}", e.answer)]
    texts += [f"detect {e.question}" for e in examples if e.task == "detect"]
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(texts, Path(folder) / "tokenizer.model", vocab_size=pieces)


def length_row(name: str, mixture: Mixture) -> str:
    """Mean and quantiles."""
    shown = [mixture.quantile(share) for share in (0.5, 0.95, 0.99)]
    mean = mixture.weights @ mixture.lengths
    return (
        f"| {name} | {len(mixture.lengths):,} | {mean:.1f} | {' | '.join(map(str, shown))} | {mixture.lengths.max()} |"
    )


def padding_row(name: str, config: Config, mixture: Mixture, vocab: int) -> str:
    """Shares of the sequence that are padding, and shares of the arithmetic that would be saved."""
    image = model_size(config.model).vision.grid ** 2
    regions = region_tokens(config.regions)
    text = config.data.text_length
    length = sequence_length(config, model_size(config.model))
    mean = float(mixture.weights @ mixture.lengths)
    unmarked = float(mixture.weights @ ~mixture.marked)
    names = trainable_names(config, abstract(config, vocab=vocab)[1])
    cost = functools.cache(lambda tokens, marked: flops(config, names, tokens, marked=marked, vocab=vocab))
    longest = int(mixture.lengths.max())
    whole = cost(longest, True)

    def saved(expected: float) -> str:
        return f"{1 - expected / whole:.1%}"

    ends = {int(end): float(mixture.weights[mixture.lengths == end].sum()) for end in np.unique(mixture.lengths)}
    buckets = [saved(best_buckets(ends, number, lambda tokens: cost(tokens, True))) for number in (2, 3)]
    packed = sum(share * cost(end, True) for end, share in ends.items())
    without = (1 - unmarked) * whole + unmarked * cost(longest, False)
    cells = [
        f"{image} + {regions} + {text - 1}",
        f"{(text - mean) / length:.1%}",
        f"{unmarked * regions / length:.1%}",
        f"{1 - whole / cost(text, True):.1%}", *buckets, saved(packed), saved(without) if regions else "–",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def growth_table(root: str) -> list[str]:
    """Arithmetic of an example by the length of its text, against the shortest."""
    lines = [f"| text_length | {' | '.join(map(str, GROWTH))} |", f"|:--|{'--:|' * len(GROWTH)}"]
    for size in ("paligemma-3b-224", "paligemma-3b-448"):
        settings = (f"data.root={root}", f"model.size={size}")
        config = load(CONFIGS / "slake_3b_lora.py", [f"--config.{text}" for text in settings])
        assert isinstance(config, Config)
        names = trainable_names(config, abstract(config, vocab=0)[1])
        costs = [flops(config, names, length, marked=True, vocab=0) for length in GROWTH]
        lines.append(f"| {size}, LoRA | {' | '.join(f'{cost / costs[0]:.2f}' for cost in costs)} |")
    return lines


def best_buckets(ends: dict[int, float], number: int, cost: Callable[[int], float]) -> float:
    """Least expected arithmetic with so many buckets. `ends`: length → share of the mixture."""
    lengths = sorted(ends)
    shares = np.array([ends[length] for length in lengths])
    costs = np.array([cost(length) for length in lengths])
    best = float("inf")
    for inner in itertools.combinations(range(len(lengths) - 1), number - 1):
        bounds = [*inner, len(lengths) - 1]
        parts = np.split(shares, [bound + 1 for bound in inner])
        best = min(best, sum(part.sum() * costs[bound] for part, bound in zip(parts, bounds, strict=True)))
    return best


def flops(config: Config, names: Collection[str], text_length: int, *, marked: bool, vocab: int) -> float:
    """A training step of one example: without a region, the crop and its tokens are left out.

    Args:
      names: of the parameters that train.
    """
    encoders = (
        config.regions.encoders
        if marked
        else tuple(e for e in config.regions.encoders if e not in token_encoders(config.regions))
    )
    size = model_size(config.model, vocab=0 if config.model.size != "tiny" else vocab)
    changed = replace(
        config,
        data=replace(config.data, text_length=max(text_length, 2)),
        regions=replace(config.regions, encoders=encoders),
    )
    return sum(part.hardware for part in training_flops(changed, size, names))


if __name__ == "__main__":
    sys.exit(main())
