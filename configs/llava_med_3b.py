"""LLaVA-Med's three stages (arXiv 2306.00890) on published PaliGemma weights: align → instruct → task.

python -m rllava_jax.main --config configs/llava_med_3b.py --workdir runs/llava_med_3b \
    --config.init.checkpoint=models/pt-224 --config.data.root=SLAKE

Align: the projection alone learns from captions. Instruct: projection and language model learn from conversations.
Task: the same parameters on SLAKE. Batch sizes, learning rates and epochs of the first two stages are LLaVA-Med's; the
third has the second's learning rate and 9 epochs, the most that LLaVA-Med reports. The two prepared sets are looked for
where `prepared/…` says; elsewhere: --config.stages.align.data.mix.captions.root=DIR. No run at this size stands behind
this file yet.
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
    model=ModelConfig(size="checkpoint", remat="full"),
    regions=RegionConfig(encoders=()),
    # Every stage is checked against the test images of SLAKE, which the last one is asked about.
    data=DataConfig(source="slake", families={"vqa": 1.0}, text_length=256, long_examples_allowed=5000, threads=8),
    optimizer=OptimizerConfig(weight_decay=0.0, warmup="3 percent"),
    train=TrainConfig(batch_size=128, accumulate=4, checkpoint_every="500 steps"),
    evaluation=EvaluationConfig(conditions=("none", "blank"), families=("vqa",), batch_size=32),
)

captions = MixPart("prepared", "prepared/llava_med_alignment")
conversations = MixPart("prepared", "prepared/llava_med_instruct", split="60k")

config = Curriculum(
    {
        "align": Stage(
            replace(
                base,
                data=replace(base.data, mix={"captions": captions}),
                optimizer=replace(base.optimizer, learning_rate=2e-3, trainable=("img/head/.*",)),
                train=replace(base.train, duration="1 epochs"),
            )
        ),
        "instruct": Stage(
            replace(
                base,
                data=replace(base.data, mix={"conversations": conversations}, text_length=768),
                optimizer=replace(base.optimizer, learning_rate=2e-5, trainable=("img/head/.*", "llm/.*")),
                train=replace(base.train, duration="3 epochs", accumulate=16),
            )
        ),
        "task": Stage(
            replace(
                base,
                data=replace(base.data, text_length=64),
                optimizer=replace(base.optimizer, learning_rate=2e-5, trainable=("img/head/.*", "llm/.*")),
                train=replace(base.train, duration="9 epochs"),
            )
        ),
    }
)
