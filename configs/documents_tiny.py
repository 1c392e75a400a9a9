"""Another domain with the same command: contract pages, drawn on the spot, and the tiny size.

python -m rllava_jax.main --config configs/documents_tiny.py --workdir runs/documents_tiny
"""

from rllava_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    TrainConfig,
)

config = Config(
    # A crop hardly larger than its box: a clause's pictogram must stay recognisable at 56 pixels.
    regions=RegionConfig(encoders=("crop",), crop_size=56, tokens=16, crop_context=1.1),
    data=DataConfig(
        source="documents",
        families={"vqa": 0.4, "identify": 0.3, "verify": 0.15, "choose": 0.15},
        # What is asked of "the marked clause" has no answer without a mark.
        policy=PolicyConfig(shown=0.7, shown_by_family={"identify": 0.9, "verify": 0.9, "choose": 0.9}, wrong=0.05),
        augment=AugmentConfig(box_jitter=0.05, brightness=0.1, contrast=0.1),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99),
    train=TrainConfig(duration="1500 steps", batch_size=32, log_every="20 steps", checkpoint_every="300 steps"),
    evaluation=EvaluationConfig(
        families=("vqa", "identify", "verify", "choose"), max_examples=400, wrong_kinds=("another",)
    ),
)
