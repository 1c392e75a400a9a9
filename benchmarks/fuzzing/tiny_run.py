"""The run whose checkpoint is damaged: the tiny size at 16 patches, trained for two steps."""

from rllava_jax.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    PhantomConfig,
    RegionConfig,
    TrainConfig,
)

config = Config(
    model=ModelConfig(image_size=56),
    regions=RegionConfig(crop_size=28, tokens=4),
    data=DataConfig(
        families={"vqa": 0.5, "identify": 0.5},
        tokenizer_vocab=600,
        text_length=32,
        phantom=PhantomConfig(train_images=5, validate_images=2, test_images=2, image_size=96),
    ),
    train=TrainConfig(duration="2 steps", batch_size=8, evaluate_every="never"),
    evaluation=EvaluationConfig(
        families=("vqa",), conditions=("right",), batch_size=8, max_new_tokens=6, max_examples=4, bootstrap=0, gallery=0
    ),
)
