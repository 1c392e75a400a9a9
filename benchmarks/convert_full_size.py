"""Memory and time of conversion at full size, on a folder of random numbers written for the trial.

    python benchmarks/convert_full_size.py --folder /tmp/trial            # about 25 GB of disk, ten minutes

Writes a PaliGemma 3B (224 pixels) in bfloat16 as Hugging Face publishes it (shards, index, 257,216 rows), takes it
through `convert import`, `export` to a folder, `export` to .npz and `import` of that, each in a process of its own, and
prints seconds and peak resident memory of each. At the end every tensor that came out is compared with what went in.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import ModelConfig
from rllava_jax.interop.huggingface_config import config_json
from rllava_jax.interop.import_checkpoint import expected_shapes
from rllava_jax.interop.layout import exported, spellings
from rllava_jax.interop.shards import write_shards
from rllava_jax.model.sizes import PaliGemmaConfig, model_size

ROWS, IMAGE_TOKEN, TEXT_PIECES = 257_216, 257_152, 256_000


def random_tensors(size: PaliGemmaConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a model, filled with random bits that are bfloat16 numbers."""
    generator = np.random.default_rng(seed)
    shapes = expected_shapes(size, None)
    for spelling in spellings(size, shapes):
        ours = shapes[spelling.ours]
        shape = spelling.their_shape(ours)
        for layer in range(ours[0]) if spelling.layered else (0,):
            # Sign and mantissa at random around an exponent of 2^-6: incompressible, finite, of a weight's magnitude.
            bits = generator.integers(0, 2**16, shape, np.uint16)
            values = ((bits & 0x807F) | (0x3C80 + (bits & 0x0100))).view(ml_dtypes.bfloat16)
            yield exported(spelling.theirs.format(layer=layer)), values


def write_tokenizer(path: Path) -> None:
    """A SentencePiece model of 256,000 pieces, most of them never used: PaliGemma's own may not be passed on."""
    train_tokenizer(["answer en which organ is shown?", "liver"] * 20, path, vocab_size=330)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    kept = [piece for piece in model.pieces if not piece.piece.startswith(("<loc", "<seg"))]
    model.ClearField("pieces")
    model.pieces.extend(kept)
    for number in range(TEXT_PIECES - len(kept)):
        model.pieces.add(piece=f"unused{number}", score=-1e6 - number)
    model.trainer_spec.vocab_size = len(model.pieces)
    path.write_bytes(model.SerializeToString())


def measured(name: str, command: list[str]) -> None:
    """Runs a conversion and prints its seconds and peak memory."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "rllava_jax.convert", *command], stdout=subprocess.DEVNULL)
    # The kernel's high-water mark, read while the process lives: what wait4 reports also counts this process' own
    # memory at the fork.
    while process.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]))
    if process.returncode:
        raise SystemExit(f"{name} failed")
    seconds = time.perf_counter() - started
    print(f"{name:<28} {seconds:7.0f} s   peak {peak / 2**20:5.2f} GiB", flush=True)


def digests(folder: Path) -> dict[str, str]:
    """A hash of every tensor of a folder."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(file, "np") as opened:
            for key in opened.keys():  # noqa: SIM118
                out[key] = hashlib.sha256(opened.get_tensor(key).view(np.uint16).tobytes()).hexdigest()
    return out


def main() -> None:
    """The trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder for the trial's files")
    parser.add_argument("--size", default="paligemma-3b-224", help="default: paligemma-3b-224")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    size = model_size(ModelConfig(options.size, vocab=ROWS))
    source = options.folder / "published"
    source.mkdir(parents=True)
    total = write_shards(source, random_tensors(size, options.seed), shard_bytes=5 * 10**9)
    (source / "config.json").write_text(
        json.dumps(config_json(size, rows=ROWS, image_token=IMAGE_TOKEN, dtype="bfloat16"))
    )
    write_tokenizer(source / "tokenizer.model")
    largest = ROWS * size.decoder.width * 2
    print(f"{options.size}, bfloat16: {total / 2**30:.2f} GiB, largest tensor {largest / 2**30:.2f} GiB", flush=True)
    checkpoint, back = str(options.folder / "checkpoint"), options.folder / "exported"
    npz, again = str(options.folder / "exported.npz"), str(options.folder / "again")
    measured("import, Hugging Face folder", ["import", str(source), checkpoint])
    measured("export, Hugging Face folder", ["export", checkpoint, str(back)])
    same = digests(source) == digests(back)
    print(f"every tensor came back bit for bit: {same}", flush=True)
    measured("export, big_vision .npz", ["export", checkpoint, npz])
    measured("import, big_vision .npz", ["import", npz, again, "--tokenizer", str(source / "tokenizer.model")])
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
