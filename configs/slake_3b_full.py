"""SLAKE in English, every parameter of PaliGemma 3B trained, with regions: eight devices or a multiple of eight.

python -m rllava_jax.main --config configs/slake_3b_full.py --workdir runs/slake_3b_full \
    --config.init.checkpoint=models/pt-224 --config.data.root=DIR

Fits eight 16-GB v5e chips, 8 examples a chip (docs/SCALING.md): parameters and Adam's moments stay in float32, as full
fine-tuning wants them, cut over each eight devices; arithmetic is in bfloat16. On sixteen devices and more, copies of
that share the batch. Another number: --config.mesh.fsdp=4; to cut over all of them: --config.mesh.data=1
--config.mesh.fsdp=-1. Epochs and learning rate are those of PaliGemma's transfers to small data sets, with decay of a
tenth of the rate; the region branch, which starts from random weights, learns ten times as fast, this project's choice.
No run at this size stands behind this file yet.
"""

from rllava_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    RegionConfig,
    TrainConfig,
)

config = Config(
    model=ModelConfig(size="checkpoint", param_dtype="float32", remat="full"),
    regions=RegionConfig(encoders=("crop", "loc"), crop_size=224, tokens=16, crop_context=1.5),
    data=DataConfig(
        source="slake",
        text_length=64,
        threads=8,
        policy=PolicyConfig(shown_by_family={"identify": 0.9, "verify": 0.9, "choose": 0.9}),
        augment=AugmentConfig(box_jitter=0.1, brightness=0.1, contrast=0.2),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-5, learning_rate_scale={"roi/.*": 10.0}, weight_decay=1e-6),
    train=TrainConfig(duration="15 epochs", batch_size=64, checkpoint_every="1 epochs", evaluate_every="1 epochs"),
    evaluation=EvaluationConfig(batch_size=64),
    mesh=MeshConfig(data=-1, fsdp=8),
)
