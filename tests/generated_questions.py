"""The command that writes questions from captions, as tests run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ORGANS = ("liver", "left kidney", "spleen", "right lung", "pancreas", "brain stem")
FINDINGS = ("cyst", "mass", "calcification")
ROOT = Path(__file__).parents[1]


def caption_of(number):
    finding, organ = FINDINGS[number % len(FINDINGS)], ORGANS[number % len(ORGANS)]
    return f"Axial computed tomography of patient group {number} shows a {finding} in the {organ}."


def write_captions(path, count=3, **changes):
    """So many captions in a JSON Lines file, whose path is returned."""
    rows = ({"id": f"c{n}", "image": f"images/{n}.png", "caption": caption_of(n), **changes} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(captions, out, server=None, *more, kinds="open"):
    endpoint = () if server is None else ("--endpoint", server.url)
    return ["--captions", str(captions), "--out", str(out), "--model", "m", "--kinds", kinds, *endpoint, *more]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(out):
    return json.loads((out / "summary.json").read_text())


def run_command(*command, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", "data_pipelines.generate_qa", *command],
        cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
