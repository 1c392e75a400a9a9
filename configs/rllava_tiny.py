"""The stages of rllava_3b with the tiny size, from scratch on SLAKE: align → instruct → task, on two cores.

python -m rllava_jax.main --config configs/rllava_tiny.py --workdir runs/rllava_tiny --config.data.root=SLAKE

The tiny size begins with random weights, so every stage trains all of them. Align: marked structures alone are named.
Instruct: the region questions of all families and SLAKE's own, a region in one third. Task: slake_tiny's mix, with a
tenth of the regions wrong. Together they have 3,000 steps at 56 pixels, a quarter of an hour; docs/RESULTS.md compares
them with as many steps of the last stage's mix alone.
"""

from dataclasses import replace

from rllava_jax.config import (
    AugmentConfig,
    Config,
    Curriculum,
    DataConfig,
    MixPart,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    Stage,
    TrainConfig,
)

base = Config(
    # As slake_tiny, and for its reasons, with 16 image tokens in place of 36; the crop keeps the detail.
    model=ModelConfig(image_size=56),
    regions=RegionConfig(encoders=("crop",), crop_size=56, tokens=16, crop_context=1.5),
    data=DataConfig(
        source="slake",
        families={"vqa": 0.3, "identify": 0.4, "localise": 0.05, "verify": 0.1, "choose": 0.15},
        policy=PolicyConfig(shown_by_family={"identify": 0.9, "verify": 0.9, "choose": 0.9}, wrong=0.1),
        augment=AugmentConfig(box_jitter=0.12, brightness=0.15, contrast=0.3),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, b2=0.99, weight_decay=2e-4, weight_decay_on=(r"(img|roi|llm)/.*",)),
    train=TrainConfig(batch_size=32, checkpoint_every="250 steps"),
)

shown = PolicyConfig(shown=1.0, wrong=0.0)
named = MixPart("slake", families={"identify": 1.0}, policy=shown)
marked = replace(named, families={"identify": 0.6, "localise": 0.1, "verify": 0.1, "choose": 0.2})
asked = MixPart("slake", families={"vqa": 1.0}, weight=2.0, policy=PolicyConfig(shown=0.0))

config = Curriculum(
    {
        "align": Stage(
            replace(
                base,
                data=replace(base.data, mix={"named": named}),
                train=replace(base.train, duration="500 steps"),
            )
        ),
        "instruct": Stage(
            replace(
                base,
                data=replace(base.data, mix={"asked": asked, "marked": marked}),
                train=replace(base.train, duration="1000 steps"),
            )
        ),
        "task": Stage(replace(base, train=replace(base.train, duration="1500 steps"))),
    }
)
