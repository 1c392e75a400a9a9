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
        # Without localise, which takes more steps than a demonstration has (see docs/RESULTS.md for it on SLAKE).
        families={"vqa": 0.25, "identify": 0.4, "verify": 0.15, "choose": 0.2},
        policy=PolicyConfig(shown_by_family={"identify": 0.7, "verify": 0.9, "choose": 0.9}),
        text_length=40,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99),
    train=TrainConfig(duration="500 steps", batch_size=32, log_every="20 steps", checkpoint_every="100 steps"),
    # A wrong region is here another structure's box, the hint that misleads most.
    evaluation=EvaluationConfig(
        families=("vqa", "identify", "verify", "choose"), max_examples=300, wrong_kinds=("another",)
    ),
)
