"""The preprocessing that a model's size and tokenizer ask for."""

from data_pipelines.core.errors import SettingConflict
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.config import Config
from rllava_jax.model.sizes import model_size


def make_preprocessor(config: Config, tokenizer: Tokenizer) -> Preprocessor:
    """The preprocessing that a configuration and a tokenizer define; training and prediction share it.

    Raises:
      ConfigError: the tokenizer's ids are not those of the model's token embedding.
    """
    rows, ids = config.model.vocab, tokenizer.vocab_size
    if rows and not tokenizer.fits(rows):
        raise SettingConflict(
            f"{tokenizer.path}: has {ids:,} ids, and the token embedding (model.vocab) {rows:,} rows; "
            "give the tokenizer that it was trained with"
        )
    vision = model_size(config.model).vision
    return Preprocessor(vision.image_size, vision.patch, config.regions, config.data, tokenizer)
