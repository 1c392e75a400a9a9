"""VQA-RAD with the tiny size, from scratch. It has no boxes: only its own questions are asked, and no region is shown.

    python -m rllava_jax.main --config configs/vqa_rad_tiny.py --workdir runs/vqa_rad_tiny --config.data.root=DIR

The published split is by question: 202 of its 203 test images are also training images. This configuration says so and
trains on them, as every published figure does; without the flag the run refuses.
"""

from rllava_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    RegionConfig,
    TrainConfig,
)

config = Config(
    regions=RegionConfig(encoders=()),
    data=DataConfig(
        source="vqa_rad",
        families={"vqa": 1.0},
        train_split="fit",
        allow_test_images_in_training=True,
        text_length=64,
        augment=AugmentConfig(crop=0.2, brightness=0.1, contrast=0.2),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99, weight_decay=1e-4, weight_decay_on=(r"(img|llm)/.*",)),
    train=TrainConfig(
        duration="20 epochs",
        evaluate_every="5 epochs",
        checkpoint_every="5 epochs",
        best_metric="family=vqa/none/accuracy",
    ),
    evaluation=EvaluationConfig(conditions=("none", "blank"), families=("vqa",)),
)
