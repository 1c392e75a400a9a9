"""What a run is trained and asked on: checked examples of each split, the tokenizer, and the preprocessing."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.leaks import check_leaks
from data_pipelines.loader import check_lengths, verify_images
from data_pipelines.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.sources import load_examples
from data_pipelines.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import Config
from rllava_jax.model.sizes import named_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Examples by split (training ones only where asked for), and how they become arrays."""

    train: list[VQAExample]
    validation: list[VQAExample]
    test: list[VQAExample]
    preprocessor: Preprocessor

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return self.preprocessor.tokenizer


def make_preprocessor(config: Config, tokenizer: Tokenizer) -> Preprocessor:
    """The preprocessing that a configuration and a tokenizer define; training and prediction share it."""
    vision = named_size(config.model.size, image_size=config.model.image_size).vision
    return Preprocessor(vision.image_size, vision.patch, config.regions, config.data, tokenizer)


def load_task(config: Config, workdir: Path, *, training: bool = True) -> Task:
    """Loads and checks everything before any device memory is touched.

    The tokenizer is `workdir/tokenizer.model`: the configured file, or one trained on the training text.

    Raises:
      DataError: files missing or malformed, unreadable images, over-long texts, or test images among the training ones.
    """
    data = config.data

    def load(split: str) -> list[VQAExample]:
        return load_examples(data, split, seed=config.seed, max_regions=config.regions.max_regions) if split else []

    test = load(data.test_split)
    validation = load(data.validation_split) if training else []
    stored = workdir / "tokenizer.model"
    train = load(data.train_split) if training or not stored.exists() else []
    train = [example for example in train if data.families.get(example.family, 0) > 0]
    if training:
        check_leaks(train, test + validation, allowed=data.allow_test_images_in_training)
    preprocessor = make_preprocessor(config, _tokenizer(config, stored, train))
    for examples, answers in ((train, True), (validation, False), (test, False)):
        check_lengths(examples, preprocessor, answers=answers)
    everything = verify_images(train + validation + test, preprocessor, allowed=data.corrupt_images_allowed)
    kept = {id(example) for example in everything}
    train, validation, test = (
        [example for example in examples if id(example) in kept] for examples in (train, validation, test)
    )
    logger.info("%d training, %d validation, %d test questions", len(train), len(validation), len(test))
    return Task(train, validation, test, preprocessor)


def _tokenizer(config: Config, stored: Path, train: list[VQAExample]) -> Tokenizer:
    if stored.exists():
        return Tokenizer.load(stored)
    stored.parent.mkdir(parents=True, exist_ok=True)
    if config.data.tokenizer:
        tokenizer = Tokenizer.load(config.data.tokenizer)
        partial = stored.with_suffix(".partial")
        shutil.copyfile(config.data.tokenizer, partial)
        partial.replace(stored)
        return tokenizer
    texts = [text for example in train for text in (f"answer {example.language} {example.question}", example.answer)]
    texts += [f"detect {example.question}" for example in train if example.task == "detect"]
    return train_tokenizer(texts, stored, vocab_size=config.data.tokenizer_vocab)
