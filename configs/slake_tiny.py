"""SLAKE in English with the tiny size, from scratch: the whole job on a laptop.

python -m rllava_jax.main --config configs/slake_tiny.py --workdir runs/slake_tiny --config.data.root=DIR
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
    regions=RegionConfig(encoders=("crop",), crop_size=56, tokens=16, crop_context=1.5),
    data=DataConfig(
        source="slake",
        families={"vqa": 0.3, "identify": 0.35, "localise": 0.1, "verify": 0.1, "choose": 0.15},
        # "What is the marked structure?" has no answer without a mark: the region families are shown one more often
        # than ordinary questions, which keep the default of one third.
        policy=PolicyConfig(shown_by_family={"identify": 0.85, "verify": 0.9, "choose": 0.9}, wrong=0.05),
        augment=AugmentConfig(crop=0.3, box_jitter=0.08, brightness=0.1, contrast=0.2),
    ),
    # From scratch everything decays, not only SigLIP's kernels as in the transfers.
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99, weight_decay=1e-4, weight_decay_on=(r"(img|roi|llm)/.*",)),
    train=TrainConfig(duration="3000 steps", batch_size=32, checkpoint_every="500 steps", evaluate_every="1000 steps"),
    evaluation=EvaluationConfig(during_examples=264),
)
