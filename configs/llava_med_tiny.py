"""The stages of llava_med_3b with the tiny size, on phantoms drawn on the spot: minutes on two cores.

    python -m rllava_jax.main --config configs/llava_med_tiny.py --workdir runs/llava_med_tiny

Conversations and captions have no phantom; questions about the marked structures stand for them. The tiny size begins
with random weights, which a projection alone cannot align: this shows that the stages run, not what they are worth.
"""

from dataclasses import replace

from rllava_jax.config import (
    Config,
    Curriculum,
    DataConfig,
    EvaluationConfig,
    MixPart,
    ModelConfig,
    OptimizerConfig,
    RegionConfig,
    Stage,
    TrainConfig,
)

base = Config(
    model=ModelConfig(image_size=84),
    regions=RegionConfig(encoders=("loc",)),
    data=DataConfig(source="phantom", families={"vqa": 1.0}, text_length=48),
    optimizer=OptimizerConfig(b2=0.99, weight_decay=0.0, warmup="3 percent"),
    train=TrainConfig(batch_size=32, checkpoint_every="100 steps"),
    evaluation=EvaluationConfig(conditions=("right", "none", "blank"), families=("vqa",), max_examples=300),
)

captions = MixPart("phantom", families={"identify": 1.0})
conversations = MixPart("phantom", families={"vqa": 0.5, "identify": 0.5})

config = Curriculum(
    {
        "align": Stage(
            replace(
                base,
                data=replace(base.data, mix={"captions": captions}),
                optimizer=replace(base.optimizer, learning_rate=2e-3, trainable=("img/head/.*",)),
                train=replace(base.train, duration="50 steps"),
            )
        ),
        "instruct": Stage(
            replace(
                base,
                data=replace(base.data, mix={"conversations": conversations}),
                optimizer=replace(base.optimizer, learning_rate=1e-3, trainable=("img/head/.*", "llm/.*")),
                train=replace(base.train, duration="150 steps"),
            )
        ),
        "task": Stage(
            replace(
                base,
                optimizer=replace(base.optimizer, learning_rate=1e-3),
                train=replace(base.train, duration="200 steps"),
            )
        ),
    }
)
