"""What a run is trained and evaluated on: checked examples of each split, the tokenizer, and the preprocessing."""

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.core.errors import NoExamples
from data_pipelines.loading.checks import check_leaks, check_lengths, verify_images
from data_pipelines.loading.examples import load_examples
from data_pipelines.loading.mixture import Part, load_parts, mixed
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import VQAExample
from data_pipelines.settings import MixPart
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from rllava_jax.config import Config
from rllava_jax.model.preprocessing import make_preprocessor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """Examples by split (training ones only where asked for), and how they become arrays.

    Attributes:
      parts: those of `data.mix`, whose examples `train` holds one part after the other; empty for a single source.
      left_out: test questions that are not evaluated because their image is unreadable, in words.
    """

    train: list[VQAExample]
    validation: list[VQAExample]
    test: list[VQAExample]
    preprocessor: Preprocessor
    left_out: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return self.preprocessor.tokenizer


def load_run_data(
    config: Config, *, tokenizer: Tokenizer | None, training: bool = True, later: Sequence[Config] = ()
) -> RunData:
    """Loads and checks everything before any device memory is touched, and writes nothing.

    Args:
      tokenizer: of the run that is resumed or evaluated, or of the checkpoint that a new run starts from; None takes
        the configured file or trains one on the training text.
      training: False leaves out the training and validation examples.
      later: the stages to come, whose training text a tokenizer that is trained here must know too.

    Raises:
      ConfigError: a split without a question to ask, or a tokenizer of another model.
      DataError: files missing or malformed, unreadable images, over-long texts, or test images among the training ones.
    """
    data = config.data
    test, validation = _questions(config, training=training)
    parts = _training_parts(config) if training or tokenizer is None else []
    train = mixed(parts)
    preprocessor = make_preprocessor(config, tokenizer or _new_tokenizer(config, train, later))
    train = check_lengths(train, preprocessor, allowed=data.long_examples_allowed)
    for examples in (validation, test):
        check_lengths(examples, preprocessor, answers=False)
    everything = verify_images(train + validation + test, preprocessor, allowed=data.corrupt_images_allowed)
    kept = {id(example) for example in everything}
    missing = sum(id(example) not in kept for example in test)
    train, validation, test = (
        [example for example in examples if id(example) in kept] for examples in (train, validation, test)
    )
    parts = [_kept(part, kept) for part in parts]
    if training:
        check_leaks(train, test, allowed=data.allow_test_images_in_training)
        check_leaks(train, validation, allowed=data.allow_test_images_in_training, held_out="validation")
    for part in parts if data.mix else ():
        logger.info("%s: %d training examples of %s", part.name, len(part.examples), part.settings.source)
    logger.info("%d training, %d validation, %d test questions", len(train), len(validation), len(test))
    left_out = f"{missing} test questions, whose images are unreadable" if missing else ""
    return RunData(train, validation, test, preprocessor, left_out, tuple(parts) if data.mix else ())


def check_examples(config: Config) -> None:
    """Loads the examples of every split of a run to come, so that what is amiss with them is known early.

    Their images and the lengths of their texts are looked at when it begins.

    Raises:
      ConfigError, DataError: as `load_run_data`.
    """
    _training_parts(config)
    _questions(config, training=True)


def same_examples(one: Config, other: Config) -> bool:
    """Whether two runs load the same examples."""

    def decisive(config: Config) -> tuple[object, ...]:
        never = config.train.evaluate_every == "never"
        return config.data, config.seed, config.regions.max_regions, config.evaluation.families, never

    return decisive(one) == decisive(other)


def training_examples(config: Config) -> list[VQAExample]:
    """All examples that a run is trained on, unchecked. Raises DataError."""
    return mixed(_training_parts(config))


def _training_parts(config: Config) -> list[Part]:
    """The parts of the mix, or the single source as one."""
    data, most = config.data, config.regions.max_regions
    if data.mix:
        return load_parts(data, seed=config.seed, max_regions=most)
    examples = load_examples(data, data.train_split, seed=config.seed, max_regions=most)
    examples = [example for example in examples if data.families.get(example.family, 0) > 0]
    return [Part(data.source, MixPart(), data.policy, examples)]


def _kept(part: Part, kept: set[int]) -> Part:
    examples = [example for example in part.examples if id(example) in kept]
    if part.examples and not examples:
        raise NoExamples(f"data.mix.{part.name}: of its examples none fits and has a readable image; leave it out")
    return dataclasses.replace(part, examples=examples)


def _questions(config: Config, *, training: bool) -> tuple[list[VQAExample], list[VQAExample]]:
    """The test and, for training, validation questions of the families that are evaluated."""

    def load(split: str) -> list[VQAExample]:
        most = config.regions.max_regions
        examples = load_examples(config.data, split, seed=config.seed, max_regions=most) if split else []
        return [example for example in examples if example.family in config.evaluation.families]

    test = load(config.data.test_split)
    validation = load(config.data.validation_split) if training else []
    families = ", ".join(config.evaluation.families)
    if not test:
        raise NoExamples(
            f"data.test_split: {config.data.test_split!r} has no question of evaluation.families ({families}); "
            "name a split and families that have some"
        )
    if training and not validation and config.train.evaluate_every != "never":
        raise NoExamples(
            f"data.validation_split: {config.data.validation_split!r} has no question of evaluation.families "
            f'({families}); name another, or set train.evaluate_every to "never"'
        )
    return test, validation


def _new_tokenizer(config: Config, train: list[VQAExample], later: Sequence[Config]) -> Tokenizer:
    if config.data.tokenizer:
        return Tokenizer.load(config.data.tokenizer)
    train = train + [example for stage in later for example in training_examples(stage)]
    texts = [text for example in train for text in (f"answer {example.language} {example.question}", example.answer)]
    texts += [f"{example.task} {example.question}" for example in train if example.task != "answer"]
    texts += [text for example in train for turn in example.turns for text in (turn.question, turn.answer)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        trained = train_tokenizer(texts, path, vocab_size=config.data.tokenizer_vocab)
        return Tokenizer(trained.file, path.name)  # and not where it no longer is
