"""The demonstration: phantoms, drawn on the spot, and the tiny size. Minutes on two cores."""

from rllava_jax.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    TrainConfig,
)

config = Config(
    regions=RegionConfig(encoders=("crop",), crop_size=56, tokens=16),
    data=DataConfig(
        source="phantom",
        policy=PolicyConfig(shown_by_family={"identify": 0.7, "verify": 0.9, "choose": 0.9}),
        text_length=40,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99, weight_decay=1e-4),
    train=TrainConfig(duration="400 steps", batch_size=32, log_every="20 steps", checkpoint_every="100 steps"),
    # A wrong region is here another structure's box, the hint that misleads most.
    evaluation=EvaluationConfig(max_examples=300, wrong_kinds=("another",)),
)
