"""Questions on SLAKE to batches: this project's loader, and torch's DataLoader with the Hugging Face processor.

Both read the same JPEG files, make images of the same side with the same filter, tokenise the same texts with the
same tokenizer, and have two processes' or threads' worth of work going on at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.records import VQAExample
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax.config import Config, DataConfig, EvaluationConfig, ModelConfig, RegionConfig
from rllava_jax.inference.run_data import RunData, load_run_data
from speed.torchvision_import import import_torchvision

BATCH, BATCHES, WORKERS = 16, 16, 2
OURS, OURS_UNCACHED, OURS_REGIONS = "rllava_jax", "rllava_jax without image cache", "rllava_jax with region crops"
TORCH_FAST, TORCH_PILLOW = "DataLoader, torchvision processor", "DataLoader, Pillow processor"
PIPELINES = (OURS, OURS_UNCACHED, OURS_REGIONS, TORCH_FAST, TORCH_PILLOW)


class Seconds(float):
    """What a task took, where it measures itself."""


def open_pipeline(name: str, folder: Path, data: Path, side: int = 224) -> tuple[Callable[[], Seconds], dict[str, Any]]:
    """The function to time: seconds that `BATCHES` batches take once the first one is there."""
    tokenizer = Tokenizer.load(folder / "published" / "tokenizer.model")
    regions = name == OURS_REGIONS
    cache = 0 if name == OURS_UNCACHED else 1024
    task = load_run_data(_config(data, side=side, regions=regions, cache_mb=cache), tokenizer=tokenizer)
    if name.startswith("rllava_jax"):
        start = 0

        def batches() -> Iterator[Any]:
            nonlocal start
            start += 1
            return _ours(task, seed=start)
    else:
        processor = _processor(folder / "published", side=side, torchvision=name == TORCH_FAST)

        def batches() -> Iterator[Any]:
            return _dataloader(task.train, processor)

    def run() -> Seconds:
        iterator = batches()
        next(iterator)
        started = time.perf_counter()
        for _ in range(BATCHES):
            next(iterator)
        taken = Seconds(time.perf_counter() - started)
        if hasattr(iterator, "close"):
            iterator.close()
        return taken

    run()
    return run, {}


def _config(data: Path, *, side: int, regions: bool, cache_mb: int) -> Config:
    return Config(
        # The size says nothing here but the side of the image.
        model=ModelConfig(image_size=side),
        regions=RegionConfig() if regions else RegionConfig(encoders=()),
        data=DataConfig(
            source="slake",
            root=str(data),
            families={"vqa": 1.0},
            text_length=192,
            threads=WORKERS,
            image_cache_mb=cache_mb,
        ),
        evaluation=EvaluationConfig(families=("vqa",)),
    )


def _ours(task: RunData, *, seed: int) -> Iterator[Any]:
    from data_pipelines.loading.loader import training_iterator

    data = task.preprocessor.data
    return training_iterator(
        task.train, task.preprocessor, families=data.families, batch_size=BATCH, seed=seed, data=data
    )


def _dataloader(examples: list[VQAExample], processor: Any) -> Iterator[Any]:
    import torch
    from PIL import Image

    def collate(rows: list[VQAExample]) -> Any:
        return processor(
            images=[Image.open(row.image).convert("RGB") for row in rows],
            text=[f"<image>answer {row.language} {row.question}" for row in rows],
            suffix=[row.answer for row in rows],
            padding="longest",
            return_tensors="pt",
        )

    return iter(
        torch.utils.data.DataLoader(
            examples, batch_size=BATCH, shuffle=True, num_workers=WORKERS, collate_fn=collate, drop_last=True
        )
    )


def _processor(folder: Path, *, side: int, torchvision: bool) -> Any:
    """The folder's processor; its image part on torchvision, which is transformers' default, or on Pillow."""
    import_torchvision()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, backend="torchvision" if torchvision else "pil")
    processor.image_processor.size = {"height": side, "width": side}
    processor.image_seq_length = processor.image_processor.image_seq_length = (side // 14) ** 2
    return processor
