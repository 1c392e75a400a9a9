"""How long `python -m rllava_jax.evaluate` takes to score many predictions under `strict`, on one core.

    python benchmarks/scoring_speed.py                     # 100,000 predictions on 20,000 images
    python benchmarks/scoring_speed.py --images 100000     # every question with an image of its own: the slowest case

Writes questions and answers to a temporary folder and runs the command on them, reading, intervals of 1,000 resamples
by image and writing included. Answers are half right; nearly every open answer is a text of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rllava_jax import evaluate

_WORDS = [
    "left", "right", "upper", "lower", "lobe", "lung", "liver", "kidney", "spleen", "heart", "pleural", "effusion",
    "mass", "nodule", "opacity", "the", "of", "in", "with", "no", "X-ray", "MRI", "T2-weighted", "contrast", "fracture",
    "cardiomegaly", "pneumothorax", "edema", "cyst", "lesion",
]  # fmt: skip


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, 8)))


def write_files(folder: Path, *, questions: int, images: int, seed: int = 0) -> tuple[Path, Path]:
    """questions.jsonl and answers.jsonl: three in five closed, of these one in ten not yes or no."""
    rng = random.Random(seed)
    asked, answered = [], []
    for number in range(questions):
        closed = rng.random() < 0.6
        answer = rng.choice(("yes", "no", "Yes", "No ")) if closed and rng.random() < 0.9 else _text(rng)
        given = answer if rng.random() < 0.5 else rng.choice(("yes", "no")) if closed else _text(rng)
        asked.append(
            {
                "id": f"q{number}",
                "question": f"What is shown in {number}?",
                "answer": answer,
                "answer_type": "closed" if closed else "open",
                "image_id": f"i{number % images}",
                "modality": rng.choice(("CT", "MRI", "X-ray")),
            }
        )
        answered.append({"id": f"q{number}", "answer": given})
    rng.shuffle(answered)
    paths = folder / "questions.jsonl", folder / "answers.jsonl"
    for path, rows in zip(paths, (asked, answered), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def measure(*, questions: int, images: int, bootstrap: int) -> tuple[float, float]:
    """Seconds of wall clock, and of processor time, that the command takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked, answered = write_files(folder, questions=questions, images=images)
        command = ["--predictions", str(answered), "--references", str(asked), "--out", str(folder / "scores")]
        wall, used = time.perf_counter(), time.process_time()
        status = evaluate.main([*command, "--bootstrap", str(bootstrap)])
        if status:
            raise SystemExit(status)
        return time.perf_counter() - wall, time.process_time() - used


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--predictions", type=int, default=100_000, metavar="N", help="default: 100000")
    parser.add_argument("--images", type=int, default=20_000, metavar="N", help="default: 20000")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples (default: 1000)")
    options = parser.parse_args(argv)
    wall, used = measure(questions=options.predictions, images=options.images, bootstrap=options.bootstrap)
    print(
        f"{options.predictions:,} predictions on {options.images:,} images, {options.bootstrap:,} resamples: "
        f"{wall:.1f} s ({used:.1f} s of processor time), {options.predictions / wall:,.0f} a second"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
