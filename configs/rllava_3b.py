"""R-LLaVA's way on published PaliGemma weights: align → instruct, a region in one third → task, some regions wrong.

python -m rllava_jax.main --config configs/rllava_3b.py --workdir runs/rllava_3b \
    --config.init.checkpoint=models/pt-224 --config.data.root=SLAKE

Align: projection and region branch learn from captions and from marked structures. Instruct: two thirds conversations
without a region, one third questions about a marked one. Task: SLAKE with its own questions, a region in one third of
those that have one, and of these a tenth wrong on purpose, so that the model learns to distrust a hint. The learning
rates are LLaVA-Med's. The two prepared sets are looked for where `prepared/…` says; elsewhere:
--config.stages.align.data.mix.captions.root=DIR. No run at this size stands behind this file yet.
"""

from dataclasses import replace

from rllava_jax.config import (
    AugmentConfig,
    Config,
    Curriculum,
    DataConfig,
    EvaluationConfig,
    MixPart,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    Stage,
    TrainConfig,
)

base = Config(
    model=ModelConfig(size="checkpoint", remat="full"),
    regions=RegionConfig(encoders=("crop", "loc"), crop_size=224, tokens=16, crop_context=1.5),
    data=DataConfig(
        source="slake",
        text_length=256,
        long_examples_allowed=5000,
        threads=8,
        augment=AugmentConfig(box_jitter=0.1, brightness=0.1, contrast=0.2),
    ),
    optimizer=OptimizerConfig(weight_decay=0.0, warmup="3 percent"),
    train=TrainConfig(batch_size=128, accumulate=8, checkpoint_every="500 steps"),
    evaluation=EvaluationConfig(batch_size=32),
)

shown = PolicyConfig(shown=1.0, wrong=0.0)
marked = MixPart("slake", families={"identify": 0.4, "localise": 0.2, "verify": 0.2, "choose": 0.2}, policy=shown)
captions = MixPart("prepared", "prepared/llava_med_alignment", weight=9.0)
conversations = MixPart("prepared", "prepared/llava_med_instruct", split="60k", weight=2.0)

config = Curriculum(
    {
        "align": Stage(
            replace(
                base,
                data=replace(base.data, mix={"captions": captions, "marked": marked}),
                optimizer=replace(base.optimizer, learning_rate=2e-3, trainable=("img/head/.*", "roi/.*")),
                train=replace(base.train, duration="1 epochs"),
            )
        ),
        "instruct": Stage(
            replace(
                base,
                data=replace(base.data, mix={"conversations": conversations, "marked": marked}, text_length=768),
                optimizer=replace(base.optimizer, learning_rate=2e-5, trainable=("(img/head|roi|llm)/.*",)),
                train=replace(base.train, duration="3 epochs", accumulate=32),
            )
        ),
        "task": Stage(
            replace(
                base,
                data=replace(
                    base.data,
                    text_length=64,
                    policy=PolicyConfig(shown_by_family={"identify": 0.9, "verify": 0.9, "choose": 0.9}, wrong=0.1),
                ),
                optimizer=replace(base.optimizer, learning_rate=2e-5, trainable=("(img/head|roi|llm)/.*",)),
                train=replace(base.train, duration="5 epochs"),
            )
        ),
    }
)
