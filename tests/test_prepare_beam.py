"""Apache Beam writes the shards that processes write. Beam lives in an environment of its own (tests/beam.txt)."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.prepare import main

_ROOT = Path(__file__).parents[1]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def command(tmp_path):
    """The command line's arguments for four images in two shards, but for --out."""
    root = tmp_path / "source"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (830, 830, 3), np.uint8)).save(root / f"{number}.png")
    rows = [{"id": str(n), "image": f"{n % 4}.png", "question": "Is it?", "answer": "Yes"} for n in range(8)]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["jsonl", "--source", str(root)]


def test_without_beam_the_error_says_how_to_get_it(command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "out"), "--runner", "DirectRunner"]) == 2
    assert "--runner: needs Apache Beam" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_beam_writes_the_same_bytes_as_processes_do(command, tmp_path, mode):
    python = os.environ.get("RLLAVA_BEAM_PYTHON")
    if not python:
        pytest.skip("needs Apache Beam: install tests/beam.txt apart and name its Python in RLLAVA_BEAM_PYTHON")
    options = ["--runner", "DirectRunner", "--beam-option=--direct_num_workers=2"]
    options.append(f"--beam-option=--direct_running_mode={mode}")
    done = subprocess.run(
        [python, "-m", "data_pipelines.prepare", *command, "--out", str(tmp_path / "beam/set"), *options],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert main([*command, "--out", str(tmp_path / "processes/set"), "--workers", "1"]) == 0
    assert content(tmp_path / "beam/set") == content(tmp_path / "processes/set")
