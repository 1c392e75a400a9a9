"""A small data set to prepare, and what tests do with prepared ones."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.images.reading import fetched
from data_pipelines.prepared import runners
from data_pipelines.prepared.preparation import prepare
from data_pipelines.records import StoredImage
from data_pipelines.sources import registry


def row(number, **changes):
    record = {
        "id": str(number),
        "image": f"images/{number % 4}.png",
        "question": f"What is marked {number}?",
        "answer": "A mass",
        "regions": [{"box": [8, 8, 20, 20], "label": "Mass", "mask": "mask.png", "mask_level": 9}],
        "turns": [{"question": "Which modality?", "answer": "CT"}],
        "choices": ["A mass", "Nothing"],
        "labels": ["Mass"],
    }
    return record | changes


def make_source(root):
    """A folder of JSON Lines with 12 questions on four noisy images, and one mask."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / f"images/{number}.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:20] = 9
    Image.fromarray(mask).save(root / "mask.png")
    write_rows(root, *(row(number) for number in range(12)))
    return root


def write_rows(root, *rows, split="train"):
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))


def in_process(shards):
    runners.run_processes(shards, workers=1)


def prepared(root, out, name="jsonl", run=in_process, **options):
    return prepare(registry.SOURCES.get(name, setting="NAME"), root=str(root), out=str(out), run=run, **options)


def content(folder):
    """Every file below a folder by name, with its SHA-256."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def without_places(records):
    """Records with what an image or a mask holds in place of where it lies."""

    def bare(record):
        regions = tuple(
            replace(region, mask=region.mask and (encoded(region.mask.path), region.mask.level))
            for region in record.regions
        )
        return replace(record, image=encoded(record.image), regions=regions)

    return [bare(record) for record in records]


def encoded(image):
    if isinstance(image, bytes):
        return image
    return fetched(image) if isinstance(image, StoredImage) else Path(image).read_bytes()
