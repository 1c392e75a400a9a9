"""What a run is trained and asked on: checked examples of each split, the tokenizer, and the preprocessing."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.leaks import check_leaks
from data_pipelines.loader import check_lengths, verify_images
from data_pipelines.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.sources import load_examples
from data_pipelines.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import Config, ConfigError
from rllava_jax.model.sizes import model_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Examples by split (training ones only where asked for), and how they become arrays.

    Attributes:
      left_out: test questions that are not asked because their image is unreadable, in words.
    """

    train: list[VQAExample]
    validation: list[VQAExample]
    test: list[VQAExample]
    preprocessor: Preprocessor
    left_out: str = ""

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return self.preprocessor.tokenizer


def make_preprocessor(config: Config, tokenizer: Tokenizer) -> Preprocessor:
    """The preprocessing that a configuration and a tokenizer define; training and prediction share it.

    Raises:
      ConfigError: the tokenizer's ids are not those of the model's token table.
    """
    rows, ids = config.model.vocab, tokenizer.vocab_size
    if rows and not tokenizer.fits(rows):
        raise ConfigError(
            f"{tokenizer.path}: has {ids:,} ids, and the token table (model.vocab) {rows:,} rows; "
            "give the tokenizer that the table was trained with"
        )
    vision = model_size(config.model).vision
    return Preprocessor(vision.image_size, vision.patch, config.regions, config.data, tokenizer)


def load_task(config: Config, *, tokenizer: Tokenizer | None, training: bool = True) -> Task:
    """Loads and checks everything before any device memory is touched, and writes nothing.

    Args:
      tokenizer: of the run that is resumed or evaluated, or of the checkpoint that a new run starts from; None takes
        the configured file or trains one on the training text.
      training: False leaves out the training and validation examples.

    Raises:
      ConfigError: a split without a question to ask, or a tokenizer of another model.
      DataError: files missing or malformed, unreadable images, over-long texts, or test images among the training ones.
    """
    data = config.data

    def load(split: str) -> list[VQAExample]:
        return load_examples(data, split, seed=config.seed, max_regions=config.regions.max_regions) if split else []

    def asked(examples: list[VQAExample]) -> list[VQAExample]:
        return [example for example in examples if example.family in config.evaluation.families]

    test = asked(load(data.test_split))
    validation = asked(load(data.validation_split)) if training else []
    _require_questions(config, test, validation, training=training)
    train = load(data.train_split) if training or tokenizer is None else []
    train = [example for example in train if data.families.get(example.family, 0) > 0]
    preprocessor = make_preprocessor(config, tokenizer or _new_tokenizer(config, train))
    for examples, answers in ((train, True), (validation, False), (test, False)):
        check_lengths(examples, preprocessor, answers=answers)
    asked_of_test = test
    everything = verify_images(train + validation + test, preprocessor, allowed=data.corrupt_images_allowed)
    kept = {id(example) for example in everything}
    train, validation, test = (
        [example for example in examples if id(example) in kept] for examples in (train, validation, test)
    )
    left_out = f"{len(asked_of_test) - len(test)} test questions, whose images are unreadable"
    if training:
        check_leaks(train, test, allowed=data.allow_test_images_in_training)
        check_leaks(train, validation, allowed=data.allow_test_images_in_training, held_out="validation")
    logger.info("%d training, %d validation, %d test questions", len(train), len(validation), len(test))
    return Task(train, validation, test, preprocessor, left_out if len(test) < len(asked_of_test) else "")


def _require_questions(config: Config, test: list[VQAExample], validation: list[VQAExample], *, training: bool) -> None:
    families = ", ".join(config.evaluation.families)
    if not test:
        raise ConfigError(
            f"data.test_split: {config.data.test_split!r} has no question of evaluation.families ({families}); "
            "name a split and families that have some"
        )
    if training and not validation and config.train.evaluate_every != "never":
        raise ConfigError(
            f"data.validation_split: {config.data.validation_split!r} has no question of evaluation.families "
            f'({families}); name another, or set train.evaluate_every to "never"'
        )


def _new_tokenizer(config: Config, train: list[VQAExample]) -> Tokenizer:
    if config.data.tokenizer:
        return Tokenizer.load(config.data.tokenizer)
    texts = [text for example in train for text in (f"answer {example.language} {example.question}", example.answer)]
    texts += [f"detect {example.question}" for example in train if example.task == "detect"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        trained = train_tokenizer(texts, path, vocab_size=config.data.tokenizer_vocab)
        return Tokenizer(trained.file, path.name)  # and not where it no longer is
