"""The stages of medm_3b with the tiny size, on phantoms drawn on the spot: minutes on two cores.

    python -m rllava_jax.main --config configs/medm_tiny.py --workdir runs/medm_tiny

The tiny size begins with random weights, so its first stage trains them all; the second has medm_3b's adapters, and its
annealing: over the last fifth, up to a third of the examples ask about a marked structure.
"""

from dataclasses import replace

from rllava_jax.config import (
    Config,
    Curriculum,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    MixPart,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    Stage,
    TrainConfig,
)

base = Config(
    model=ModelConfig(image_size=84),
    regions=RegionConfig(encoders=("crop",), crop_size=56, tokens=16),
    data=DataConfig(source="phantom", families={"vqa": 0.5, "identify": 0.5}),
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99),
    train=TrainConfig(duration="300 steps", batch_size=32, checkpoint_every="100 steps"),
    evaluation=EvaluationConfig(families=("vqa", "identify"), max_examples=300),
)

mix = {
    "asked": MixPart("phantom", families={"vqa": 1.0}),
    "marked": MixPart(
        "phantom",
        families={"identify": 1.0},
        anneal=((0.8, 0.0), (1.0, 0.5)),
        policy=PolicyConfig(shown=1.0, wrong=0.0),
    ),
}

config = Curriculum(
    {
        "whole": Stage(base),
        "adapters": Stage(
            replace(
                base,
                lora=LoraConfig(rank=12, alpha=32, targets=("q", "k", "v", "o", "up", "down")),
                data=replace(base.data, mix=mix),
                optimizer=replace(base.optimizer, schedule="constant", warmup="0 steps", weight_decay=0.0),
                train=replace(base.train, duration="150 steps", batch_size=24, accumulate=4),
            )
        ),
    }
)
