"""Whether a prepared data set feeds training as fast as the published folder that it was made from.

    python -m data_pipelines.prepare slake --source DIR/slake --out prepared/slake      # --allow-missing if some lack
    python benchmarks/prepared_speed.py --folder DIR/slake --prepared prepared/slake

Draws batches from the training iterator of each in turn, the same examples in the same order, with a cache that holds
next to nothing (every image is read and decoded again) and with the default one. Prints examples a second, and a second
of processor time, which other programs on the machine disturb less: the median of the rounds and their range, and the
ratio prepared / folder, the median of the rounds' own. The first round warms the file cache and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from data_pipelines.loading.examples import load_examples
from data_pipelines.loading.loader import training_iterator
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import DataConfig, RegionConfig

FAMILIES = {"vqa": 0.4, "identify": 0.3, "verify": 0.2, "choose": 0.1}


def examples_per_second(
    examples: list[VQAExample], preprocessor: Preprocessor, *, batches: int, batch_size: int, start: int, seed: int
) -> tuple[float, float]:
    """By the clock, and by the processor time of all threads: of the training iterator from batch `start` on.

    The batches that are prefetched at its start are not timed.
    """
    data = preprocessor.data
    iterator = training_iterator(examples, preprocessor, families=FAMILIES, batch_size=batch_size, seed=seed, data=data)
    iterator.set_state({**iterator.get_state(), "next_batch": start})
    for _ in range(data.prefetch):
        next(iterator)
    began, used = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(iterator)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    iterator.close()
    return batches * batch_size / seconds, batches * batch_size / used


def compare(options: argparse.Namespace, cache_mb: int, tokenizer: Tokenizer) -> None:
    """Prints two lines for one size of the cache."""
    preprocessors, examples = {}, {}
    for source, root in (("slake", options.folder), ("prepared", options.prepared)):
        data = DataConfig(source=source, root=root, text_length=160, image_cache_mb=cache_mb, threads=options.threads)
        examples[source] = load_examples(data, "train", seed=options.seed, max_regions=1)
        preprocessors[source] = Preprocessor(options.image_size, 14, RegionConfig(), data, tokenizer)
    if [e.id for e in examples["slake"]] != [e.id for e in examples["prepared"]]:
        sys.exit("error: the prepared set has other questions than the folder; prepare it from this folder")
    speeds: dict[str, list[tuple[float, float]]] = {"slake": [], "prepared": []}
    for round_number in range(options.rounds + 1):
        # Who goes first changes from round to round.
        for source in sorted(speeds, reverse=round_number % 2 == 0):
            speed = examples_per_second(
                examples[source], preprocessors[source], batches=options.batches, batch_size=options.batch_size,
                start=round_number * options.batches, seed=options.seed,
            )  # fmt: skip
            if round_number:
                speeds[source].append(speed)
    for number, unit in enumerate(("examples/s", "examples/CPU s")):
        folder, prepared = ([pair[number] for pair in speeds[source]] for source in ("slake", "prepared"))
        ratios = [b / a for a, b in zip(folder, prepared, strict=True)]
        print(f"cache {cache_mb:>5} MB  {unit:<15}folder {_range(folder, '.0f')}  prepared {_range(prepared, '.0f')}  "
              f"ratio {_range(ratios, '.3f')}", flush=True)  # fmt: skip


def _range(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="published SLAKE")
    parser.add_argument("--prepared", required=True, help="what data_pipelines.prepare made of it")
    parser.add_argument("--cache-mb", type=int, nargs="+", default=[1, DataConfig().image_cache_mb])
    parser.add_argument("--image-size", type=int, default=224, help="pixels on a side")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="timed in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = DataConfig(source="slake", root=options.folder)
    train = load_examples(data, "train", seed=options.seed, max_regions=1)
    with tempfile.TemporaryDirectory() as folder:
        texts = [text for example in train for text in (f"answer en {example.question}", example.answer)]
        tokenizer = train_tokenizer(texts, Path(folder) / "tokenizer.model", vocab_size=1000)
        print(
            f"{options.image_size} px, batches of {options.batch_size}, {options.threads} threads, seed {options.seed}"
        )
        for cache_mb in options.cache_mb:
            compare(options, cache_mb, tokenizer)


if __name__ == "__main__":
    main()
