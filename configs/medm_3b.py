"""MedM: PaliGemma for radiology. SLAKE, then ROCOv2 with a little MedPix 2.0 spliced in late.

python -m rllava_jax.main --config configs/medm_3b.py --workdir runs/medm_3b \
    --config.init.checkpoint=models/mix-448 --config.data.root=SLAKE

LoRA, the constant learning rate without decay and the batch of 6 x 16 are MedM's; so are the 5 epochs of SLAKE. How
long the second stage is, and when and how much of MedPix comes in, are choices of this file: one epoch, and over its
last fifth up to a third of the examples. The micro-batch of 6 divides over 1, 2, 3 or 6 devices.

MedM trains on question-answer pairs that a language model wrote from the captions. This file reads the captions
themselves (`prepared/roco_v2`, `prepared/medpix`); point the two roots at prepared pairs to train on those:
--config.stages.roco.data.mix.roco.root=DIR. No run at this size stands behind this file yet.
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
    RegionConfig,
    Stage,
    TrainConfig,
)

base = Config(
    model=ModelConfig(size="checkpoint", remat="full"),
    lora=LoraConfig(rank=12, alpha=32, targets=("q", "k", "v", "o", "up", "down")),
    regions=RegionConfig(encoders=()),
    data=DataConfig(source="slake", families={"vqa": 1.0}, text_length=64, threads=8),
    optimizer=OptimizerConfig(learning_rate=1e-5, schedule="constant", warmup="0 steps", weight_decay=0.0),
    train=TrainConfig(duration="5 epochs", batch_size=96, accumulate=16, checkpoint_every="500 steps"),
    evaluation=EvaluationConfig(conditions=("none", "blank"), families=("vqa",), batch_size=24),
)

mix = {
    "roco": MixPart("prepared", "prepared/roco_v2"),
    "medpix": MixPart("prepared", "prepared/medpix", anneal=((0.8, 0.0), (1.0, 0.5))),
}

config = Curriculum(
    {
        "slake": Stage(base, evaluate=True),
        "roco": Stage(
            replace(
                base,
                data=replace(base.data, mix=mix, text_length=256, long_examples_allowed=1000),
                train=replace(base.train, duration="1 epochs"),
            )
        ),
    }
)
